"""Options that commands of `gen_videos.py` share: how a head moves, what is behind it, and from where it is seen."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import click

from conventions.gaze import GAZES, Gaze
from conventions.spaces import REGIONS
from dnnlib.errors import UserError
from dnnlib.options import option
from dnnlib.params import InputOrColour, Number, NumbersOr, Option, Words

# What is heavy is imported when it is called, so that --help is quick.

if TYPE_CHECKING:
    from inference.background import Background
    from inference.cameras import View
    from inference.motion import Reference
    from inference.steering import Steer

BACKGROUNDS = ("network", "photo", "transparent")
DEGREES = Number(-180, 180)


@dataclass(frozen=True, kw_only=True)
class ExpressionChoice:
    absolute: bool = option(
        "--absolute/--relative",
        default=True,
        help="The driver's expression and view as they are, or their change from the driver's resting face added "
        "to the photo's own.",
    )
    reference: Reference = option(
        "--reference",
        cls=Option,
        only_with={"absolute": (False,)},
        default="neutral",
        type=click.Choice(["neutral", "first"]),
        help="Which frame is the driver's resting face: the one of the smallest expression, or the first.",
    )

    strength: float = option(
        "--strength",
        default=1.0,
        type=Number(0, 10),
        help="How much of the driver's expression: 0 none, 1.3 exaggerated.",
    )
    regions: tuple[str, ...] = option(
        "--region",
        default=(),
        type=Words(REGIONS),
        metavar="PART,PART,...",
        help=f"Follow the driver only in these of {', '.join(REGIONS)}; the rest stays the photo's.",
    )
    hold_eyes: bool = option(
        "--hold-eyes",
        default=False,
        is_flag=True,
        help="Lids and gaze stay the photo's.",
    )
    gaze: Gaze = option(
        "--gaze",
        default="driver",
        type=NumbersOr(GAZES, -90, 90, 2),
        metavar="|".join((*GAZES, "YAW,PITCH")),
        help="Where the eyes look: as the driver's, as the photo's, at the camera, or degrees in the head's frame, "
        "> 0 to the image's right and up; as far as eyes reach.",
    )

    def steer(self) -> Steer:
        """Raises UserError: two options say where the eyes look."""
        from inference.steering import Steer

        eyes = {"eyes", "gaze"}
        if self.hold_eyes and eyes & set(self.regions):
            raise UserError(
                f"--hold-eyes and --region {','.join(self.regions)} say two things of the eyes; leave one out"
            )
        if self.gaze != "driver" and (self.hold_eyes or "gaze" in self.regions):
            other = "--hold-eyes" if self.hold_eyes else f"--region {','.join(self.regions)}"
            raise UserError(f"--gaze and {other} both say where the eyes look; leave one out")
        regions = self.regions
        if self.hold_eyes and not regions:
            regions = tuple(r for r in REGIONS if r not in eyes)
        return Steer(
            relative=not self.absolute,
            reference=self.reference,
            strength=self.strength,
            regions=regions,
            gaze=self.gaze,
        )


@dataclass(frozen=True, kw_only=True)
class BackgroundChoice:
    background: str = option(
        "--background",
        default="network",
        type=InputOrColour(BACKGROUNDS, "a picture"),
        metavar="|".join((*BACKGROUNDS, "COLOUR", "PICTURE")),
        help="What is behind the head: what the network makes, the photo's own, still, nothing (.webm, .webp, .png), a "
        "colour (#rrggbb or a name) or a picture.",
    )

    def load(self, out: Path, is_page: bool = True) -> Background:
        """is_page: panels on a page, which are not transparent. Raises UserError: see `background_of`."""
        from inference.background import background_of, check_transparent

        background = background_of(self.background)
        check_transparent(background, out, is_page)
        return background


@dataclass(frozen=True, kw_only=True)
class ViewChoice:
    yaw_deg: float = option(
        "--yaw",
        default=0.0,
        type=DEGREES,
        help="Degrees; the fixed view, the centre of the orbit, or on top of the driver's view.",
    )
    pitch_deg: float = option(
        "--pitch",
        default=0.0,
        type=DEGREES,
        help="Degrees, likewise.",
    )
    roll_deg: float = option(
        "--roll",
        default=0.0,
        type=DEGREES,
        help="Degrees, likewise; above 0 the camera turns clockwise.",
    )
    orbit_yaw_deg: float = option(
        "--orbit-yaw",
        cls=Option,
        only_with={"camera": ("orbit",)},
        default=25.0,
        type=DEGREES,
        help="Degrees to either side.",
    )
    orbit_pitch_deg: float = option(
        "--orbit-pitch",
        cls=Option,
        only_with={"camera": ("orbit",)},
        default=8.0,
        type=DEGREES,
        help="Degrees up and down.",
    )
    orbit_seconds: float = option(
        "--orbit-seconds",
        cls=Option,
        only_with={"camera": ("orbit",)},
        default=4.0,
        type=Number(0.1, 3600),
        help="Time of one orbit.",
    )

    def view(self) -> View:
        from inference.cameras import View

        return View(**{f.name: getattr(self, f.name) for f in fields(self)})
