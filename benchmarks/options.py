"""Options that the benchmarks share."""

from __future__ import annotations

import click

from dnnlib.params import OutputFile, Preset, Whole

json_option = click.option(
    "--json", "json_path", type=OutputFile(".json"), help="Write the figures here."
)
threads_option = click.option(
    "--threads", default=0, type=Whole(0, 1024), help="CPU threads; 0: torch's choice."
)
device_option = click.option(
    "--device", default="cpu", type=click.Choice(["cpu", "cuda"]), help="Where to run."
)
PRESET = Preset("a preset or a YAML file")
REPEATS = Whole(1, 100_000)
PEOPLE = Whole(1, 1_000_000)
RESOLUTION = Whole(16, 2048)
