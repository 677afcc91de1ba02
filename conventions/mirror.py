"""Left-right mirroring of expression parameters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from conventions.spaces import ExpressionSpace
from dnnlib.errors import UserError


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
            "set data.mirror=false"
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
