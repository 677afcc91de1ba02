"""`dataset_tool.py synth`."""

from __future__ import annotations

import time
from pathlib import Path

import click

import dnnlib.cli
from dataset.synthesis.generate import SynthOptions, generate_dataset
from dnnlib.config import apply_overrides, from_dict, to_dict


def _default(name: str) -> object:
    return SynthOptions.__dataclass_fields__[name].default


@click.command("synth")
@click.argument("dest", type=click.Path(path_type=Path))
@click.option(
    "--identities",
    "n_identities",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Number of people.",
)
@click.option(
    "--frames-per-clip",
    type=click.IntRange(min=1),
    default=_default("frames_per_clip"),
    show_default=True,
    help="Frames of a clip.",
)
@click.option(
    "--clips-per-identity",
    type=click.IntRange(min=1),
    default=_default("clips_per_identity"),
    show_default=True,
    help="Clips of a person.",
)
@click.option(
    "--stride",
    "stride_s",
    type=float,
    default=_default("stride_s"),
    show_default=True,
    help="Seconds between the frames of a clip.",
)
@click.option(
    "--resolution",
    type=click.IntRange(min=16, max=2048),
    default=_default("resolution"),
    show_default=True,
    help="Pixels a side.",
)
@click.option(
    "--seed",
    type=int,
    default=_default("seed"),
    show_default=True,
    help="Another seed, other people.",
)
@click.option(
    "--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Processes."
)
@click.option(
    "--val",
    "val_fraction",
    type=float,
    default=_default("val_fraction"),
    show_default=True,
    help="Share of people in the validation split.",
)
@click.option(
    "--test",
    "test_fraction",
    type=float,
    default=_default("test_fraction"),
    show_default=True,
    help="Share of people in the test split.",
)
@click.option(
    "--labels",
    type=click.Choice(["tracked", "painted"]),
    default=_default("labels"),
    show_default=True,
    help="beta and camera as the tracker measures them, or as they were painted.",
)
@click.option(
    "--leakage",
    "leakage_strength",
    type=float,
    default=_default("leakage_strength"),
    show_default=True,
    help="How strongly identity leaks into a painted expression.",
)
@click.option(
    "--wild",
    "wild_fraction",
    type=click.FloatRange(0, 1),
    default=_default("wild_fraction"),
    show_default=True,
    help="Share of people with random strong colours and patterns.",
)
@click.option(
    "--samples",
    type=click.IntRange(1, 4),
    default=_default("samples"),
    show_default=True,
    help="Rays per pixel and side.",
)
@click.option(
    "--codec",
    "image_codec",
    type=click.Choice(["png", "webp", "jpg"]),
    default=_default("image_codec"),
    show_default=True,
    help="Coding of the images.",
)
@click.option(
    "--background",
    "background_in",
    type=click.Choice(["image", "world"]),
    default=_default("background_in"),
    show_default=True,
    help="What the background is fixed to.",
)
@click.option(
    "--light",
    "light_in",
    type=click.Choice(["head", "camera"]),
    default=_default("light_in"),
    show_default=True,
    help="What the light is fixed to.",
)
@click.option(
    "--first-identity",
    type=click.IntRange(min=0),
    default=_default("first_identity"),
    show_default=True,
    help="Number of the first person.",
)
@dnnlib.cli.set_option
def synth_command(dest: Path, overrides: tuple[str, ...], **given: object) -> None:
    """Render a dataset of synthetic talking heads, with ground truth, into the folder DEST.

    The same options give the same bytes; the same command continues after an interruption.
    """  # fmt: skip
    workers = given.pop("workers")
    changed = apply_overrides({}, overrides, SynthOptions)
    options = to_dict(from_dict(SynthOptions, {**given, **changed}))
    started = time.perf_counter()
    first: list[int] = []

    def progress(done: int, total: int) -> None:
        first.append(done)
        seconds = time.perf_counter() - started
        rate = (done - first[0]) / seconds if len(first) > 1 else done / seconds
        left = (total - done) / rate if rate > 0 else float("nan")
        click.echo(
            f"\r{done}/{total} frames, {rate:.1f} per second, {left / 60:.1f} min left ", nl=False
        )

    generate_dataset(dest, progress=progress, workers=workers, **options)  # type: ignore[arg-type]
    click.echo(f"\n{dest} is ready")
