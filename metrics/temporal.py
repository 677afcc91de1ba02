"""Metrics of videos: jitter of landmarks and optical flow, flicker, steadiness of identity. Memory: three frames."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from metrics.registry import class_metric

if TYPE_CHECKING:
    from metrics.networks import Face, Networks
    from metrics.pairs import Pairs

EYE_CORNERS = (33, 263)  # outer
FLOW_PX = 128  # longer side of the pictures between which flow is measured
FLOW_RADIUS = 7  # of the windows that move as one, pixels of those pictures


class _Window:
    """The last few values of consecutive frames; a gap empties it."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.values: list[np.ndarray] = []
        self._last = -2

    def push(self, index: int, value: np.ndarray | None) -> bool:
        """True when `values` holds `length` consecutive frames."""
        if value is None or index != self._last + 1:
            self.values = []
        self._last = index
        if value is None:
            return False
        self.values = [*self.values, value][-self.length :]
        return len(self.values) == self.length


class _Mean:
    """Sum and number of a clip's scores, and frames that could not be measured."""

    def __init__(self, networks: Networks) -> None:
        self.sum, self.count, self.failed = 0.0, 0, 0

    def add(self, value: float) -> None:
        self.sum += value
        self.count += 1

    def result(self) -> tuple[float, int]:
        return self.sum, self.count


def _normalised(face: Face, scale: float | None = None) -> tuple[np.ndarray, float]:
    """Landmarks [478, 2] per distance of the outer eye corners, in percent, and that distance in pixels."""
    xy = face.landmarks[:, :2].astype(np.float64)
    scale = scale or float(np.linalg.norm(xy[EYE_CORNERS[0]] - xy[EYE_CORNERS[1]]))
    return xy / max(scale, 1e-6) * 100, scale


def _acceleration(p: list[np.ndarray]) -> np.ndarray:
    out: np.ndarray = p[2] - 2 * p[1] + p[0]
    return out


@class_metric(
    "jitter",
    "video",
    direction="lower",
    range="% of the eye distance per frame^2, 0..",
    extractors=("landmarks",),
    needs=(),
    over="triples of frames",
)
class Jitter(_Mean):
    """Jitter = mean |p_t+1 - 2 p_t + p_t-1| of the prediction's 478 landmarks."""

    def __init__(self, networks: Networks) -> None:
        super().__init__(networks)
        self._window = _Window(3)

    def update(self, pairs: Pairs) -> None:
        for index, face in zip(pairs.indices, pairs.pred.faces, strict=True):
            self.failed += face is None
            if self._window.push(index, None if face is None else _normalised(face)[0]):
                moved = _acceleration(self._window.values)
                self.add(float(np.linalg.norm(moved, axis=1).mean()))


@class_metric(
    "jitter_error",
    "video",
    direction="lower",
    range="% of the eye distance per frame^2, 0..",
    extractors=("landmarks",),
    over="triples of frames",
)
class JitterError(_Mean):
    """Jitter against the driving video = mean |a_pred - a_ref|, a = p_t+1 - 2 p_t + p_t-1 of the 478 landmarks."""

    def __init__(self, networks: Networks) -> None:
        super().__init__(networks)
        self._window = _Window(3)

    def update(self, pairs: Pairs) -> None:
        for index, a, b in zip(pairs.indices, pairs.pred.faces, pairs.ref.faces, strict=True):
            both = None
            if a is None or b is None:
                self.failed += 1
            else:
                both = np.stack([_normalised(a)[0], _normalised(b)[0]])
            if self._window.push(index, both):
                moved = _acceleration(self._window.values)
                self.add(float(np.linalg.norm(moved[0] - moved[1], axis=1).mean()))


@class_metric("flicker", "video", direction="lower", range="0..1", over="pairs of frames")
class Flicker(_Mean):
    """Flicker = mean |(x_t+1 - x_t) - (y_t+1 - y_t)| over pixels, x the prediction, y the reference, in [0, 1]."""

    def __init__(self, networks: Networks) -> None:
        super().__init__(networks)
        self._last: tuple[int, Tensor] | None = None

    def update(self, pairs: Pairs) -> None:
        error = pairs.pred.tensor - pairs.ref.tensor
        for index, picture in zip(pairs.indices, error, strict=True):
            last, self._last = self._last, (index, picture)
            if last is not None and last[0] == index - 1 and last[1].shape == picture.shape:
                self.add(float((picture - last[1]).double().abs().mean()))


