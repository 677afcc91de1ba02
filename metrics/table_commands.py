"""`calc_metrics.py protocol`, `gen` and `table`."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from click.core import ParameterSource

import dnnlib.cli
from dnnlib.errors import UserError
from metrics.commands import PATH, cache_option, named_paths, network_options


def say(line: str) -> None:
    click.echo(line, err=True)


@dnnlib.cli.command("protocol")
@click.option(
    "--layout",
    required=True,
    type=click.Choice(["heads", "folder", "vfhq", "voxceleb1", "talkinghead1kh"]),
    help="How the data names clips and people; heads: a dataset of dataset_tool.py.",
)
@click.option("--data", required=True, type=PATH, help="Dataset, or folder of clips.")
@click.option("--out", required=True, type=PATH, help="Protocol file to write, .json.")
@click.option("--name", help="Name that is printed with scores; default: the file's name.")
@click.option("--same", default=50, type=click.IntRange(0), help="Same-identity pairs, at most.")
@click.option("--cross", default=50, type=click.IntRange(0), help="Cross-identity pairs.")
@click.option("--frames", default=50, type=click.IntRange(1), help="Driving frames a pair.")
@click.option("--step", default=1, type=click.IntRange(1), help="Every n-th driving frame.")
@click.option("--resolution", default=256, type=click.IntRange(32), help="Pixels; heads: its own.")
@click.option("--split", default="test", help="Of a dataset: train, val, test or all.")
@click.option("--seed", default=0, help="Of the choice of pairs.")
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
    from inference.output import check_writable
    from metrics.protocols import build_protocol

    check_writable(out)
    if same + cross == 0:
        raise UserError("--same 0 --cross 0 leaves no pairs; ask for at least one")
    made = build_protocol(
        *(layout, data, name or out.stem, same, cross, frames, step, resolution, seed),
        split=None if split == "all" else split,
    )
    made.save(out)
    click.echo(
        f"wrote {out}: {len(made.ids('same'))} same-identity and {len(made.ids('cross'))} cross-identity pairs, "
        f"sha256 {made.sha256[:12]}"
    )


@dnnlib.cli.command("gen")
@click.option("--protocol", "protocol_path", required=True, type=PATH, help="Protocol file.")
@click.option("--data", required=True, type=PATH, help="The protocol's dataset or folder.")
@click.option(
    "--method",
    required=True,
    metavar="CHECKPOINT|truth|copy|blur|floor:PX",
    help="A network, the driving frames, the source picture, the driving frames blurred or through so many pixels.",
)
@click.option("--out", required=True, type=PATH, help="Folder for a folder of frames per pair.")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Of the network."
)
@click.option("--bfm-weights", type=PATH, help="Deep3DFaceRecon's, for networks of bfm64.")
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
    from inference.output import check_folder
    from metrics.footage import open_footage
    from metrics.generate import Method, generate
    from metrics.protocols import load_protocol
    from torch_utils import distributed

    check_folder(out)
    protocol = load_protocol(protocol_path)
    maker = Method.load(method, device, overrides)
    space = "arkit52" if maker.network is None else maker.network.space.name
    footage = open_footage(protocol, data, protocol.resolution, space, bfm_weights)
    with distributed.session("cpu"):
        failures = generate(maker, protocol, footage, out, say)
    for failure in failures:
        click.echo(f"failed      {failure}")
    if len(failures) == len(protocol.pairs):
        raise UserError(f"{out} is empty: no pair of {protocol.name} could be made from {data}")
    click.echo(f"wrote {out}: {len(protocol.pairs) - len(failures)} pairs, {len(failures)} failed")


@dnnlib.cli.command("table")
@click.option(
    "--method",
    "methods",
    required=True,
    multiple=True,
    metavar="NAME=DIR|CHECKPOINT|copy|blur|floor",
    help="A folder of clips named as the protocol's pairs, a network, or a baseline; the first is ours; repeatable. "
    "floor: the truth through the first network's resolution, or floor:PX.",
)
@click.option("--protocol", "protocol_path", required=True, type=PATH, help="Protocol file.")
@click.option(
    "--data", type=PATH, help="The protocol's data; makes references and what is missing."
)
@click.option("--ref", type=PATH, help="Instead of --data: folder of reference clips.")
@click.option("--source", type=PATH, help="Instead of --data: folder of source pictures.")
@click.option("--out", required=True, type=PATH, help="Folder for table.md .tex .csv .json.")
@click.option("--same", default="psnr,ssim,akd,csim,aed", help="Metrics of same-identity pairs.")
@click.option("--cross", default="csim_source,aed", help="Metrics of cross-identity pairs.")
@network_options
@cache_option
@dnnlib.cli.set_option
def table_command(
    methods: tuple[str, ...],
    protocol_path: Path,
    data: Path | None,
    ref: Path | None,
    source: Path | None,
    out: Path,
    same: str,
    cross: str,
    weights: tuple[str, ...],
    device: str,
    cache: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Compare methods on a protocol: Markdown, LaTeX, CSV, JSON, and a plot of the clips."""
    from inference.output import check_folder
    from metrics.networks import Networks
    from metrics.protocols import MODES, load_protocol
    from metrics.table import make_table, parse_columns, protocol_columns
    from metrics.table_files import markdown, write_table
    from metrics.table_inputs import Inputs, prepare
    from torch_utils import distributed

    cache = cache or out / "cache"
    for folder in (out, cache):
        check_folder(folder)
    protocol = load_protocol(protocol_path)
    source_of = click.get_current_context().get_parameter_source
    asked = [m for m in MODES if source_of(m) is not ParameterSource.DEFAULT]
    columns = protocol_columns(parse_columns(same, cross), protocol, asked)
    named = named_paths(methods, "--method")
    given = named_paths(weights, "--weights")
    with distributed.session(device) as place:
        inputs = Inputs(
            *(named, protocol, data, ref, source, out / "frames", overrides, given, place.type)
        )
        found = prepare(inputs, columns, say)
        networks = Networks(given, place)
        table = make_table(
            found.methods,
            *(found.ref, found.source, protocol, columns, networks),
            cache=cache,
            failures=found.failures,
            say=say,
            scale=found.scale,
        )
        if distributed.is_main():
            paths = write_table(table, out)
            sys.stdout.write(markdown(table))
            click.echo("wrote " + ", ".join(str(p) for p in paths))
