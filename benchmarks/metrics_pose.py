"""APD against the true angle between two views of synthetic heads: `python -m benchmarks.metrics pose`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from metrics.face import angle_deg
from metrics.networks import Networks
from metrics.pairs import Pairs, Side
from metrics.registry import get_metric
from tracking.crop import MEAN_FACE_5, five_points
from training.rendering.cameras import camera_label, deep3d_to_world, project_points
from training.synthesis.heads import SyntheticHeads
from training.synthesis.motion import units_to_beta

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

    Pictures in which no face is found, or in which the landmarks are not on the face (hair, masks and frames cover some
    of these people), are counted and left out: nothing that looks at landmarks can measure them.
    """
    torch.set_num_threads(1)
    heads, networks = SyntheticHeads(seed=SEED, cache_size=2), Networks()
    errors: dict[str, list[float]] = {"views": [], "expressions": []}
    lost = 0
    for person in range(n_people):
        front = Side([_picture(heads, person, (0, 0), {})], networks)
        for kind, view, units in (
            *(("views", view, {}) for view in VIEWS),
            *(("expressions", v, u) for u in EXPRESSIONS.values() for v in TURNED),
        ):
            seen = Side([_picture(heads, person, view, units)], networks)
            if not (_on_the_face(front, (0, 0)) and _on_the_face(seen, view)):
                lost += 1
                continue
            found = float(get_metric("apd").frame(Pairs(seen, front))[0])  # type: ignore[misc]
            errors[kind].append(abs(found - angle_deg(_rotation(view), _rotation((0, 0)))))
    both = {**errors, "all": errors["views"] + errors["expressions"]}
    return {
        "people": n_people,
        "seed": SEED,
        "pairs_without_a_face": lost,
        "error_deg": {kind: _summary(np.array(values)) for kind, values in both.items()},
    }


def _on_the_face(side: Side, view: tuple[float, float]) -> bool:
    """Are eyes, nose tip and mouth corners about where the crop puts those of every head?"""
    face = side.faces[0]
    if face is None:
        return False
    expected = (
        project_points(deep3d_to_world(MEAN_FACE_5, np.zeros(3), np.zeros(3)), _label(view)) * SIZE
    )
    distance = np.linalg.norm(five_points(face.landmarks) - expected, axis=1)
    return bool(distance.mean() < OFF_THE_FACE * SIZE)


def _picture(
    heads: SyntheticHeads, person: int, view: tuple[float, float], units: dict[str, float]
) -> np.ndarray:
    frame = heads.render(person, units_to_beta(**units), _label(view), SIZE, 1)
    return np.asarray(frame.image)


def _label(view: tuple[float, float]) -> np.ndarray:
    return camera_label(*np.deg2rad(view))


def _rotation(view: tuple[float, float]) -> np.ndarray:
    return _label(view)[:16].reshape(4, 4)[:3, :3].T.astype(np.float64)


def _summary(errors: np.ndarray) -> dict[str, float]:
    return {
        "pairs": len(errors),
        "mean": float(errors.mean()),
        "median": float(np.median(errors)),
        "percentile_95": float(np.percentile(errors, 95)),
        "max": float(errors.max()),
    }