@class_metric(
    "flow_jitter",
    "video",
    direction="lower",
    range="% of the width per frame^2, 0..",
    over="triples of frames",
)
class FlowJitter(_Mean):
    """Flow jitter = mean |a_pred - a_ref| over pixels, a = f_t+1 - f_t of the optical flow from each frame to the next.

    Flow by iterated Lucas-Kanade of scikit-image, grey pictures whose longer side is 128 px. It sees what landmarks do
    not: hair, background, shoulders.
    """

    def __init__(self, networks: Networks) -> None:
        super().__init__(networks)
        self._frames, self._flows = _Window(2), _Window(2)

    def update(self, pairs: Pairs) -> None:
        grey = [_grey(side.tensor) for side in (pairs.pred, pairs.ref)]
        for index, pred, ref in zip(pairs.indices, *grey, strict=True):
            if not self._frames.push(index, np.stack([pred, ref])):
                continue
            first, second = self._frames.values
            if first.shape != second.shape:
                continue  # and no flow of this index: the next one begins anew
            flow = np.stack([_flow(a, b) for a, b in zip(first, second, strict=True)])
            if self._flows.push(index, flow) and flow.shape == self._flows.values[0].shape:
                pred_turn, ref_turn = self._flows.values[1] - self._flows.values[0]
                error = np.linalg.norm(pred_turn - ref_turn, axis=0).mean(dtype=np.float64)
                self.add(float(error) / flow.shape[-1] * 100)


def _grey(pictures: Tensor) -> np.ndarray:
    """[N, 3, H, W] in [0, 1] -> float32 [N, h, w], Rec. 601 luma, longer side FLOW_PX."""
    luma = (pictures * pictures.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(
        1, keepdim=True
    )
    scale = FLOW_PX / max(luma.shape[-2:])
    size = [max(1, round(n * scale)) for n in luma.shape[-2:]]
    small = functional.interpolate(luma, size=size, mode="bilinear", antialias=True)
    out: np.ndarray = small[:, 0].cpu().numpy()
    return out


def _flow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Displacement (down, right) [2, h, w] in pixels that leads from `a` to `b`."""
    from skimage.registration import optical_flow_ilk  # here: slow to import

    out: np.ndarray = optical_flow_ilk(a, b, radius=FLOW_RADIUS, num_warp=3)
    return out


@class_metric(
    "id_jitter",
    "video",
    direction="lower",
    range="-2..2; 0 for the reference itself",
    extractors=("identity", "landmarks"),
    over="pairs of frames",
)
class IdentityJitter(_Mean):
    """Identity jitter = mean 1 - cos(e_t, e_t+1) of the prediction minus that of the reference, e embeddings."""

    def __init__(self, networks: Networks) -> None:
        super().__init__(networks)
        self._window = _Window(2)

    def update(self, pairs: Pairs) -> None:
        both = torch.stack([pairs.pred.embeddings, pairs.ref.embeddings], dim=1).double().numpy()
        for index, pair in zip(pairs.indices, both, strict=True):
            lost = bool(np.isnan(pair).any())
            self.failed += lost
            if self._window.push(index, None if lost else pair):
                cosine = (self._window.values[0] * self._window.values[1]).sum(axis=1)
                self.add(float(cosine[1] - cosine[0]))


@class_metric(
    "id_views",
    "video",
    direction="higher",
    range="-1..1",
    extractors=("identity", "landmarks"),
    needs=(),
)
class IdentityViews:
    """Identity preservation = mean cosine between the identity embeddings of all pairs of frames of the prediction."""

    def __init__(self, networks: Networks) -> None:
        self.failed = 0
        self._sum: np.ndarray | None = None
        self._count = 0

    def update(self, pairs: Pairs) -> None:
        for embedding in pairs.pred.embeddings.double().numpy():
            if math.isnan(float(embedding[0])):
                self.failed += 1
                continue
            self._sum = embedding if self._sum is None else self._sum + embedding
            self._count += 1

    def result(self) -> tuple[float, int]:
        # |sum e|^2 = n + 2 sum_{i<j} <e_i, e_j> for unit e
        n = self._count
        if self._sum is None or n < 2:
            return 0.0, 0
        return float((self._sum @ self._sum - n) / (n * (n - 1))), 1
