"""Who a synthetic person is: the head's shape, and how it is placed in the world of the camera conventions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from dataset.synthesis.arrays import FloatArray
from dataset.synthesis.basis import TEETH, HeadBasis, Part, Region, load_basis

# Where the aligned crop puts a face: right eye, left eye, nose tip, right and left mouth corner of the mean face of
# Deep3DFaceRecon, averaged over its mirror image and moved to the world by 0.27 * p + (0, 0.006, 0.161), then shrunk as
# the rescaling of the labels' distance asks for   [docs/conventions.md].
# "Right" is the subject's, at negative x. An eye is the middle between the two corners of the fissure.
LABEL_SCALE = 2.7 / 2.861
FACE_POINTS_WORLD = np.float32(LABEL_SCALE) * np.array(
    [
        [-0.0839, 0.0843, 0.1969],
        [0.0839, 0.0843, 0.1969],
        [0.0000, -0.0065, 0.3102],
        [-0.0676, -0.0970, 0.2213],
        [0.0676, -0.0970, 0.2213],
    ],
    np.float32,
)

_OPPOSITES = (
    ("decr", "incr"), ("down", "up"), ("in", "out"), ("backward", "forward"),
    ("concave", "convex"), ("compress", "uncompress"),
)  # fmt: skip
# Shapes that leave the range of people, or only move the head away from the place it is put back to.
_SKIPPED = ("pointed", "head-trans", "neck-scale", "measure-neck-height", "dimples", "head-scale")
# How far a group of targets goes: standard deviation of its weight, before clipping to one.
_SPREAD = {
    "head": 0.22, "nose": 0.32, "eyes": 0.22, "cheek": 0.30, "eyebrows": 0.28, "forehead": 0.28,
    "mouth": 0.28, "chin": 0.28, "ears": 0.32, "neck": 0.2,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A neutral head.

    Attributes:
        vertices: float32 [V, 3], decimetres, the base mesh's frame.
        scale: world units per decimetre.
        offset: float32 [3]; world = scale * vertices + offset.
        age, masculinity: 0..1 (age 0 is a child, 0.5 a young adult, 1 old).
        origin: float32 [3], weights of the african, asian and caucasian targets, sum 1.
        code: float32 [16], a summary of the shape that the expression leakage is made from.
    """

    vertices: FloatArray
    scale: float
    offset: FloatArray
    age: float
    masculinity: float
    origin: FloatArray
    code: FloatArray

    def to_world(self, vertices: FloatArray) -> FloatArray:
        """Decimetres [N, 3] of the base mesh's frame -> world units [N, 3]."""
        return np.asarray(vertices * np.float32(self.scale) + self.offset, np.float32)


@cache
def _axes(n_targets: int) -> list[tuple[str, str, list[tuple[str | None, str]]]]:
    """Shape axes: (folder, kind, [(target for negative weights, target for positive)] per side)."""
    names = [n for n in load_basis().targets if not n.startswith("macro/")]
    known, axes = set(names), []
    done: set[str] = set()
    for name in names:
        if name in done or any(word in name for word in _SKIPPED):
            continue
        folder, stem = name.split("/")
        sides = [name]
        if stem.startswith("l-"):
            sides.append(f"{folder}/r-{stem[2:]}")
        pairs: list[tuple[str | None, str]] = []
        for side in sides:
            low, high = _opposite(side, known)
            pairs.append((low, high))
            done.update({high} | ({low} if low else set()))
        kind = "asymmetry" if folder == "asym" else ("axis" if pairs[0][0] else "one-sided")
        axes.append((folder, kind, pairs))
    return axes


def _opposite(name: str, known: set[str]) -> tuple[str | None, str]:
    for low, high in _OPPOSITES:
        for mine, other in ((low, high), (high, low)):
            if name.endswith(f"-{mine}") and name[: -len(mine)] + other in known:
                stem = name[: -len(mine)]
                return stem + low, stem + high
    return None, name


def sample_shape(rng: np.random.Generator, strength: float = 1.0) -> Shape:
    """Draw a neutral head.

    Args:
        rng: the identity's random stream.
        strength: factor on the spread of the local shape axes; 1 is the range of people.
    """
    basis = load_basis()
    vertices = basis.vertices.copy()
    age = float(np.clip(rng.choice([rng.normal(0.5, 0.1), rng.uniform(0.45, 1.0), rng.uniform(0.15, 0.5)],
                                   p=[0.5, 0.38, 0.12]), 0.12, 1.0))  # fmt: skip
    masculinity = float(rng.beta(0.5, 0.5))
    origin = rng.dirichlet([0.55, 0.55, 0.55]).astype(np.float32)
    weight, muscle = float(np.clip(rng.normal(0, 0.5), -1, 1)), float(rng.uniform(0, 0.8))
    for name, amount in _macro_weights(age, masculinity, origin, weight, muscle).items():
        _add(basis, vertices, name, amount)
    values = []
    for folder, kind, pairs in _axes(len(basis.targets)):
        shared = rng.normal()
        values.append(shared)
        for low, high in pairs:
            if kind == "asymmetry":
                amount = rng.uniform(0, 0.3) if rng.random() < 0.12 else 0.0
            elif kind == "one-sided":
                amount = rng.uniform(0, 0.6) if shared > 0.9 else 0.0
            else:
                # The template's eyes are narrow beside those of photographs.
                lift = 0.45 if "eye-height2" in high else (0.25 if "eye-scale" in high else 0.0)
                spread = _SPREAD.get(folder, 0.3) * strength
                amount = float(np.clip(lift + spread * (shared + 0.18 * rng.normal()), -1, 1))
            target = high if amount > 0 else low
            if target is not None and amount:
                _add(basis, vertices, target, abs(amount))
    _seat_teeth(basis, vertices)
    macro = [age * 2 - 1, masculinity * 2 - 1, *(origin * 3 - 1), weight, muscle]
    code = np.concatenate([macro, np.asarray(values)[:9]]).astype(np.float32)[:16]
    scale, offset = _place(basis, vertices)
    return Shape(vertices, scale, offset, age, masculinity, origin, code)


