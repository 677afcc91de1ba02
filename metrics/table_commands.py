"""`calc_metrics.py protocol`, `gen` and `table`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

import dnnlib.cli
from dnnlib.effects import refuse_unused, was_given
from dnnlib.errors import UserError
from dnnlib.params import SEED, InputOr, Option, OutputFolder, Whole
from metrics.commands import (
    CLIPS,
    DATA,
    JSON,
    METHODS,
    SOURCES,
    bfm_option,
    cache_option,
    check_needed,
    is_baseline,
    methods_option,
    named_paths,
    network_options,
    protocol_data_option,
    protocol_option,
    say,
)
from metrics.generate import drop_claim

# What is heavy is imported when it is called, so that --help is quick.

_FILES = ("folder", "vfhq", "voxceleb1", "talkinghead1kh")  # layouts of videos and frames
_TABLE = OutputFolder("table.*", "per_clip.png")
_COUNT = Whole(0, 1_000_000)


@dnnlib.cli.command("protocol")
@click.option(
    "--layout",
    required=True,
    type=click.Choice(["heads", *_FILES]),
    help="How the data names clips and people; heads: a dataset of dataset_tool.py.",
)
@click.option("--data", required=True, type=DATA, help="Dataset, or folder of clips.")
@click.option("--out", required=True, type=JSON, help="Protocol file to write, .json.")
@click.option("--name", help="Name that is printed with scores; default: the file's name.")
@click.option("--same", default=50, type=_COUNT, help="Same-identity pairs, at most.")
@click.option("--cross", default=50, type=_COUNT, help="Cross-identity pairs.")
@click.option("--frames", default=50, type=Whole(1, 1_000_000), help="Driving frames a pair.")
@click.option("--step", default=1, type=Whole(1, 1_000_000), help="Every n-th driving frame.")
@click.option(
    "--resolution",
    cls=Option,
    only_with={"layout": _FILES},
    default=256,
    type=Whole(32, 4096),
    help="Pixels; heads: its own.",
)
@click.option(
    "--split",
    cls=Option,
    only_with={"layout": ("heads",)},
    default="test",
    type=click.Choice(["train", "val", "test", "all"]),
    help="Of a dataset.",
)
@click.option("--seed", default=0, type=SEED, help="Of the choice of pairs.")
def protocol_command(
    layout: str,
    data: Path,
    out: Path,
    name: str | None,
    same: int,
    cross: int,
    frames: int,
    step: int,
    resolution: int,
    split: str,
    seed: int,
) -> None:
    """Draw the pairs of a comparison and write them to a file."""
    from metrics.protocols import build_protocol

    if same + cross == 0:
        raise UserError("--same 0 --cross 0 leaves no pairs; ask for at least one")
    made = build_protocol(
        layout,
        data,
        name or out.stem,
        n_same=same,
        n_cross=cross,
        n_frames=frames,
        step=step,
        resolution=resolution,
        seed=seed,
        split=None if split == "all" else split,
    )
    made.save(out)
    click.echo(
        f"wrote {out}: {len(made.ids('same'))} same-identity and {len(made.ids('cross'))} cross-identity pairs, "
        f"sha256 {made.sha256[:12]}"
    )


@dnnlib.cli.command("gen")
@protocol_option
@click.option("--data", required=True, type=DATA, help="The protocol's dataset or folder.")
@click.option(
    "--method",
    required=True,
    type=InputOr(METHODS, "a checkpoint of train.py"),
    metavar="CHECKPOINT|truth|copy|blur|floor:PX",
    help="A network, the driving frames, the source picture, the driving frames blurred or through so many pixels.",
)
@click.option(
    "--out", required=True, type=OutputFolder(), help="Folder for a folder of frames per pair."
)
@dnnlib.cli.device_option("Of the network.")
@bfm_option
@dnnlib.cli.set_option
def gen_command(
    protocol_path: Path,
    data: Path,
    method: str,
    out: Path,
    device: str,
    bfm_weights: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Make a method's frames for a protocol; goes on where it was stopped."""
    from metrics.footage import open_footage
    from metrics.generate import Method, generate
    from metrics.protocols import load_protocol
    from torch_utils import distributed

    protocol = load_protocol(protocol_path)
    for name in ("device", "overrides", "bfm_weights"):
        refuse_unused(name, unless=not is_baseline(method), when=f"with --method {method}")
    maker = Method.load(method, device, overrides)
    space = "arkit52" if maker.network is None else maker.network.space.name
    needed = space == "bfm64" and protocol.layout != "heads"
    refuse_unused("bfm_weights", needed, f"with {protocol.layout} and the space {space}")
    footage = open_footage(protocol, data, protocol.resolution, space, bfm_weights)
    with distributed.session("cpu"):
        failures = generate(maker, protocol, footage, out, say)
    for failure in failures:
        click.echo(f"failed      {failure}")
    if len(failures) == len(protocol.pairs):
        drop_claim(out)
        raise UserError(
            f"no pair of {protocol.name} could be made from {data}: {failures[0]}; give data of these clips"
        )
    click.echo(f"wrote {out}: {len(protocol.pairs) - len(failures)} pairs, {len(failures)} failed")


