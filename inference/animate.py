"""A photo or a video, and a driving video: the one's head with the other's expression, from the other's view."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Literal

import numpy as np

from inference.cameras import CameraMode, View, camera_path
from inference.network import Expressive, Network
from inference.output import Report
from inference.panels import Canvas, DepthColours, default_cell_px
from inference.photo import Photo
from inference.steering import Steer, Steering
from inference.tracked import Driving, TrackedClip, notes_on, write_driven
from inference.whole import Scene, anchored, scene_of
from tracking.matte import Matte
from tracking.timeline import SLACK_S, shown_at

Shown = Literal["full", "result", "panels"]
PANELS = ("source", "driving", "generated", "depth")
Source = Photo | TrackedClip  # of a clip each frame is the source while it is shown

# (the source, its head, beta [D], camera label [25], the driver's crop) -> the page uint8 [H, W, 3]
Page = Callable[[Photo, Expressive, np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]


@dataclass(frozen=True)
class AnimateOptions(Steer):
    """What `gen_videos.py animate` lets one choose."""

    shown: Shown = "full"  # the whole picture, the generated crop alone, or four panels
    camera: CameraMode = "driving"
    view: View = field(default_factory=View)  # for camera driving what its view is turned by
    panel_px: int = 0  # side of a panel; 0: 256 or the source crop's, whichever is larger


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
    """The frames of the animation, uint8 [H, W, 3], one at a time; of a source clip as long as it lasts."""
    camera_at = camera_path(options.camera, options.view)
    steering = Steering(network.space, driving, options, network.name)
    page = _page(options)
    shown: Photo | None = None
    crops = driving.crops() if options.shown == "panels" else repeat(None)
    for t, (photo, crop) in enumerate(zip(_sources(source, driving), crops, strict=False)):
        if photo is not shown:
            head = Expressive(network, network.encode(photo.crop, photo.camera, photo.beta))
            shown = photo
        label = camera_at(float(driving.times_s[t]), steering.camera(t, photo))
        yield page(photo, head, steering.beta(t, photo, label), label, crop)


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


def _page(options: AnimateOptions) -> Page:
    """What composes a frame of the layout."""
    if options.shown == "full":
        return _whole_picture()
    if options.shown == "panels":
        return _panels(options.panel_px)
    return lambda photo, head, beta, label, crop: head.frame(beta, label).image


def _whole_picture() -> Page:
    matte = Matte()
    kept: list[tuple[Photo, Scene]] = []  # one: of the source that is shown

    def page(
        photo: Photo, head: Expressive, beta: np.ndarray, label: np.ndarray, crop: np.ndarray | None
    ) -> np.ndarray:
        if not kept or kept[0][0] is not photo:
            kept[:] = [(photo, scene_of(photo, head, matte))]
        label = anchored(label, photo.camera)
        return kept[0][1].compose(head.frame(beta, label), label)

    return page


def _panels(panel_px: int) -> Page:
    colours = DepthColours()
    kept: list[Canvas] = []

    def page(
        photo: Photo, head: Expressive, beta: np.ndarray, label: np.ndarray, crop: np.ndarray | None
    ) -> np.ndarray:
        if not kept:
            side = panel_px or default_cell_px(len(photo.crop))
            kept.append(Canvas(PANELS, len(PANELS), side))
        frame = head.frame(beta, label)
        depth = colours(frame.depth, frame.opacity)
        return kept[0].compose([photo.crop, crop, frame.image, depth])

    return page
