"""A network that animates photos, behind a handful of verbs."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from conventions.cameras import camera_label
from inference.animate import AnimateOptions, animate_frames
from inference.cameras import CameraMode, View
from inference.demo import astronaut, load_demo_network
from inference.network import Expressive, Network, Rendered
from inference.output import write_video
from inference.photo import Photo
from inference.tracked import AUTO, Driving, NetworkTracker, write_driven

AnyPath = str | os.PathLike[str]


def load(
    network: AnyPath | None = None,  # checkpoint of train.py; None: the shipped one
    device: str = "auto",  # "auto" | "cpu" | "cuda"
    precision: str = "auto",  # "auto" | "fp32" | "bf16"
    size: int = AUTO,  # side of frames, pixels: a multiple of the network's; 0: the photo's own, up to 512
) -> Animator:
    """A network, ready to animate.

    >>> load().resolution
    128

    Raises:
        UserError: the file is missing or damaged, the device does not exist, or the size does not fit.
    """
    if network is None:
        made = load_demo_network(device=device, precision=precision)
    else:
        made = Network.load(Path(network), device, precision)
    return Animator(made, size)


class Animator:
    """Animates photos with one network. Made by `load`."""

    def __init__(self, network: Network, size: int = AUTO) -> None:
        self.network = network
        self._tracker = NetworkTracker(network, size=size)

    @property
    def resolution(self) -> int:
        """Side of what the network sees of a photo, pixels."""
        return self.network.resolution

    def photo(self, picture: AnyPath | np.ndarray, face: str = "largest") -> Photo:
        """The face of a photo: `.crop` uint8 [H, H, 3], `.beta` [D] its expression, `.camera` [25] its view.

        picture: a file, or uint8 [H, W, 3]. face: of several, "largest", "left", "right", or "0", "1", ... from the
        left.

        >>> load().photo(portrait()).crop.shape
        (128, 128, 3)

        Raises:
            UserError: unreadable, or no such face.
        """
        if isinstance(picture, np.ndarray):
            return self._tracker.image(picture, "photo")
        return self._tracker.photo(Path(picture), face)

    def clip(
        self,
        video: AnyPath,
        smooth: bool = True,  # take the jitter out of the motion
        max_frames: int | None = None,
        face: str = "largest",  # see `photo`; it is followed to the end
    ) -> Driving:
        """The motion of a video's face: `.betas` [T, D], `.cameras` [T, 25], `.times_s` [T + 1].

        The whole video is tracked here; its pictures are not kept.

        >>> load().clip("clip.mp4").betas.shape
        (2, 52)

        Raises:
            UserError: unreadable, or no frame shows a face.
        """
        return self._tracker.clip(Path(video), smooth, max_frames, face)

    def animate(
        self,
        photo: Photo,
        clip: Driving,
        relative: bool = False,  # the change of the clip's expression, added to the photo's own
        camera: CameraMode = "driving",  # "driving" | "fixed" | "orbit"
        yaw_deg: float = 0.0,  # the view, or on top of the driver's; > 0: from the image's right
        pitch_deg: float = 0.0,  # > 0: from above
    ) -> Iterator[np.ndarray]:
        """The photo's head with the clip's expressions, a frame uint8 [H, H, 3] at a time.

        >>> animator = load()
        >>> frames = animator.animate(animator.photo("photo.jpg"), animator.clip("clip.mp4"), relative=True)
        >>> next(frames).shape
        (128, 128, 3)

        Raises:
            UserError: the network's output is not finite.
        """
        view = View(yaw_deg=yaw_deg, pitch_deg=pitch_deg)
        options = AnimateOptions(shown="result", camera=camera, view=view, relative=relative)
        return animate_frames(self.network, photo, clip, options)

    def look(
        self,
        photo: Photo,
        yaw_deg: float = 0.0,  # > 0: from the image's right
        pitch_deg: float = 0.0,  # > 0: from above
        beta: np.ndarray | None = None,  # [D], None: the photo's own expression
    ) -> Rendered:
        """One view of the head: `.image` uint8 [H, H, 3], `.depth` in world units, `.opacity`.

        >>> animator = load()
        >>> animator.look(animator.photo("photo.jpg"), yaw_deg=20).image.shape
        (128, 128, 3)

        Raises:
            UserError: the network's output is not finite.
        """
        head = Expressive(self.network, self.network.encode(photo.crop, photo.camera, photo.beta))
        label = camera_label(math.radians(yaw_deg), math.radians(pitch_deg))
        return head.frame(photo.beta if beta is None else beta, label)


def save(
    path: AnyPath,  # .mp4, .mkv or .mov
    frames: Iterable[np.ndarray],  # uint8 [H, W, 3], H and W even
    clip: Driving | None = None,  # gives the frames its times, and the video its sound
    fps: float = 25.0,  # where there is no clip
) -> Path:
    """Write frames as a video, which appears under its name when it is whole.

    >>> save("black.mp4", [np.zeros((64, 64, 3), np.uint8)] * 3).name
    'black.mp4'

    Raises:
        UserError: there are no frames, or the place cannot be written.
    """
    if clip is not None:
        return write_driven(Path(path), frames, clip).path
    return write_video(Path(path), frames, fps).path


def portrait() -> np.ndarray:
    """The portrait of the demo, in the public domain.

    >>> portrait().shape
    (512, 512, 3)
    """
    return astronaut()
