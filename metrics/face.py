"""Metrics of what a tracker and a recognition network see in the output: AKD, CSIM, AED, APD, gaze.

Prediction and reference are measured by the same network, each picture by itself. A pair in which a face is missing on
either side gives NaN, which counts as a failure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from metrics.registry import frame_metric

if TYPE_CHECKING:
    from metrics.networks import Face
    from metrics.pairs import Pairs

EYEBALL_PER_EYE = 0.4  # radius of the eyeball (12 mm) per distance of the eye's corners (30 mm)
CLOSED_EYE = 0.10  # opening per width, below which the iris is a guess
# (outer corner, inner corner, upper lid, lower lid, iris), the subject's right eye first
EYES = ((33, 133, 159, 145, 468), (263, 362, 386, 374, 473))


def _of_faces(pairs: Pairs, score: Callable[[Face, Face], float]) -> Tensor:
    found = [
        float("nan") if a is None or b is None else score(a, b)
        for a, b in zip(pairs.pred.faces, pairs.ref.faces, strict=True)
    ]
    return torch.tensor(found, dtype=torch.float64)


@frame_metric("akd", direction="lower", range="px, 0..", extractors=("landmarks",))
def akd(pairs: Pairs) -> Tensor:
    """AKD = mean over MediaPipe's 478 landmarks of |x_pred - x_ref|, pixels of the pictures compared."""

    def distance(a: Face, b: Face) -> float:
        moved = a.landmarks[:, :2].astype(np.float64) - b.landmarks[:, :2]
        return float(np.linalg.norm(moved, axis=1).mean())

    return _of_faces(pairs, distance)


@frame_metric("csim", direction="higher", range="-1..1", extractors=("identity", "landmarks"))
def csim(pairs: Pairs) -> Tensor:
    """CSIM = cosine of the identity embeddings of prediction and reference, faces aligned by five landmarks."""
    return (pairs.pred.embeddings.double() * pairs.ref.embeddings.double()).sum(dim=1)


@frame_metric(
    "csim_source",
    direction="higher",
    range="-1..1",
    extractors=("identity", "landmarks"),
    needs=("source",),
)
def csim_source(pairs: Pairs) -> Tensor:
    """CSIM against the source picture: cosine of the identity embeddings of prediction and source."""
    return (pairs.pred.embeddings.double() * pairs.source.embeddings.double()).sum(dim=1)


@frame_metric("id_dlib", direction="lower", range="0..", extractors=("dlib", "landmarks"))
def id_dlib(pairs: Pairs) -> Tensor:
    """Identity cross-check = Euclidean distance of dlib's face descriptors; needs dlib and --weights dlib=PATH."""
    return (pairs.pred.dlib - pairs.ref.dlib).norm(dim=1)


@frame_metric("aed", direction="lower", range="0..", extractors=("expression",))
def aed(pairs: Pairs) -> Tensor:
    """AED = mean over the D expression parameters of |beta_pred - beta_ref|, both re-estimated from the pixels."""
    return _of_faces(pairs, lambda a, b: float(np.abs(a.beta.astype(np.float64) - b.beta).mean()))


@frame_metric("apd", direction="lower", range="degrees, 0..180", extractors=("expression",))
def apd(pairs: Pairs) -> Tensor:
    """APD = angle of the rotation R_pred R_ref^T between the two head poses, degrees."""
    found = zip(pairs.pred.rotations.numpy(), pairs.ref.rotations.numpy(), strict=True)
    return torch.tensor([angle_deg(a, b) for a, b in found], dtype=torch.float64)


def angle_deg(a: np.ndarray, b: np.ndarray) -> float:
    """Angle between two rotations [3, 3], degrees; exact also near 0, where the cosine says little."""
    # |a - b|_F = 2 sqrt(2) sin(angle / 2)
    chord = np.minimum(np.linalg.norm(a - b) / (2 * np.sqrt(2)), 1.0)  # NaN stays NaN
    return float(np.degrees(2 * np.arcsin(chord)))


@frame_metric("apd_translation", direction="lower", range="cm, 0..", extractors=("landmarks",))
def apd_translation(pairs: Pairs) -> Tensor:
    """APD of translation = |t_pred - t_ref|, head positions in front of the camera if the head has the mean size."""
    return _of_faces(pairs, lambda a, b: float(np.linalg.norm(a.position_cm - b.position_cm)))


@frame_metric("gaze", direction="lower", range="degrees, 0..180", extractors=("landmarks",))
def gaze(pairs: Pairs) -> Tensor:
    """Gaze error = angle between the eyes' directions in the head, from the irises' places between the eye corners.

    Pairs with closed eyes are failures: the iris is then a guess.
    """

    def error(a: Face, b: Face) -> float:
        cosine = float(gaze_direction(a.landmarks) @ gaze_direction(b.landmarks))
        return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))

    return _of_faces(pairs, error)


def gaze_direction(landmarks: np.ndarray) -> np.ndarray:
    """Unit vector [3] of where the eyes look in the head's frame, mean of the eyes; NaN when both are closed.

    landmarks [478, >=2], pixels. The iris of an eyeball of radius r turned by phi is displaced by r sin(phi).
    """
    xy = np.asarray(landmarks, dtype=np.float64)[:, :2]
    directions = []
    for outer, inner, upper, lower, iris in EYES:
        left, right = (outer, inner) if outer == EYES[0][0] else (inner, outer)
        axis = xy[right] - xy[left]
        width = float(np.linalg.norm(axis))
        if width < 1e-6 or np.linalg.norm(xy[upper] - xy[lower]) < CLOSED_EYE * width:
            continue
        axis /= width
        offset = (xy[iris] - (xy[left] + xy[right]) / 2) / (EYEBALL_PER_EYE * width)
        x, y = float(offset @ axis), float(offset @ np.array([-axis[1], axis[0]]))
        length = min(1.0, float(np.hypot(x, y)))
        scale = length / max(float(np.hypot(x, y)), 1e-12)
        directions.append(np.array([x * scale, y * scale, np.sqrt(1 - length**2)]))
    if not directions:
        return np.full(3, np.nan)
    mean = np.sum(directions, axis=0)
    out: np.ndarray = mean / np.linalg.norm(mean)
    return out
