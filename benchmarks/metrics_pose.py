"""APD against the true angle between two views of synthetic heads: `python -m benchmarks.metrics pose`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from conventions.cameras import camera_label, deep3d_to_world, project_points
from conventions.crop import MEAN_FACE_5, five_points
from dataset.synthesis.heads import SyntheticHeads
from dataset.synthesis.motion import units_to_beta
from metrics.face import angle_deg
from metrics.head_pose import fit_rotation, rotation_of
from metrics.networks import Networks
from metrics.pairs import Pairs, Side
from metrics.registry import get_metric

SIZE = 256
SEED = 21  # people that nothing was chosen on
# (yaw, pitch) in degrees, and whether the other expressions are rendered there too
VIEWS = ((8, 0), (-12, 6), (0, 12), (0, -12), (20, 0), (-25, -5), (12, -8), (-5, 3), (30, 5))
EXPRESSIONS: dict[str, dict[str, float]] = {
    "jaw open": {"jawOpen": 0.7},
    "smile": {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.8, "cheekSquintLeft": 0.5},
    "brows up": {"browInnerUp": 0.9, "mouthPucker": 0.7},
}
OFF_THE_FACE = 0.06  # picture widths; people's own proportions make up to 0.035
TURNED = ((0, 0), (-12, 6), (0, -12))  # views of the expressions


def measure(n_people: int) -> dict[str, Any]:
    """Error of APD in degrees, of every view and expression against the same head, frontal and neutral.

    Pictures in which no face is found, or in which the landmarks are not on the face, are counted and left out: nothing
    that looks at landmarks can measure them. `uncovered`: people without glasses and without long hair, which hides
    the side of a turned face. `one_reading`: the tracker's fit to the landmarks as they are detected.
    """
    torch.set_num_threads(1)
    heads, networks = SyntheticHeads(seed=SEED, cache_size=2), Networks()
    # uncovered, true angle, error, error of one reading
    rows: list[tuple[bool, float, float, float]] = []
    lost = uncovered = 0
    for person in range(n_people):
        look = heads.person(person).look
        bare = look.glasses is None and look.hair_style != "long"
        uncovered += bare
        front = Side([_picture(heads, person, (0, 0), {})], networks)
        for view, units in (
            *((view, {}) for view in VIEWS),
            *((view, units) for units in EXPRESSIONS.values() for view in TURNED),
        ):
            seen = Side([_picture(heads, person, view, units)], networks)
            if not (_on_the_face(front, (0, 0)) and _on_the_face(seen, view)):
                lost += 1
                continue
            truth = angle_deg(rotation_of(_label(view)), rotation_of(_label((0, 0))))
            found = float(get_metric("apd").frame(Pairs(seen, front))[0])  # type: ignore[misc]
            once = [fit_rotation(s.faces[0].landmarks) for s in (seen, front)]  # type: ignore[union-attr]
            rows.append((bare, truth, abs(found - truth), abs(angle_deg(*once) - truth)))
    table = np.array(rows)
    open_face: np.ndarray = table[:, 0] > 0
    groups: dict[str, np.ndarray] = {
        "all": np.ones(len(table), bool),
        "uncovered": open_face,
        "uncovered_to_15_deg": open_face & (table[:, 1] <= 15),
    }
    return {
        "people": n_people,
        "people_uncovered": uncovered,
        "seed": SEED,
        "pairs_without_a_face": lost,
        "error_deg": {name: _summary(table[chosen, 2]) for name, chosen in groups.items()},
        "error_deg_one_reading": {n: _summary(table[chosen, 3]) for n, chosen in groups.items()},
    }


def _on_the_face(side: Side, view: tuple[float, float]) -> bool:
    """Are eyes, nose tip and mouth corners about where the crop puts those of every head?"""
    face = side.faces[0]
    if face is None:
        return False
    points = deep3d_to_world(MEAN_FACE_5, np.zeros(3), np.zeros(3))
    expected = project_points(points, _label(view)) * SIZE
    distance = np.linalg.norm(five_points(face.landmarks) - expected, axis=1)
    return bool(distance.mean() < OFF_THE_FACE * SIZE)


def _picture(
    heads: SyntheticHeads, person: int, view: tuple[float, float], units: dict[str, float]
) -> np.ndarray:
    frame = heads.render(person, units_to_beta(**units), _label(view), SIZE, 1)
    return np.asarray(frame.image)


def _label(view: tuple[float, float]) -> np.ndarray:
    return camera_label(*np.deg2rad(view))


def _summary(errors: np.ndarray) -> dict[str, float]:
    return {
        "pairs": len(errors),
        "mean": float(errors.mean()),
        "median": float(np.median(errors)),
        "percentile_95": float(np.percentile(errors, 95)),
        "max": float(errors.max()),
    }
