"""How the generated head of a photo is shown: as the network makes it, or put back before a background.

shown = showing(photo, head, background)
view = shown.view(label)
picture = shown.picture(head.frame(beta, view), view)
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from inference.background import Background
from inference.network import Expressive, Rendered
from inference.photo import Photo, Whole, close_up
from inference.whole import AROUND, Matting, Scene, anchored, scene_of
from tracking.matte import Matte


class Showing(Protocol):
    """How one photo's head is shown."""

    def view(self, label: np.ndarray) -> np.ndarray:
        """The camera label [25] from which the head is to be rendered where `label` [25] is asked for."""
        ...

    def picture(self, frame: Rendered, label: np.ndarray) -> np.ndarray:
        """What is rendered from that view -> uint8 [H, W, 3], or 4 before a transparent background."""
        ...


class AsRendered:
    """The network's own picture."""

    def view(self, label: np.ndarray) -> np.ndarray:
        return label

    def picture(self, frame: Rendered, label: np.ndarray) -> np.ndarray:
        return frame.image


class InScene:
    """The head back in its picture, whole: it turns on its neck, shoulders and background stand still."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def view(self, label: np.ndarray) -> np.ndarray:
        return anchored(label, self._scene.camera)

    def picture(self, frame: Rendered, label: np.ndarray) -> np.ndarray:
        return self._scene.compose(frame, label)


class InCrop(InScene):
    """The same, of which the crop is shown; what the picture has around it may come in."""

    def picture(self, frame: Rendered, label: np.ndarray) -> np.ndarray:
        place = self._scene.whole.transform
        left, top = (int(v) for v in -place.matrix[:, 2])
        shown = self._scene.compose(frame, label)
        return shown[top : top + place.size, left : left + place.size]


def showing(
    photo: Photo,
    head: Expressive,  # the photo's
    background: Background,
    whole: bool = False,  # the whole picture, not the crop
    matte: Matting | None = None,  # None: made where it is needed
) -> Showing:
    """What shows a photo's head.

    Raises:
        UserError: the package with the matte is missing, and it is needed.
    """
    if background.kind == "network" and not whole:
        return AsRendered()
    matte = matte or Matte()
    if whole:
        return InScene(scene_of(photo, head, matte, background))
    near = close_up(photo.whole, photo.crop, AROUND)
    own = head.frame(photo.beta, photo.camera)
    return InCrop(Scene(near, photo.camera, own, matte, _around(background, near)))


def _around(background: Background, near: Whole) -> Background:
    """The background of a crop, continued around it: what is seen of it covers the crop."""
    if background.kind != "picture":
        return background
    size = near.transform.size
    left, top = (int(v) for v in -near.transform.matrix[:, 2])
    height, width = near.image.shape[:2]
    beside = ((top, height - size - top), (left, width - size - left), (0, 0))
    return Background("picture", np.pad(background.behind(size, size), beside, "edge"))
