"""How each expression unit moves the surface of a face seen from the front: the head model as a teacher of motion.

A ray is cast straight back through every cell of the XY plane at heads of many people with many expressions. Linear
least squares on the units then gives two fields per unit: what it added to the surface that is *there now* (to be
undone), and what it adds to the surface of the neutral face. The first cannot be exact: behind a closing lid there is
an eye. Logistic regression tells where the inside of the mouth is seen.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from dataset.synthesis.arrays import FloatArray
from dataset.synthesis.basis import TEETH, Part, Region, cache_folder, load_basis
from dataset.synthesis.expression import pose_head
from dataset.synthesis.motion import N_UNITS, sample_clip
from dataset.synthesis.rays import Tracer
from dataset.synthesis.shape import sample_shape
from dnnlib import UserError
from dnnlib.files import atomic_path
from dnnlib.reading.arrays import read_npz

FIELDS_VERSION = 3
_SEED = 52_000  # people that no dataset holds: shapes are drawn from (seed, number) without a population
_N_PEOPLE, _FRAMES, _STRIDE_S = 80, 15, 0.7
NEVER = -6.0  # logit
_SOMETHING = 0.3  # of a column's largest value
_RIDGE = (
    1e-3  # of a unit's mean square, which is 0.01 to 0.1: only what hardly ever moves is held back
)


class UnitFields(NamedTuple):
    """Linear in the units, the last of 52 + 1 rows is the offset."""

    undo: FloatArray  # world units, float32 [52 + 1, 3, P, P]
    apply: FloatArray  # likewise
    inside: FloatArray  # logits of the inside of the mouth being seen, float32 [52 + 1, P, P]


class Observed(NamedTuple):
    """M faces of many people, through every cell of the XY plane."""

    betas: FloatArray  # true units, [M, 52]
    there_now: FloatArray  # how the posed surface was displaced, world units, [M, 3 * P * P]
    neutral: FloatArray  # how the neutral surface is, likewise
    inside: FloatArray  # how far the posed surface is the inside of the mouth, [M, P * P] in [0, 1]


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
        return UnitFields(arrays["undo"], arrays["apply"], arrays["inside"])
    except (UserError, KeyError):
        pass  # absent or damaged: fit anew
    seen = observe_motion(side, box_side, n_people, frames)
    undo, apply = (
        ridge(seen.betas, y).reshape(N_UNITS + 1, 3, side, side)
        for y in (seen.there_now, seen.neutral)
    )
    inside = logistic(seen.betas, seen.inside).reshape(N_UNITS + 1, side, side)
    fields = UnitFields(undo, apply, inside)
    # a read-only home costs the fit again, no more
    with suppress(UserError), atomic_path(path) as temporary:
        np.savez_compressed(temporary, **fields._asdict())
    return fields


def observe_motion(
    side: int, box_side: float, n_people: int, frames: int, first_person: int = 0
) -> Observed:
    """Heads with random expressions, measured by rays straight back through each cell."""
    basis = load_basis()
    mouth = np.isin(basis.part_of_vertex, [*TEETH, Part.TONGUE])
    within = np.where(mouth, 1, basis.masks[:, Region.INSIDE_MOUTH]).astype(np.float32)[:, None]
    triangles = basis.triangles[basis.part_of_face != Part.LASHES]
    at = ((np.arange(side) + 0.5) / side - 0.5) * box_side
    x, y = np.meshgrid(at, -at)  # row 0 at the top
    origins = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3).astype(np.float32)
    back = np.broadcast_to(np.array([0, 0, -1], np.float32), origins.shape)

    def at_first_hit(surface: FloatArray, *of_vertices: FloatArray) -> list[FloatArray]:
        hits = Tracer(surface, triangles).first_hit(origins, back)
        found = hits.triangle >= 0
        corners, weights = triangles[hits.triangle[found]], hits.weights[found][..., None]
        out = [np.zeros((len(origins), x.shape[1]), np.float32) for x in of_vertices]
        for at_cells, x in zip(out, of_vertices, strict=True):
            at_cells[found] = (x[corners] * weights).sum(axis=1)
        return [x.T.reshape(-1) for x in out]

    rows = []
    for person in range(first_person, first_person + n_people):
        rng = np.random.default_rng([_SEED, person])
        shape = sample_shape(rng)
        rest = shape.to_world(pose_head(shape, np.zeros(N_UNITS, np.float32))[0])
        for beta in sample_clip(rng, frames, _STRIDE_S).beta_true:
            posed = shape.to_world(pose_head(shape, beta)[0])
            there_now, inside = at_first_hit(posed, posed - rest, within)
            rows.append((beta, there_now, *at_first_hit(rest, posed - rest), inside))
    return Observed(*(np.stack(column) for column in zip(*rows, strict=True)))


def ridge(x: FloatArray, y: FloatArray) -> FloatArray:
    """Least squares y ~ [x, 1] w with a small ridge on all but the offset: [M, D], [M, K] -> float32 [D + 1, K]."""
    ones = np.ones((len(x), 1))
    design = np.concatenate([x.astype(np.float64), ones], axis=1)
    normal = design.T @ design / len(x)
    normal[np.arange(x.shape[1]), np.arange(x.shape[1])] += _RIDGE
    return np.asarray(np.linalg.solve(normal, design.T @ y / len(x)), np.float32)


def logistic(x: FloatArray, y: FloatArray) -> FloatArray:
    """Logits of y in [0, 1] ~ [x, 1] w, with a small ridge on all but the offset: [M, D], [M, K] -> float32 [D + 1, K].

    Columns in which next to nothing happens get `NEVER` and no slope.
    """
    out = np.zeros((x.shape[1] + 1, y.shape[1]), np.float32)
    out[-1] = NEVER
    (some,) = np.nonzero(y.max(axis=0) > _SOMETHING)
    if len(some) == 0:
        return out
    design = torch.from_numpy(np.concatenate([x, np.ones((len(x), 1))], axis=1)).double()
    wanted = torch.from_numpy(y[:, some]).double()
    w = torch.from_numpy(out[:, some]).double().contiguous().requires_grad_()
    search = torch.optim.LBFGS([w], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        search.zero_grad()
        fit = F.binary_cross_entropy_with_logits(design @ w, wanted)
        total = fit + _RIDGE * w[:-1].square().sum() / wanted.shape[1]
        total.backward()
        return total

    search.step(loss)
    out[:, some] = w.detach().numpy()
    return out
