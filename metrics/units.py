"""Groups of ARKit units in which following is measured, defined once. Left and right are the subject's own.

A group has one signal a side, a signed sum of units. The sides are pooled: each is a series with a mean of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from conventions.spaces import ARKIT52


class UnitGroup(NamedTuple):
    """A part of the face that moves."""

    name: str
    signals: tuple[Mapping[str, int], ...]  # of each side: unit -> sign


def _sides(name: str, unit: str) -> UnitGroup:
    return UnitGroup(name, ({f"{unit}Left": 1}, {f"{unit}Right": 1}))


GROUPS = (
    UnitGroup("jaw", ({"jawOpen": 1},)),
    _sides("smile", "mouthSmile"),
    UnitGroup("pucker", ({"mouthPucker": 1},)),
    _sides("blink", "eyeBlink"),
    _sides("squint", "eyeSquint"),
    _sides("lower lip", "mouthLowerDown"),
    _sides("upper lip", "mouthUpperUp"),
    UnitGroup("brow inner up", ({"browInnerUp": 1},)),
    _sides("brow outer up", "browOuterUp"),
    _sides("brow down", "browDown"),
    # towards the subject's left, and up
    UnitGroup(
        "gaze x",
        (
            {"eyeLookOutLeft": 1, "eyeLookInLeft": -1},
            {"eyeLookInRight": 1, "eyeLookOutRight": -1},
        ),
    ),
    UnitGroup(
        "gaze y",
        (
            {"eyeLookUpLeft": 1, "eyeLookDownLeft": -1},
            {"eyeLookUpRight": 1, "eyeLookDownRight": -1},
        ),
    ),
)


def signals(group: UnitGroup, beta: np.ndarray) -> np.ndarray:
    """The group's signals float64 [T, sides] of expressions beta [T, 52] in arkit52."""
    weights = np.zeros((ARKIT52.dim, len(group.signals)))
    for side, units in enumerate(group.signals):
        for unit, sign in units.items():
            weights[ARKIT52.names.index(unit), side] = sign
    out: np.ndarray = np.asarray(beta, np.float64) @ weights
    return out
