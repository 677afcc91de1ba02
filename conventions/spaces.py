"""Declared expression spaces: what the numbers of a beta vector mean, stored with data and checkpoints.

A network trained on one space cannot read another, so the space travels with every dataset and checkpoint and is
compared wherever two of them meet (`check_same_space`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dnnlib.errors import UserError
from dnnlib.typed import from_dict


@dataclass(frozen=True)
class ExpressionSpace:
    """A named expression space. Frozen and hashable."""

    name: str  # "arkit52", "bfm64", ...
    dim: int  # D, length of beta
    tracker: str  # what measures beta
    tracker_version: str
    names: tuple[str, ...]  # one name per coefficient, in order

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if self.dim < 1 or len(self.names) != self.dim:
            raise ValueError(
                f"space {self.name!r} has dimension {self.dim} but {len(self.names)} names"
            )
        if len(set(self.names)) != self.dim:
            raise ValueError(f"space {self.name!r} uses a name twice")

    @property
    def limits(self) -> tuple[float, float] | None:
        """Range of one unit: ARKit's blendshapes lie in [0, 1], coefficients of a face model are unbounded (None)."""
        return (0.0, 1.0) if self.name.startswith("arkit") else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back."""
        return {**asdict(self), "names": list(self.names)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ExpressionSpace:
        """Inverse of `to_dict`. Raises UserError for values that are not of its making, naming the first."""
        return from_dict(cls, values, "expression")


# Order of MediaPipe's face landmarker, `_neutral` at index 0 included. Left and right are the subject's own.
ARKIT52_NAMES = (
    "_neutral",
    "browDownLeft",
    "browDownRight",
    "browInnerUp",
    "browOuterUpLeft",
    "browOuterUpRight",
    "cheekPuff",
    "cheekSquintLeft",
    "cheekSquintRight",
    "eyeBlinkLeft",
    "eyeBlinkRight",
    "eyeLookDownLeft",
    "eyeLookDownRight",
    "eyeLookInLeft",
    "eyeLookInRight",
    "eyeLookOutLeft",
    "eyeLookOutRight",
    "eyeLookUpLeft",
    "eyeLookUpRight",
    "eyeSquintLeft",
    "eyeSquintRight",
    "eyeWideLeft",
    "eyeWideRight",
    "jawForward",
    "jawLeft",
    "jawOpen",
    "jawRight",
    "mouthClose",
    "mouthDimpleLeft",
    "mouthDimpleRight",
    "mouthFrownLeft",
    "mouthFrownRight",
    "mouthFunnel",
    "mouthLeft",
    "mouthLowerDownLeft",
    "mouthLowerDownRight",
    "mouthPressLeft",
    "mouthPressRight",
    "mouthPucker",
    "mouthRight",
    "mouthRollLower",
    "mouthRollUpper",
    "mouthShrugLower",
    "mouthShrugUpper",
    "mouthSmileLeft",
    "mouthSmileRight",
    "mouthStretchLeft",
    "mouthStretchRight",
    "mouthUpperUpLeft",
    "mouthUpperUpRight",
    "noseSneerLeft",
    "noseSneerRight",
)

# Parts of a face and how the names of ARKit's units for them begin; gaze is where the eyes look, eyes are their lids.
EXPRESSION_REGIONS = {
    "mouth": ("jaw", "mouth", "cheekPuff", "noseSneer", "tongue"),
    "eyes": ("eyeBlink", "eyeSquint", "eyeWide", "cheekSquint"),
    "brows": ("brow",),
    "gaze": ("eyeLook",),
}
POSE = "pose"  # where the head turns: no part of beta
REGIONS = (*EXPRESSION_REGIONS, POSE)

ARKIT52 = ExpressionSpace("arkit52", 52, "mediapipe-face-landmarker", "1", ARKIT52_NAMES)
BFM64 = ExpressionSpace(
    "bfm64", 64, "deep3dfacerecon", "1", tuple(f"exp{i:02d}" for i in range(64))
)
SPACES = {space.name: space for space in (ARKIT52, BFM64)}


def same_tracker(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether two records {"name", "hash"} of trackers do not contradict each other.

    Only hashes of one tracker are compared: who paints or copies labels has a name of its own, and the space says what
    measures. Behind a slash older records hold the hash of a model that judged labels and changed none.
    """
    if theirs.get("name") != ours.get("name"):
        return True
    a, b = (str(record.get("hash") or "").partition("/")[0] for record in (theirs, ours))
    return not a or not b or a == b


def units_of(space: ExpressionSpace, region: str) -> tuple[int, ...]:
    """Places in beta of the units of a region of EXPRESSION_REGIONS; () where the space names none."""
    starts = EXPRESSION_REGIONS[region]
    return tuple(i for i, name in enumerate(space.names) if name.startswith(starts))


def check_same_space(a: ExpressionSpace, b: ExpressionSpace, what: str) -> None:
    """Raise UserError unless two spaces agree in everything; `what` names the two things that carry them.

    check_same_space(model.space, dataset.space, "model.safetensors and data/clips")
    """
    if a == b:
        return
    for label, x, y in (
        ("expression spaces", a.name, b.name),
        ("expression dimensions", a.dim, b.dim),
        ("expression trackers", a.tracker, b.tracker),
        ("tracker versions", a.tracker_version, b.tracker_version),
    ):
        if x != y:
            raise UserError(
                f"{what} have different {label} ({x} and {y}); track the data again or use the matching network"
            )
    i = next(i for i, (x, y) in enumerate(zip(a.names, b.names, strict=True)) if x != y)
    raise UserError(
        f"{what} order the coefficients of {a.name} differently (at {i}: {a.names[i]} and {b.names[i]}); "
        "track the data again or use the matching network"
    )
