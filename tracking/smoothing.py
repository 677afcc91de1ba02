"""Jitter out, no lag in: local polynomial regression over a window that reaches into the future.

Around each frame a polynomial is fitted to its neighbours with Gaussian weights and read off at the frame itself.
The window is symmetric, so motion is not delayed (zero phase); at the clip's ends, and where frames without a face
are left out, the regression stays unbiased for motion that the polynomial can follow. The streaming form is the same
filter: it holds back `radius` frames and nothing else, so its memory does not grow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from tracking.pose import rotation_from_vector

T = TypeVar("T")


@dataclass(frozen=True)
class Window:
    """Shape of the filter. sigma_frames 0 switches it off (gaps are still bridged)."""

    sigma_frames: float
    radius: int  # frames looked ahead and back
    degree: int = 1  # of the polynomial: 1 smooths more, 2 keeps peaks such as blinks

    def weights(self, offsets: np.ndarray) -> np.ndarray:
        """Weights of the frames at `offsets` [K] from the centre; they sum to 1."""
        if self.sigma_frames <= 0:
            here = np.abs(offsets) == np.abs(offsets).min()
            return here / here.sum()
        gauss = np.exp(-0.5 * (offsets / self.sigma_frames) ** 2)
        degree = min(self.degree, len(offsets) - 1)
        if offsets.min() > 0 or offsets.max() < 0:
            degree = 0  # a gap at the edge: hold, do not extrapolate
            gauss = np.exp(
                -0.5 * ((np.abs(offsets) - np.abs(offsets).min()) / self.sigma_frames) ** 2
            )
        basis = offsets[:, None].astype(np.float64) ** np.arange(degree + 1)
        normal = basis.T @ (gauss[:, None] * basis)
        return np.asarray(np.linalg.solve(normal, (basis * gauss[:, None]).T)[0])


@dataclass
class _Entry(Generic[T]):
    index: int
    value: np.ndarray | None  # None: missing
    payload: T


class StreamingSmoother(Generic[T]):
    """Smooths a stream of vectors with a fixed look-ahead; payloads (a frame, say) travel along.

    for item in items:
        for value, payload in smoother.push(item.value, item): ...
    for value, payload in smoother.flush(): ...

    Every pushed item comes out once, in order, `window.radius` pushes later. Missing values are bridged from the
    window, and held beyond it; an item before the first known value comes out with None.
    """

    def __init__(self, window: Window, rotation: bool = False) -> None:
        """rotation: values are flattened 3 x 3 rotations [9], averaged on SO(3)."""
        self.window = window
        self._rotation = rotation
        self._entries: deque[_Entry[T]] = deque()
        self._pushed = 0
        self._given = 0
        self._held: np.ndarray | None = None

    def push(self, value: np.ndarray | None, payload: T) -> Iterator[tuple[np.ndarray | None, T]]:
        """Take one item in; give out those that are ready (at most one)."""
        kept = None if value is None else np.asarray(value, dtype=np.float64)
        self._entries.append(_Entry(self._pushed, kept, payload))
        self._pushed += 1
        if self._pushed - self._given > self.window.radius:
            yield self._give()

    def flush(self) -> Iterator[tuple[np.ndarray | None, T]]:
        """Give out what is held back and start anew (a cut, or the end of the clip)."""
        while self._given < self._pushed:
            yield self._give()
        self._entries.clear()
        self._pushed = self._given = 0
        self._held = None

    def _give(self) -> tuple[np.ndarray | None, T]:
        centre = self._given
        self._given += 1
        while self._entries[0].index < centre - self.window.radius:
            self._entries.popleft()
        payload = next(e.payload for e in self._entries if e.index == centre)
        known = [e for e in self._entries if e.value is not None]
        if known:
            offsets = np.array([e.index - centre for e in known])
            values = np.stack([e.value for e in known if e.value is not None])
            weights = self.window.weights(offsets)
            if self._rotation:
                nearest = values[np.abs(offsets).argmin()]
                self._held = mean_rotation(values, weights, nearest)
            else:
                self._held = weights @ values
        for entry in self._entries:
            if entry.index == centre:
                entry.payload = None  # type: ignore[assignment]  # frames are large; do not keep given ones
        return self._held, payload


def smooth(values: np.ndarray, window: Window, rotation: bool = False) -> np.ndarray:
    """A whole clip [T, D] at once, NaN rows are missing frames; the same numbers as the streaming form."""
    smoother: StreamingSmoother[None] = StreamingSmoother(window, rotation)
    rows: Iterable[np.ndarray | None] = (None if np.isnan(v).any() else v for v in values)
    out = [v for row in rows for v, _ in smoother.push(row, None)]
    out += [v for v, _ in smoother.flush()]
    blank = np.full(values.shape[1], np.nan)
    return np.stack([blank if v is None else v for v in out])


def mean_rotation(rotations: np.ndarray, weights: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Weighted mean [9] of flattened rotations [K, 9] in the tangent space at `reference` [9]."""
    base = reference.reshape(3, 3)
    vectors = vector_from_rotation(base.T @ rotations.reshape(-1, 3, 3))
    return (base @ rotation_from_vector(weights @ vectors)).ravel()


def vector_from_rotation(rotation: np.ndarray) -> np.ndarray:
    """log: rotations [..., 3, 3] -> axis times angle [..., 3], angles below pi."""
    r = np.asarray(rotation, dtype=np.float64)
    skew = 0.5 * np.stack(
        [r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]], -1
    )
    cosine = (np.trace(r, axis1=-2, axis2=-1) - 1) / 2
    sine = np.linalg.norm(skew, axis=-1)
    angle = np.arctan2(sine, cosine)
    factor = np.where(sine > 1e-8, angle / np.maximum(sine, 1e-8), 1.0)
    return np.asarray(skew * factor[..., None])
