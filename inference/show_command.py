"""`gen_videos.py show`: a photo's head with chosen units, directions and view (docs/videos.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

import dnnlib.cli
from dnnlib.effects import refuse_unused
from dnnlib.errors import UserError
from dnnlib.listing import WRITTEN_STILL_SUFFIXES, WRITTEN_VIDEO_SUFFIXES
from dnnlib.options import gathered, option
from dnnlib.params import NamedNumber, OutputVideo, Whole
from inference.options import (
    NetworkChoice,
    OptionalDriverChoice,
    SourceChoice,
)
from inference.view_options import DEGREES, ExpressionChoice

# What is heavy is imported when it is called, so that --help is quick.

if TYPE_CHECKING:
    from inference.looks import Look

# inference.looks.KINDS, which is heavy to import; a test compares them
MESH = ".glb"  # likewise inference.show.MESH_SUFFIX
SHOWN = ("image", "raw", "depth", "opacity", "normals")


@dataclass(frozen=True, kw_only=True)
class LookChoice:
    units: tuple[tuple[str, float], ...] = option(
        "--unit",
        default=(),
        multiple=True,
        type=NamedNumber(-10, 10),
        metavar="NAME=NUMBER",
        help="Add to a unit of the expression, --unit jawOpen=0.5; repeatable.",
    )
    along: tuple[tuple[str, float], ...] = option(
        "--along",
        default=(),
        multiple=True,
        type=NamedNumber(-100, 100),
        metavar="vI=NUMBER",
        help="Move along a direction of the expression basis, --along v1=0.5; 1 is the range that single units cover. "
        "Repeatable.",
    )
    yaw_deg: float = option(
        "--yaw", default=0.0, type=DEGREES, help="Turn the view, degrees; > 0 to the image's right."
    )
    pitch_deg: float = option("--pitch", default=0.0, type=DEGREES, help="Likewise; > 0 up.")
    roll_deg: float = option("--roll", default=0.0, type=DEGREES, help="Likewise; > 0 clockwise.")
    kind: str = option(
        "--show", default="image", type=click.Choice(SHOWN), help="What of it is shown."
    )

    def look(self) -> Look:
        """Raises UserError for what is no name of a direction."""
        from inference.looks import Look
        from inference.motion import direction_index

        try:
            directions = tuple((direction_index(name), amount) for name, amount in self.along)
        except ValueError as error:
            raise UserError(f"--along: {error}") from error
        angles = (self.yaw_deg, self.pitch_deg, self.roll_deg)
        return Look(self.units, directions, *angles, kind=self.kind)  # type: ignore[arg-type]


@dnnlib.cli.command("show")
@gathered("source", SourceChoice)
@gathered("driver", OptionalDriverChoice)
@gathered("network", NetworkChoice)
@click.option(
    "-o",
    "--out",
    required=True,
    type=OutputVideo(*WRITTEN_STILL_SUFFIXES, *WRITTEN_VIDEO_SUFFIXES, MESH),
    help="What to write: .png and .jpg are a still, .glb the head as a mesh; a video's name or a name without suffix, "
    "as animate takes them, is a video of the driver.",
)
@gathered("look", LookChoice)
@click.option(
    "--frame",
    default=0,
    type=Whole(0, 10_000_000),
    help="Of a driver, the frame whose expression and view a still shows, or a mesh has.",
)
@gathered("expression", ExpressionChoice)
def show(
    source: SourceChoice,
    driver: OptionalDriverChoice,
    network: NetworkChoice,
    out: Path,
    look: LookChoice,
    frame: int,
    expression: ExpressionChoice,
) -> None:
    """Show a photo's head with chosen units, directions and view: a still, a mesh, or over a driver a video.

    What visualizer.py shows, it shows with this command.
    """
    from inference.show import Driven
    from inference.show import show as run

    driver.check()
    chosen = look.look()
    still = out.suffix.lower() in WRITTEN_STILL_SUFFIXES
    refuse_unused(
        "frame", driver.driving is not None and still, "without --driving and a still as --out"
    )
    model, tracker = network.load()
    photo = source.track(tracker)
    driven = None
    if driver.driving is not None:
        driven = Driven(driver.load(driver.driving, model, tracker), expression.steer())
    for line in run(model, photo, out, chosen, driven, frame).lines():
        click.echo(line)
