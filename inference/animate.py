"""One photo, one driving video: the photo's head with the video's expression, from the video's view."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from inference.cameras import CameraMode, View, camera_path
from inference.motion import Reference, space_limits, transfer
from inference.network import Expressive, Network
from inference.output import Report
from inference.panels import Canvas, DepthColours, default_cell_px
from inference.tracked import Driving, Photo, notes_on, write_driven

Shown = Literal["panels", "result"]
PANELS = ("source", "driving", "generated", "depth")


@dataclass(frozen=True)
class AnimateOptions:
    """What `gen_videos.py animate` lets one choose."""

    shown: Shown = (
        "panels"  # the four panels, or the generated picture alone at the source crop's size
    )
    camera: CameraMode = "driving"
    view: View = field(default_factory=View)  # of cameras fixed and orbit
    relative: bool = False  # expression: beta_source + (beta_t - beta_reference)
    reference: Reference = "neutral"  # the driver's resting face, for relative
    panel_px: int = 0  # side of a panel; 0: 256 or the source crop's, whichever is larger


def expressions(
    network: Network, source: Photo, driving: Driving, options: AnimateOptions
) -> np.ndarray:
    """The beta that the source shows in each frame, float32 [T, D]."""
    return transfer(
        driving.betas, source.beta, options.relative, options.reference, space_limits(network.space)
    )


def animate(
    network: Network,
    source: Photo,
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
    report = write_driven(out, frames, driving, "animate")
    report.notes += notes_on(driving)
    return report


def animate_frames(
    network: Network, source: Photo, driving: Driving, options: AnimateOptions
) -> Iterator[np.ndarray]:
    """The frames of the animation, uint8 [H, W, 3], one at a time."""
    head = Expressive(network, network.encode(source.crop, source.camera, source.beta))
    betas = expressions(network, source, driving, options)
    camera_at = camera_path(options.camera, options.view)
    if options.shown == "result":
        for t, (beta, label) in enumerate(zip(betas, driving.cameras, strict=True)):
            yield head.frame(beta, camera_at(float(driving.times_s[t]), label)).image
        return
    colours = DepthColours()
    canvas = Canvas(PANELS, len(PANELS), options.panel_px or default_cell_px(len(source.crop)))
    labels = zip(betas, driving.cameras, driving.crops(), strict=True)
    for t, (beta, label, crop) in enumerate(labels):
        frame = head.frame(beta, camera_at(float(driving.times_s[t]), label))
        depth = colours(frame.depth, frame.opacity)
        yield canvas.compose([source.crop, crop, frame.image, depth])
