"""Distances of whole sets of pictures: Fréchet distances and KID. Features are summed as they stream by."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from metrics.registry import class_metric

if TYPE_CHECKING:
    from metrics.networks import Networks
    from metrics.pairs import Pairs, Side

# Kept of each side; chosen by a hash of the picture, so that the order of clips does not matter.
KID_FRAMES = 5000


def frechet_distance(
    mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray
) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), means [D] and covariances [D, D], float64.

    tr (C_a C_b)^(1/2) is the sum of the roots of the eigenvalues of C_a^(1/2) C_b C_a^(1/2), which is symmetric.
    """
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    mixed = np.linalg.eigvalsh(root @ cov_b @ root)
    trace = float(np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(np.maximum(mixed, 0)).sum())
    return float((mean_a - mean_b) @ (mean_a - mean_b)) + trace


def polynomial_mmd(x: np.ndarray, y: np.ndarray, block: int = 1000) -> float:
    """Unbiased squared MMD of features [N, D] and [M, D] under the kernel (<a, b> / D + 1)^3, float64."""

    def total(a: np.ndarray, b: np.ndarray) -> float:
        parts = (
            ((a[i : i + block] @ b.T / a.shape[1] + 1) ** 3).sum() for i in range(0, len(a), block)
        )
        return float(sum(parts))

    def within(a: np.ndarray) -> float:
        own = float((((a * a).sum(axis=1) / a.shape[1] + 1) ** 3).sum())
        return (total(a, a) - own) / (len(a) * (len(a) - 1))

    x, y = x.astype(np.float64), y.astype(np.float64)
    return within(x) + within(y) - 2 * total(x, y) / (len(x) * len(y))


class _Frechet:
    """Means and covariances of both sides, float64; subclasses say which features."""

    def __init__(self, networks: Networks) -> None:
        self.failed = 0
        self._state: dict[str, np.ndarray] = {}

    def features(self, side: Side) -> Tensor:
        """[N, D]; NaN rows are failures."""
        raise NotImplementedError

    def update(self, pairs: Pairs) -> None:
        state = {}
        for name, side in (("pred", pairs.pred), ("ref", pairs.ref)):
            rows = self.features(side).double().cpu().numpy()
            good = rows[~np.isnan(rows).any(axis=1)]
            self.failed += len(rows) - len(good)
            state[f"{name}_n"] = np.array(float(len(good)))
            state[f"{name}_sum"] = good.sum(axis=0)
            state[f"{name}_square"] = good.T @ good
        self.add(state)

    def state(self) -> dict[str, np.ndarray]:
        return self._state

    def add(self, state: dict[str, np.ndarray]) -> None:
        for name, value in state.items():
            self._state[name] = self._state[name] + value if name in self._state else value

    def value(self) -> float:
        if not self._state or min(self._state["pred_n"], self._state["ref_n"]) < 2:
            return float("nan")
        moments = []
        for name in ("pred", "ref"):
            n, total = float(self._state[f"{name}_n"]), self._state[f"{name}_sum"]
            mean = total / n
            moments += [mean, (self._state[f"{name}_square"] - n * np.outer(mean, mean)) / (n - 1)]
        return frechet_distance(*moments)


@class_metric(
    "fid", "set", direction="lower", range="0..", extractors=("inception",), over="all frames"
)
class Fid(_Frechet):
    """FID = Fréchet distance of the 2048 Inception features of both sides; needs --weights inception=PATH."""

    def features(self, side: Side) -> Tensor:
        return side.inception


@class_metric(
    "fd_stalex",
    "set",
    direction="lower",
    range="0..",
    extractors=("stlpips_alex",),
    over="all frames",
)
class FrechetAlex(_Frechet):
    """Fréchet distance of the last layer of ST-LPIPS' AlexNet, pixel mean of unit features (256); not FID."""

    def features(self, side: Side) -> Tensor:
        return side.perceptual("stlpips_alex")[-1].mean(dim=(2, 3))


@class_metric(
    "fd_identity",
    "set",
    direction="lower",
    range="0..",
    extractors=("identity", "landmarks"),
    over="all frames",
)
class FrechetIdentity(_Frechet):
    """Fréchet distance of the identity embeddings of predictions and references; not FID."""

    def features(self, side: Side) -> Tensor:
        return side.embeddings


@class_metric(
    "kid", "set", direction="lower", range="about 0..", extractors=("inception",), over="all frames"
)
class Kid:
    """KID = unbiased squared MMD of Inception features, kernel (<a,b>/2048 + 1)^3; needs --weights inception=PATH."""

    def __init__(self, networks: Networks) -> None:
        self.failed = 0
        self._state: dict[str, np.ndarray] = {}

    def update(self, pairs: Pairs) -> None:
        state = {}
        for name, side in (("pred", pairs.pred), ("ref", pairs.ref)):
            rows = side.inception.numpy()
            state[f"{name}_rows"] = rows
            state[f"{name}_rank"] = np.array([_hash(x) for x in side.images], dtype=np.uint64)
        self.add(state)

    def state(self) -> dict[str, np.ndarray]:
        return self._state

    def add(self, state: dict[str, np.ndarray]) -> None:
        for name in ("pred", "ref"):
            if f"{name}_rows" not in state:
                continue
            rows, rank = state[f"{name}_rows"], state[f"{name}_rank"]
            if f"{name}_rows" in self._state:
                rows = np.concatenate([self._state[f"{name}_rows"], rows])
                rank = np.concatenate([self._state[f"{name}_rank"], rank])
            keep = np.argsort(rank, kind="stable")[:KID_FRAMES]
            self._state[f"{name}_rows"], self._state[f"{name}_rank"] = rows[keep], rank[keep]

    def value(self) -> float:
        if not self._state or min(len(self._state[f"{n}_rows"]) for n in ("pred", "ref")) < 2:
            return float("nan")
        return polynomial_mmd(self._state["pred_rows"], self._state["ref_rows"])


def _hash(image: np.ndarray) -> int:
    """A number that depends on the pixels alone: choosing by it is choosing at random.

    Not on the features, whose last bits depend on the number of threads.
    """
    digest = hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
