"""Command-line options that several commands of `gen_videos.py` share, gathered into one typed value each: network,
sources and drivers. How the head moves and is seen is in view_options.py.

@gathered("network", NetworkChoice)     # --network, --device, --precision, ..., --set
def freeview(network: NetworkChoice, ...)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

import dnnlib.cli
from dnnlib.clips import ClipOf, InputPathOrClip
from dnnlib.effects import refuse_unused
from dnnlib.errors import UserError
from dnnlib.listing import WRITTEN_STILL_SUFFIXES, WRITTEN_VIDEO_SUFFIXES, is_video
from dnnlib.options import option, same_option
from dnnlib.params import (
    InputFile,
    InputFolder,
    InputPath,
    Option,
    OutputVideo,
    Whole,
)

# What is heavy is imported when it is called, so that --help is quick.

if TYPE_CHECKING:
    from inference.animate import Source
    from inference.network import Network
    from inference.photo import Photo
    from inference.stored import StoredClip
    from inference.tracked import Driving, NetworkTracker, TrackedClip
    from tracking.expression import ExpressionPlugin

SHIPPED = Path(__file__).resolve().parents[1] / "models" / "demo.safetensors"
PORTRAIT = InputFile("a portrait photo")
SOURCES = InputPath("a portrait photo, a video or a folder of them")
CLIP = InputPathOrClip("a video, a folder of frames or DATASET:CLIP")
DRIVER = InputPathOrClip("a video, a picture, a folder of frames, a motion file or DATASET:CLIP")
CHECKPOINT = InputFile("the path of a .safetensors checkpoint")
MAX_FRAMES = Whole(1, 10_000_000)
PANEL_PX = Whole(0, 2048)

DRIVER_HELP = (
    "What drives: a video, a GIF, a picture, a folder of frames, a motion file, or DATASET:CLIP."
)

set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one value of the network's configuration that no weight depends on, for example "
    "--set model.render.samples_coarse=48; repeatable.",
)
face_option = click.option(
    "--face",
    default="largest",
    metavar="largest|left|right|N",
    help="Which face of a photo with several; N counts from 0, left to right.",
)
smooth_option = click.option(
    "--smooth/--no-smooth", default=True, help="Take the jitter out of the tracked motion."
)
driver_face_option = click.option(
    "--driver-face",
    default="largest",
    metavar="largest|left|right|N",
    help="Which face of a driving video with several; it is followed to the end.",
)
max_frames_option = click.option(
    "--max-frames",
    type=MAX_FRAMES,
    help="Use only so many frames of the driving video.",
)
out_option = click.option(
    "-o",
    "--out",
    required=True,
    type=OutputVideo(*WRITTEN_VIDEO_SUFFIXES, *WRITTEN_STILL_SUFFIXES),
    help="What to write: .mp4, .mkv, .mov, .webm, .webp or .gif moves, .png and .jpg are the first frame, a name "
    "without suffix is a folder of PNG files.",
)
panel_option = click.option(
    "--panel-px",
    cls=Option,
    only_with={"shown": ("panels", None)},
    default=0,
    type=PANEL_PX,
    help="Side of a panel; 0 chooses it.",
)


@dataclass(frozen=True, kw_only=True)
class NetworkChoice:
    network_path: Path = option(
        "--network",
        default=SHIPPED,
        show_default="the shipped one",
        type=CHECKPOINT,
        help="Checkpoint of train.py.",
    )
    device: str = same_option(dnnlib.cli.device_option())
    precision: str = option(
        "--precision",
        default="auto",
        type=click.Choice(["auto", "fp32", "bf16"]),
        help="auto: bf16 on a GPU and on CPUs with instructions for it, else fp32.",
    )
    bfm_weights: Path | None = option(
        "--bfm-weights",
        default=None,
        type=InputFile("Deep3DFaceRecon's weights"),
        help="Deep3DFaceRecon's weights, for networks of the space bfm64.",
    )
    tracker: str = option(
        "--tracker",
        default="",
        metavar="MODULE:FACTORY",
        help="For networks of a space of your own: what measures it, as dataset_tool.py video takes it; also "
        "FILE.py:FACTORY.",
    )
    results: Path | None = option(
        "--results",
        default=None,
        type=InputFolder("the folder of the tracker's results"),
        help="In place of a tracker: folder of its results for the photo and the video, by their names.",
    )
    quality: str = option(
        "--quality",
        default="full",
        type=click.Choice(["full", "fast", "draft"]),
        help="fast leaves out what hardly shows, draft also every second sample; with 48 + 48 samples "
        "rendering takes about two thirds and two fifths of the time.",
    )
    size: int = option(
        "--size",
        default=0,
        type=Whole(0, 2048),
        help="Side of the result in pixels, a multiple of the network's; 0: as many as the photo's own crop has, up "
        "to 512.",
    )
    compiled: bool = option(
        "--compile",
        default=False,
        is_flag=True,
        help="torch.compile, on a GPU with CUDA graphs: minutes before the first frame.",
    )
    overrides: tuple[str, ...] = same_option(set_option)

    def load(self) -> tuple[Network, NetworkTracker]:
        """The network, and what tracks photos and videos for it."""
        from inference.network import Network
        from inference.tracked import NetworkTracker

        overrides = (f"render.quality={self.quality}", *self.overrides)
        network = Network.load(
            self.network_path, self.device, self.precision, overrides, self.compiled
        )
        refuse_unused(
            "bfm_weights",
            unless=network.space.name == "bfm64",
            when=f"on {network.name}, whose expression space is {network.space.name}",
        )
        return network, NetworkTracker(network, self.bfm_weights, self.size, self._plugin())

    def _plugin(self) -> ExpressionPlugin | None:
        from dataset.preparation.results import ImportedResults
        from tracking.plugins import load_plugin

        if self.tracker and self.results:
            raise UserError("--tracker and --results both say what expressions are; give one")
        if self.results:
            return ImportedResults(self.results)
        return load_plugin(self.tracker) if self.tracker else None


@dataclass(frozen=True, kw_only=True)
class SourceChoice:
    source: Path = option("-s --source", type=PORTRAIT, help="Portrait photo.")
    face: str = same_option(face_option)

    def track(self, tracker: NetworkTracker) -> Photo:
        return tracker.photo(self.source, self.face)


@dataclass(frozen=True, kw_only=True)
class AnySourceChoice:
    """A photo, or a video that is its own source."""

    sources: tuple[Path, ...] = option(
        "-s --source",
        multiple=True,
        type=SOURCES,
        help="Portrait photo, video, or a folder of them; repeatable.",
    )
    face: str = same_option(face_option)
    source_frame: int | None = option(
        "--source-frame",
        default=None,
        type=Whole(0, 10_000_000),
        help="Frame of a source video that serves as the photo; by default each is its own source.",
    )

    def track(self, path: Path, tracker: NetworkTracker) -> Source:
        """One of the sources. Raises UserError: unreadable, no such face, no such frame."""
        from inference.tracked import photo_of_clip

        moving = is_video(path)
        refuse_unused("source_frame", unless=moving, when=f"on the photo {path}")
        if not moving:
            return tracker.photo(path, self.face)
        clip = tracker.clip(path, face=self.face)
        return clip if self.source_frame is None else photo_of_clip(clip, self.source_frame)


@dataclass(frozen=True, kw_only=True)
class FollowChoice:
    """How drivers are followed."""

    driver_face: str = same_option(driver_face_option)
    smooth: bool = same_option(smooth_option)
    max_frames: int | None = same_option(max_frames_option)

    def load(self, path: Path | ClipOf, network: Network, tracker: NetworkTracker) -> Driving:
        """Raises UserError: see `load_driver`."""
        from inference.drivers import load_driver

        return load_driver(path, network, tracker, self.smooth, self.max_frames, self.driver_face)


@dataclass(frozen=True, kw_only=True)
class DriversChoice(FollowChoice):
    drivings: tuple[Path | ClipOf, ...] = option(
        "-d --driving", multiple=True, type=DRIVER, help=f"{DRIVER_HELP} Repeatable."
    )


@dataclass(frozen=True, kw_only=True)
class ClipChoice(FollowChoice):
    """A driver that has pictures."""

    driving: Path | ClipOf = option(
        "-d --driving", type=CLIP, help="Video, a folder of its frames, or DATASET:CLIP."
    )

    def track(self, tracker: NetworkTracker) -> TrackedClip | StoredClip:
        if isinstance(self.driving, ClipOf):
            return tracker.stored(self.driving, self.max_frames)
        return tracker.clip(self.driving, self.smooth, self.max_frames, self.driver_face)


@dataclass(frozen=True, kw_only=True)
class DrivingChoice(FollowChoice):
    driving: Path | ClipOf = option("-d --driving", type=DRIVER, help=DRIVER_HELP)

    def track(self, network: Network, tracker: NetworkTracker) -> Driving:
        return self.load(self.driving, network, tracker)


@dataclass(frozen=True, kw_only=True)
class OptionalDriverChoice(FollowChoice):
    """A driver, or none."""

    driving: Path | ClipOf | None = option(
        "-d --driving", default=None, type=DRIVER, help=f"{DRIVER_HELP} By default nothing."
    )

    def check(self) -> None:
        """Raises UserError for what is said of a driver that is not given."""
        for name in (
            "driver_face",
            "smooth",
            "max_frames",
            "absolute",
            "reference",
            "strength",
            "regions",
            "hold_eyes",
            "gaze",
        ):
            refuse_unused(name, self.driving is not None, "without --driving")
