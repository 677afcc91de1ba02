"""`calc_metrics.py follow`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

import dnnlib.cli
from dnnlib.effects import refuse_unused
from dnnlib.errors import UserError
from dnnlib.files import atomic_write, write_json
from dnnlib.params import OutputFolder
from metrics.commands import (
    CHECKPOINT,
    CLIPS,
    bfm_option,
    cache_option,
    is_baseline,
    methods_option,
    named_paths,
    protocol_data_option,
    protocol_option,
    say,
)

# What is heavy is imported when it is called, so that --help is quick.

if TYPE_CHECKING:
    from metrics.follow import Follow, FollowTable


_TABLE = OutputFolder("follow.md", "follow.json")


@dnnlib.cli.command("follow")
@click.option("--network", type=CHECKPOINT, help="Short for --method ours=CHECKPOINT.")
@methods_option(required=False)
@protocol_option
@protocol_data_option
@click.option("--ref", type=CLIPS, help="Instead of --data: folder of the driving clips.")
@click.option("--out", required=True, type=_TABLE, help="Folder for follow.md and follow.json.")
@dnnlib.cli.device_option("Of networks.")
@bfm_option
@cache_option
@dnnlib.cli.set_option
def follow_command(
    network: Path | None,
    methods: tuple[tuple[str, str], ...],
    protocol_path: Path,
    data: Path | None,
    ref: Path | None,
    out: Path,
    device: str,
    bfm_weights: Path | None,
    cache: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """How well results follow their driver: r and gain of each group of units, same and cross identity."""
    from metrics.follow import follow
    from metrics.networks import Networks
    from metrics.protocols import MODES, load_protocol
    from metrics.table import Column
    from metrics.table_inputs import Inputs, prepare
    from torch_utils import distributed

    cache = cache or out / "cache"
    ours = [] if network is None else [("ours", str(network))]
    named = named_paths([*ours, *methods], "--method")
    if not named:
        raise UserError(
            "there is nothing to measure; give --network CHECKPOINT or --method NAME=DIR"
        )
    _check_used(named)
    protocol = load_protocol(protocol_path)
    modes = [mode for mode in MODES if protocol.ids(mode)]
    given = {} if bfm_weights is None else {"deep3d": str(bfm_weights)}
    with distributed.session(device) as place:
        inputs = Inputs(
            named,
            protocol,
            data=data,
            ref=ref,
            source=None,
            made=out / "frames",
            overrides=overrides,
            weights=given,
            device=place.type,
        )
        found = prepare(inputs, [Column(mode, "aed") for mode in modes], say)
        table = follow(
            found.methods,
            found.ref,
            protocol,
            modes,
            networks=Networks(device=place),
            cache=cache,
            failures=found.failures,
            say=say,
        )
        if not distributed.is_main():
            return
        _write(table, out)


def _write(table: FollowTable, out: Path) -> None:
    text = markdown(table)
    with atomic_write(out / "follow.md", "w") as file:
        file.write(text)
    write_json(out / "follow.json", table.to_dict())
    click.echo(text)
    click.echo(f"wrote {out / 'follow.md'}, {out / 'follow.json'}")


def _check_used(methods: Mapping[str, str]) -> None:
    """Raises UserError for options that these methods have no use for."""
    made = [what for what in methods.values() if not Path(what).is_dir()]
    networks = [what for what in made if not is_baseline(what)]
    for name in ("overrides", "bfm_weights"):  # the device also measures
        refuse_unused(name, bool(networks), "without a network among the methods")


def markdown(table: FollowTable) -> str:
    """For each mode a table with a row per group of units; intervals where there are five clips."""
    from metrics.units import GROUPS

    lines: list[str] = []
    for mode in next(iter(table.results.values())):
        found = {method: modes[mode] for method, modes in table.results.items()}
        head = ["unit", *(f"{method} {what}" for method in found for what in ("r", "gain"))]
        lines += [f"{mode} identity", "", "| " + " | ".join(head) + " |"]
        lines += ["|---" * len(head) + "|"]
        for group in GROUPS:
            cells = [word for one in found.values() for word in _cells(one.of(group))]
            lines.append("| " + " | ".join([group.name, *cells]) + " |")
        medians = [_word(value, None) for one in found.values() for value in one.medians()]
        lines += ["| " + " | ".join(["**median**", *(f"**{m}**" for m in medians)]) + " |", ""]
        for method, one in found.items():
            n = sum(count for count, _ in one.failures.counts.values())
            clips = sum(c.n_frames > 0 for c in one.clips.values())
            lines.append(f"- {method}: {one.n_frames} frames of {clips} clips, {n} failures.")
        lines.append("")
    for method, reasons in table.failures.items():
        lines += [f"- {method} could not be made for {reason}" for reason in reasons]
    record = table.protocol
    lines += [
        f"- Protocol {record['protocol']} (sha256 {record['sha256'][:12]}), seed {record['seed']}, "
        f"{record['resolution']} px, crop {record['crop']}; {table.extractor}.",
        "- r and gain (slope) of the result's unit against the driver's over time; mean over clips, by their frames "
        "and by how much the driver moves the unit; 95 % intervals: bootstrap over clips.",
    ]
    return "\n".join(lines) + "\n"


def _cells(one: Follow) -> list[str]:
    return [_word(one.r, one.r_interval), _word(one.gain, one.gain_interval)]


def _word(value: float, bounds: tuple[float, float] | None) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" + ("" if bounds is None else f" [{bounds[0]:.2f}, {bounds[1]:.2f}]")
