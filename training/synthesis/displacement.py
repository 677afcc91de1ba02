"""How each expression unit moves the surface of a face seen from the front: the head model as a teacher of motion.

A ray is cast straight back through every cell of the XY plane at heads of many people with many expressions. Linear
least squares on the units then gives two fields per unit: what it added to the surface that is *there now* (to be
undone), and what it adds to the surface of the neutral face. The first cannot be exact: behind a closing lid there is
an eye.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import numpy as np

from dnnlib import UserError
from dnnlib.files import atomic_path
from dnnlib.reading.arrays import read_npz
from training.synthesis.arrays import FloatArray
from training.synthesis.basis import PARTS, cache_folder, load_basis
from training.synthesis.expression import pose_head
from training.synthesis.motion import N_UNITS, sample_clip
from training.synthesis.rays import Tracer
from training.synthesis.shape import sample_shape

FIELDS_VERSION = 1
_SEED = 52_000  # people that no dataset holds: shapes are drawn from (seed, number) without a population
_N_PEOPLE, _FRAMES, _STRIDE_S = 80, 15, 0.7
_RIDGE = (
    1e-3  # of a unit's mean square, which is 0.01 to 0.1: only what hardly ever moves is held back
)


class UnitFields(NamedTuple):
    """World units, float32 [52 + 1, 3, P, P]; the last row is the offset."""

    undo: FloatArray
    apply: FloatArray


def unit_fields(
    side: int,  # P
    box_side: float,  # world units
    n_people: int = _N_PEOPLE,
    frames: int = _FRAMES,
) -> UnitFields:
    """The fields of all units, fitted (half a minute) or from the cache of an earlier fit."""
    name = f"unit-fields-{FIELDS_VERSION}-{side}-{box_side:g}-{n_people}-{frames}.npz"
    path = cache_folder() / name
    try:
        arrays = read_npz(path)
        return UnitFields(arrays["undo"], arrays["apply"])
    except (UserError, KeyError):
        pass  # absent or damaged: fit anew
    betas, there_now, neutral = observe_motion(side, box_side, n_people, frames)
    fields = UnitFields(
        *(ridge(betas, y).reshape(N_UNITS + 1, 3, side, side) for y in (there_now, neutral))
    )
    # a read-only home costs the fit again, no more
    with suppress(UserError), atomic_path(path) as temporary:
        np.savez_compressed(temporary, undo=fields.undo, apply=fields.apply)
    return fields


def observe_motion(
    side: int, box_side: float, n_people: int, frames: int, first_person: int = 0
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """beta [M, 52] and how it displaced, in world units [M, 3 * P * P], the posed and the neutral surface."""
    basis = load_basis()
    triangles = basis.triangles[basis.part_of_face != PARTS.index("lashes")]
    at = ((np.arange(side) + 0.5) / side - 0.5) * box_side
    x, y = np.meshgrid(at, -at)  # row 0 at the top
    origins = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3).astype(np.float32)
    back = np.broadcast_to(np.array([0, 0, -1], np.float32), origins.shape)

    def displaced(surface: FloatArray, motion: FloatArray) -> FloatArray:
        hits = Tracer(surface, triangles).first_hit(origins, back)
        found = hits.triangle >= 0
        out = np.zeros_like(origins)
        corners = motion[triangles[hits.triangle[found]]]
        out[found] = (corners * hits.weights[found][..., None]).sum(axis=1)
        return np.asarray(out.T.reshape(-1), np.float32)

    betas, there_now, neutral = [], [], []
    for person in range(first_person, first_person + n_people):
        rng = np.random.default_rng([_SEED, person])
        shape = sample_shape(rng)
        rest = shape.to_world(pose_head(shape, np.zeros(N_UNITS, np.float32))[0])
        for beta in sample_clip(rng, frames, _STRIDE_S).beta_true:
            posed = shape.to_world(pose_head(shape, beta)[0])
            betas.append(beta)
            there_now.append(displaced(posed, posed - rest))
            neutral.append(displaced(rest, posed - rest))
    return np.stack(betas), np.stack(there_now), np.stack(neutral)


def ridge(x: FloatArray, y: FloatArray) -> FloatArray:
    """Least squares y ~ [x, 1] w with a small ridge on all but the offset: [M, D], [M, K] -> float32 [D + 1, K]."""
    ones = np.ones((len(x), 1))
    design = np.concatenate([x.astype(np.float64), ones], axis=1)
    normal = design.T @ design / len(x)
    normal[np.arange(x.shape[1]), np.arange(x.shape[1])] += _RIDGE
    return np.asarray(np.linalg.solve(normal, design.T @ y / len(x)), np.float32)
