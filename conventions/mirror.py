"""Left-right mirroring of expression parameters and of the further labels of prepared data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from conventions.landmarks import MIRROR_70
from conventions.spaces import ExpressionSpace
from dnnlib.errors import UserError

# What else helps, by the name of the space.
_CURES = {"bfm64": ", or give data.bfm_model, the Basel model's file"}


def mirror_permutation(space: ExpressionSpace) -> npt.NDArray[np.int64]:
    """Permutation p with `beta[..., p]` = the expression of the mirrored face.

    Works for spaces whose parameters carry "Left" and "Right" in their names, as the 52 ARKit units do.

    Raises:
        UserError: no name says left or right, or one has no partner; a linear face model's parameters do not mirror
            by exchange.
    """
    places = {name: i for i, name in enumerate(space.names)}
    partners = [_partner(name) for name in space.names]
    if len(space.names) != space.dim or all(
        p == n for p, n in zip(partners, space.names, strict=True)
    ):
        raise UserError(
            f"the expression space {space.name!r} does not name left and right, so its parameters cannot be mirrored; "
            f"set data.mirror=false{_CURES.get(space.name, '')}"
        )
    if alone := [n for n, p in zip(space.names, partners, strict=True) if p not in places]:
        raise UserError(
            f"{alone[0]!r} of the expression space {space.name!r} has no partner; set data.mirror=false"
        )
    return np.array([places[p] for p in partners], dtype=np.int64)


def _partner(name: str) -> str:
    if "Left" in name:
        return name.replace("Left", "Right")
    return name.replace("Right", "Left")


Labels = npt.NDArray[np.float32]
Mirror = Callable[[Labels], Labels]  # values [..., D] -> those of the mirrored picture


@dataclass(frozen=True)
class LinearMirror:
    """beta of the mirrored face = A beta, for spaces whose parameters have no partners."""

    matrix: npt.NDArray[np.float64]  # A, [D, D]
    hash: str  # of the face model it was made from
    error: float  # share of the basis that A does not mirror

    def __call__(self, values: Labels) -> Labels:
        return np.asarray(values @ self.matrix.T, dtype=values.dtype)


def mirror_by_names(space: ExpressionSpace) -> Mirror:
    """Left and right change places. Raises what `mirror_permutation` raises."""
    return partial(_exchange, permutation=mirror_permutation(space))


def _exchange(values: Labels, permutation: npt.NDArray[np.int64]) -> Labels:
    return values[..., permutation]


def _as_it_is(values: Labels) -> Labels:
    return values


def mirror_landmarks(points: Labels) -> Labels:
    """x, y of `LANDMARKS_70` in widths of the crop, [..., 140] -> those of the mirrored picture."""
    xy = points.reshape(*points.shape[:-1], -1, 2)[..., list(MIRROR_70), :].copy()
    xy[..., 0] = 1 - xy[..., 0]
    return xy.reshape(points.shape)


def mirror_gaze(gaze: Labels) -> Labels:
    """x, y of the eye at the image's left, then at its right, [..., 4] -> those of the mirrored picture."""
    return np.asarray(gaze[..., [2, 3, 0, 1]] * np.array([-1, 1, -1, 1], gaze.dtype))


def mirror_crop(crop: Labels, size: int) -> Labels:
    """Scale s and offset x, y of crops of `size` pixels, [..., 3] -> those of the mirrored picture.

    The video is mirrored too: its pixel (u, v) counts as (-u, v).
    """
    return np.asarray(np.stack([crop[..., 0], size - crop[..., 1], crop[..., 2]], axis=-1))


def label_mirrors(
    names: tuple[str, ...],
    space: ExpressionSpace | None,  # of labels whose names begin with "beta"
    size: int,  # side of the pictures, pixels
    of_beta: Mirror | None = None,  # how they mirror; None: by their names
) -> Mapping[str, Callable[[Labels], Labels]]:
    """Name of a label -> what makes of its values those of the mirrored picture; goes to other processes.

    Raises:
        UserError: it is not known of a label how it mirrors.
    """
    known: dict[str, Callable[[Labels], Labels]] = {
        "landmarks": mirror_landmarks,
        "gaze": mirror_gaze,
        "crop": partial(mirror_crop, size=size),
        "quality": _as_it_is,
        "confidence": _as_it_is,
    }
    if space is not None:
        mirror = of_beta or mirror_by_names(space)
        known |= {n: mirror for n in names if n.startswith("beta")}
    if unknown := [n for n in names if n not in known]:
        raise UserError(
            f"it is not known how the label {unknown[0]!r} mirrors; leave it out or set data.mirror=false"
        )
    return known
