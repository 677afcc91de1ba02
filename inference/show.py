"""One head as one wants to look at it, with its own or a driver's expression: a still, a video or a mesh."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dnnlib.errors import UserError
from dnnlib.listing import WRITTEN_STILL_SUFFIXES
from inference.looks import Look, Sitter
from inference.network import Network
from inference.output import Report, write_video
from inference.photo import Photo
from inference.shapes.export import export_volume
from inference.steering import Steer, Steering
from inference.tracked import Driving, notes_on, write_driven

MESH_SUFFIX = ".glb"


class Driven(NamedTuple):
    """A driver, and what of its motion is taken over."""

    driving: Driving
    steer: Steer = Steer()

    def steering(self, network: Network) -> Steering:
        """Raises UserError: the network's expression space names no units of a region."""
        return Steering(network.space, self.driving, self.steer, network.name)


def show(
    network: Network,
    photo: Photo,
    out: Path,
    look: Look,
    driven: Driven | None = None,
    frame: int = 0,  # of the driver, for a still or a mesh
) -> Report:
    """Write a still or a mesh (.glb) of one moment, or with a driver a video.

    Raises:
        UserError: the network lacks a unit or direction, the driver has no such frame, or a video has no driver.
    """
    sitter = Sitter(network, photo)
    look.check(network.space, sitter.n_directions, network.name)
    if out.suffix.lower() == MESH_SUFFIX:
        beta, _ = moment(photo, network, driven, frame)
        return export_volume(network, photo, sitter.volume(look, beta), out)
    if out.suffix.lower() in WRITTEN_STILL_SUFFIXES:
        image = sitter.picture(look, *moment(photo, network, driven, frame))
        return write_video(out, [image], 25.0, None, 1, "show")
    if driven is None:
        raise UserError(
            f"--out {out} is a video and needs --driving; for a still let it end in .png or .jpg"
        )

    report = write_driven(out, frames(sitter, look, driven), driven.driving, "show")
    report.notes += notes_on(driven.driving)
    return report


def frames(sitter: Sitter, look: Look, driven: Driven) -> Iterator[np.ndarray]:
    """The pictures of a driver's frames, uint8 [s, s, 3], one at a time."""
    steering = driven.steering(sitter.network)
    for t in range(len(driven.driving.betas)):
        camera = steering.camera(t, sitter.photo)
        yield sitter.picture(look, steering.beta(t, sitter.photo, camera), camera)


def moment(
    photo: Photo, network: Network, driven: Driven | None, frame: int
) -> tuple[np.ndarray, np.ndarray]:
    """Expression [D] and camera label [25] in one frame of the driver, without one the photo's own.

    Raises:
        UserError: the driver has no such frame.
    """
    if driven is None:
        return photo.beta, photo.camera
    count = len(driven.driving.betas)
    if frame >= count:
        raise UserError(
            f"--frame {frame} does not exist in {driven.driving.name} with {count} frames; count from 0"
        )
    steering = driven.steering(network)
    camera = steering.camera(frame, photo)
    return steering.beta(frame, photo, camera), camera
