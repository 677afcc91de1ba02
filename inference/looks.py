"""One head as one looks at it: units and directions added to its expression, a view, and what of it is shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from conventions.cameras import split_label, turned
from conventions.spaces import ExpressionSpace
from dnnlib.errors import UserError
from dnnlib.typed import nearest
from inference.motion import space_limits
from inference.network import Expressive, Network, direction_scales
from inference.panels import PAGE, DepthColours
from inference.photo import Photo

if TYPE_CHECKING:
    from training.generator.model import Volume

Kind = Literal["image", "raw", "depth", "opacity", "normals"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MOVING_PX = 256  # largest side of a picture that is soon followed by another
SURFACE_PX = 192  # side of depth, opacity and normals


@dataclass(frozen=True)
class Look:
    """What is added to an expression and a view, and what is shown; the empty one shows the photo's own."""

    units: tuple[tuple[str, float], ...] = ()  # unit of the expression space -> added to beta
    directions: tuple[tuple[int, float], ...] = ()  # i from 0 -> parts of the range of lambda_i
    yaw_deg: float = 0.0  # > 0: the camera moves to the image's right
    pitch_deg: float = 0.0  # > 0: up
    roll_deg: float = 0.0  # > 0: clockwise
    kind: Kind = "image"

    def check(self, space: ExpressionSpace, n_directions: int, what: str) -> None:
        """Raises UserError when the network `what` lacks a unit or a direction."""
        for name, _ in self.units:
            if name not in space.names:
                near = nearest(name, list(space.names)) or space.names[0]
                raise UserError(
                    f"the expression space {space.name!r} of {what} has no unit {name!r}; did you mean {near!r}?"
                )
        last = max((i for i, _ in self.directions), default=-1)
        if last >= n_directions:
            raise UserError(
                f"{what} has no v{last + 1}; its directions are v1 to v{n_directions}"
                if n_directions
                else f"{what} has no directions v1, v2, ...; leave them out"
            )


class Sitter:
    """A photo's head, encoded once. A picture costs planes where the expression changes, else a render.

    For one thread at a time.
    """

    def __init__(self, network: Network, photo: Photo) -> None:
        self.network, self.photo = network, photo
        self._quick = network.at_quality("draft")
        source = network.encode(photo.crop, photo.camera, photo.beta)
        self._head = Expressive(network, source)
        self._small = _shrunk(source.detail, network.resolution)
        directions = network.directions()
        self.n_directions = len(directions)
        self._along = directions * direction_scales(network)[:, None]  # [n, d]
        self._colours: DepthColours | None = None

    def picture(
        self,
        look: Look,
        beta: np.ndarray | None = None,  # [D] that is added to; None: the photo's own
        camera: np.ndarray | None = None,  # [25] that is turned; None: the photo's own
        moving: bool = False,  # another one follows at once: fewer pixels, less work
    ) -> np.ndarray:
        """uint8 [s, s, 3]; s is the crop's side (raw: the raw image's; depth, opacity, normals: SURFACE_PX).

        While moving s is at most MOVING_PX, or the raw image's for depth, opacity and normals.

        Raises:
            UserError: the network's output is not finite.
        """
        own = self.photo
        volume = self.volume(look, own.beta if beta is None else beta)
        label = self.label(look, own.camera if camera is None else camera)
        if look.kind in ("image", "raw"):
            if moving:
                frame = self._quick.render(volume._replace(detail=self._small), label)
            else:
                frame = self.network.render(volume, label)
            if look.kind == "image" or frame.raw is None:
                return frame.image
            return frame.raw
        network = self._quick if moving else self.network
        raw_px = network.model.config.raw_resolution
        depth, opacity = network.surface(
            volume, label, raw_px if moving else max(raw_px, SURFACE_PX)
        )
        if look.kind == "depth":
            return self._depth_colours()(depth, opacity)
        if look.kind == "normals":
            return normal_colours(depth, opacity, label)
        return np.repeat(np.round(opacity * 255).astype(np.uint8)[..., None], 3, axis=2)

    def volume(self, look: Look, beta: np.ndarray) -> Volume:
        """The head with the expression of a look: f_e(beta + units) + sum_i a_i s_i v_i, s_i see `direction_scales`."""
        return self._head.volume(self.refined(look, beta))

    def refined(self, look: Look, beta: np.ndarray) -> Tensor:
        """beta' [1, d] of a look. Units are held within the space's range, as far as beta [D] itself is."""
        space = self.network.space
        moved = np.array(beta, np.float32)
        for name, amount in look.units:
            at = space.names.index(name)
            moved[at] += amount
            if (limits := space_limits(space)) is not None:
                moved[at] = np.clip(moved[at], min(limits[0], beta[at]), max(limits[1], beta[at]))
        refined = self.network.refine(moved)
        for index, amount in look.directions:
            refined = refined + amount * self._along[index]
        return refined

    def label(self, look: Look, camera: np.ndarray) -> np.ndarray:
        """The camera label [25] of a look."""
        angles = (look.yaw_deg, look.pitch_deg, look.roll_deg)
        return turned(camera, *(math.radians(a) for a in angles))

    def _depth_colours(self) -> DepthColours:
        # One range for all pictures of a photo, whichever comes first: its own view chooses it.
        if self._colours is None:
            self._colours = DepthColours()
            own = self.volume(Look(), self.photo.beta)
            side = self.network.model.config.raw_resolution
            self._colours(*self.network.surface(own, self.photo.camera, side))
        return self._colours


def normal_colours(depth: np.ndarray, opacity: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Which way a surface faces, uint8 [h, h, 3]: red to the right, green up, blue towards the camera; nothing is page.

    depth: [h, h], along the ray, world units. label: [25], of the camera that sees it.
    """
    side = len(depth)
    _, k = split_label(np.asarray(label, np.float64))
    at = (np.arange(side) + 0.5) / side
    v, u = np.meshgrid(at, at, indexing="ij")
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(k).T
    points = rays / np.linalg.norm(rays, axis=-1, keepdims=True) * depth[..., None]
    across, down = np.gradient(points, axis=1), np.gradient(points, axis=0)
    normals = np.cross(down, across)  # towards the camera, x right, y down, z forward
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
    colour = (normals * (1, -1, -1) + 1) * 127.5
    solidity = np.clip(opacity, 0, 1)[..., None]
    return np.round(colour * solidity + np.array(PAGE) * (1 - solidity)).astype(np.uint8)


def _shrunk(detail: Tensor | None, resolution: int) -> Tensor | None:
    """The source's detail for pictures of at most MOVING_PX; None where they are of the network's own size."""
    if detail is None:
        return None
    times = min(detail.shape[-1], MOVING_PX) // resolution
    if times < 2:
        return None
    size = (times * resolution, times * resolution)
    with torch.inference_mode():
        return functional.interpolate(detail, size, mode="area")