@dnnlib.cli.command("table")
@methods_option("; the first is ours", required=True)
@protocol_option
@protocol_data_option
@click.option("--ref", type=CLIPS, help="Instead of --data: folder of reference clips.")
@click.option("--source", type=SOURCES, help="Instead of --data: folder of source pictures.")
@click.option("--out", required=True, type=_TABLE, help="Folder for table.md .tex .csv .json.")
@click.option("--same", default="psnr,ssim,akd,csim,aed", help="Metrics of same-identity pairs.")
@click.option("--cross", default="csim_source,aed", help="Metrics of cross-identity pairs.")
@network_options
@cache_option
@dnnlib.cli.set_option
def table_command(
    methods: tuple[tuple[str, str], ...],
    protocol_path: Path,
    data: Path | None,
    ref: Path | None,
    source: Path | None,
    out: Path,
    same: str,
    cross: str,
    weights: tuple[tuple[str, str], ...],
    device: str,
    cache: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Compare methods on a protocol: Markdown, LaTeX, CSV, JSON, and a plot of the clips."""
    from metrics.networks import Networks
    from metrics.protocols import MODES, load_protocol
    from metrics.table import make_table, parse_columns, protocol_columns
    from metrics.table_files import markdown, write_table
    from metrics.table_inputs import Inputs, prepare
    from torch_utils import distributed

    cache = cache or out / "cache"
    protocol = load_protocol(protocol_path)
    context = click.get_current_context()
    asked = [m for m in MODES if was_given(context, m)]
    columns = protocol_columns(parse_columns(same, cross), protocol, asked)
    named = named_paths(methods, "--method")
    given = named_paths(weights, "--weights")
    _check_used(named, [c.metric for c in columns], given, ref, source)
    with distributed.session(device) as place:
        inputs = Inputs(
            named,
            protocol,
            data=data,
            ref=ref,
            source=source,
            made=out / "frames",
            overrides=overrides,
            weights=given,
            device=place.type,
        )
        found = prepare(inputs, columns, say)
        table = make_table(
            found.methods,
            found.ref,
            found.source,
            protocol,
            columns,
            networks=Networks(given, place),
            cache=cache,
            failures=found.failures,
            say=say,
            scale=found.scale,
        )
        if distributed.is_main():
            paths = write_table(table, out)
            sys.stdout.write(markdown(table))
            click.echo("wrote " + ", ".join(str(p) for p in paths))


def _check_used(
    methods: Mapping[str, str],
    metrics: Sequence[str],
    weights: Mapping[str, str],
    ref: Path | None,
    source: Path | None,
) -> None:
    """Raises UserError for options that these methods and metrics have no use for."""
    from metrics.registry import get_metric

    made = [what for what in methods.values() if not Path(what).is_dir()]
    networks = [what for what in made if not is_baseline(what)]
    # deep3d also tracks the data of networks of its space
    check_needed(metrics, [n for n in weights if not (n == "deep3d" and networks)])
    refuse_unused("overrides", bool(networks), "without a network among the methods")
    no_source = source is None and any("source" in get_metric(m).needs for m in metrics)
    what = "where methods, references and sources are folders"
    refuse_unused("data", bool(made) or ref is None or no_source, what)