def _macro_weights(
    age: float, masculinity: float, origin: FloatArray, weight: float, muscle: float
) -> dict[str, float]:
    ages = {
        "child": max(0.0, 1 - 2 * age),
        "young": 1 - abs(2 * age - 1),
        "old": max(0.0, 2 * age - 1),
    }
    genders = {"male": masculinity, "female": 1 - masculinity}
    weights = {
        "minweight": max(0.0, -weight),
        "averageweight": 1 - abs(weight),
        "maxweight": max(0.0, weight),
    }
    muscles = {"averagemuscle": 1 - muscle, "maxmuscle": muscle}
    result = {
        f"macro/universal-{g}-{a}-{m}-{w}": genders[g] * ages[a] * muscles[m] * weights[w]
        for g in genders for a in ages for m in muscles for w in weights
    }  # fmt: skip
    for share, name in zip(origin, ("african", "asian", "caucasian"), strict=True):
        for g in genders:
            for a in ages:
                result[f"macro/{name}-{g}-{a}"] = float(share) * genders[g] * ages[a]
    return result


def _add(basis: HeadBasis, vertices: FloatArray, name: str, amount: float) -> None:
    if amount:
        ids, offsets = basis.targets[name]
        vertices[ids] += np.float32(amount) * offsets


def _seat_teeth(basis: HeadBasis, vertices: FloatArray) -> None:
    """Keeps teeth and tongue as far behind the skin under the lip as they are in the template, and a little more."""
    template = basis.vertices
    middle = (
        (basis.part_of_vertex == Part.SKIN)
        & (np.abs(template[:, 0]) < 0.06)
        & (template[:, 2] > 1.3)
    )
    middle &= (basis.masks[:, Region.INSIDE_MOUTH] < 0.1) & (basis.masks[:, Region.LIPS] < 0.3)
    fold = np.flatnonzero(middle & (template[:, 1] > 6.42) & (template[:, 1] < 6.56))
    front = basis.vertices_of(Part.LOWER_TEETH)
    gap = template[fold, 2].min() - template[front, 2].max()
    too_far = vertices[front, 2].max() - (vertices[fold, 2].min() - gap)
    for part in (*TEETH, Part.TONGUE):
        vertices[basis.vertices_of(part), 2] -= np.float32(max(0.0, too_far) + 0.025)
    # The lining of the lips lies 0.2 mm under the skin: deeper, or thin-lipped people show it through the chin.
    lining = (
        (basis.masks[:, Region.INSIDE_MOUTH] > 0.5)
        & (basis.masks[:, Region.LIPS] < 0.2)
        & (template[:, 2] > 1.3)
    )
    vertices[lining, 2] -= np.float32(0.07)


def five_points(basis: HeadBasis, vertices: FloatArray) -> FloatArray:
    """The points of `FACE_POINTS_WORLD` on a head, float32 [5, 3] in the units of `vertices`."""
    point = {name: vertices[basis.landmark(name)] for name in (
        "left_eye_outer", "left_eye_inner", "right_eye_inner", "right_eye_outer", "nose_tip",
        "left_mouth_corner", "right_mouth_corner",
    )}  # fmt: skip
    return np.stack(
        [
            0.5 * (point["right_eye_outer"] + point["right_eye_inner"]),
            0.5 * (point["left_eye_outer"] + point["left_eye_inner"]),
            point["nose_tip"],
            point["right_mouth_corner"],
            point["left_mouth_corner"],
        ]
    )


def _place(basis: HeadBasis, vertices: FloatArray) -> tuple[float, FloatArray]:
    """Scale and translation (no rotation) that bring the five points nearest to FACE_POINTS_WORLD."""
    points = five_points(basis, vertices).astype(np.float64)
    # Depth of a nose differs most between people and matters least for the crop.
    weight = np.array([1.0, 1.0, 0.35])
    middle, goal = points.mean(axis=0), FACE_POINTS_WORLD.mean(axis=0).astype(np.float64)
    a, b = (points - middle) * weight, (FACE_POINTS_WORLD - goal) * weight
    scale = float((a * b).sum() / (a * a).sum())
    return scale, (goal - scale * middle).astype(np.float32)
