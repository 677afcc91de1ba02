"""A photo or a video, and a driving video: the one's head with the other's expression, from the other's view."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Literal

import numpy as np

from dnnlib.errors import UserError
from inference.background import NETWORK, Background
from inference.cameras import CameraMode, View, camera_path
from inference.network import Expressive, Network, Rendered
from inference.output import Report
from inference.panels import Canvas, DepthColours, default_cell_px, resize
from inference.photo import Photo
from inference.showing import showing
from inference.steering import Steer, Steering
from inference.tracked import Driving, TrackedClip, notes_on, write_driven
from tracking.matte import Matte
from tracking.timeline import SLACK_S, shown_at

Shown = Literal["full", "result", "panels", "driving"]
PANELS = ("source", "driving", "generated", "depth")
Source = Photo | TrackedClip  # of a clip each frame is the source while it is shown


@dataclass(frozen=True)
class AnimateOptions(Steer):
    """What `gen_videos.py animate` lets one choose."""

    # the whole picture, the generated crop alone, four panels, or the driver's crop alone: what a result is scored with
    shown: Shown = "full"
    camera: CameraMode = "driving"
    view: View = field(default_factory=View)  # for camera driving what its view is turned by
    panel_px: int = 0  # side of a panel; 0: 256 or the source crop's, whichever is larger
    background: Background = (
        NETWORK  # of the whole picture it is the photo's where it is the network's
    )


def animate(
    network: Network,
    source: Source,
    driving: Driving,
    out: Path,
    options: AnimateOptions | None = None,
) -> Report:
    """Write the animation. Frames are streamed: memory does not grow with the video's length.

    Raises:
        UserError: the network's output is not finite, or `out` cannot be written.
    """
    options = options or AnimateOptions()
    frames = animate_frames(network, source, driving, options)
    sound = driving.sound or (None if isinstance(source, Photo) else source.sound)
    report = write_driven(out, frames, driving, "animate", sound)
    report.notes += notes_on(driving)
    return report


def animate_frames(
    network: Network, source: Source, driving: Driving, options: AnimateOptions
) -> Iterator[np.ndarray]:
    """The frames of the animation, uint8 [H, W, 3], one at a time; of a source clip as long as it lasts.

    Raises:
        UserError: the driver's crops are wanted, and it has no pictures.
    """
    if options.shown == "driving":
        yield from _driving_crops(source, driving)
        return
    camera_at = camera_path(options.camera, options.view)
    steering = Steering(network.space, driving, options, network.name)
    whole, in_panels = options.shown == "full", options.shown == "panels"
    matte = Matte() if whole or options.background.kind != "network" else None
    page = _Panels(options.panel_px)
    last: Photo | None = None
    crops = driving.crops() if in_panels else repeat(None)
    for t, (photo, crop) in enumerate(zip(_sources(source, driving), crops, strict=False)):
        if photo is not last:
            head = Expressive(network, network.encode(photo.crop, photo.camera, photo.beta))
            shown = showing(photo, head, options.background, whole, matte)
            last = photo
        label = shown.view(camera_at(float(driving.times_s[t]), steering.camera(t, photo)))
        frame = head.frame(steering.beta(t, photo, label), label)
        picture = shown.picture(frame, label)
        yield page.compose(photo, crop, picture, frame) if in_panels else picture


def _driving_crops(source: Source, driving: Driving) -> Iterator[np.ndarray]:
    for photo, crop in zip(_sources(source, driving), driving.crops(), strict=False):
        if crop is None:
            raise UserError(
                f"{driving.name} has no pictures for --layout driving; give the clip it is the motion of"
            )
        yield resize(crop, len(photo.crop), len(photo.crop))


def _sources(source: Source, driving: Driving) -> Iterator[Photo]:
    """What the source shows in each of the driver's frames, until one of them ends."""
    if isinstance(source, Photo):
        yield from repeat(source, len(driving.betas))
        return
    times_s = driving.times_s[:-1]
    times_s = times_s[times_s < source.times_s[-1] - SLACK_S]
    photos = enumerate(source.photos())
    at, photo = next(photos)
    for number in shown_at(source.times_s, times_s):
        while at < number:
            at, photo = next(photos)
        yield photo


class _Panels:
    """Pages of PANELS."""

    def __init__(self, panel_px: int) -> None:
        self._px = panel_px
        self._colours = DepthColours()
        self._canvas: Canvas | None = None

    def compose(
        self, photo: Photo, crop: np.ndarray | None, picture: np.ndarray, frame: Rendered
    ) -> np.ndarray:
        if self._canvas is None:
            side = self._px or default_cell_px(len(photo.crop))
            self._canvas = Canvas(PANELS, len(PANELS), side)
        depth = self._colours(frame.depth, frame.opacity)
        return self._canvas.compose([photo.crop, crop, picture, depth])
