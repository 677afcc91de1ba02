"""Confidence intervals and tests that resample clips: frames of one clip resemble each other, clips are independent.

A score is sum of sums / sum of counts over clips, so a clip counts by its frames; resampling draws whole clips.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.stats import norm, t

N_RESAMPLES = 4000
MIN_CLIPS = 5  # the resamples of fewer cannot reach as far as the truth may lie
_ELEMENTS = 4_000_000  # of a block of resamples x clips


def interval(
    sums: np.ndarray,  # [C], a score's sum over each clip
    counts: np.ndarray,  # [C]
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Bootstrap interval of sum(sums) / sum(counts) over clips; None for fewer than five clips.

    The percentile interval of few clips is too narrow, because the resampled variance lacks the factor C / (C - 1) and
    Student's tails; the percentiles are moved outwards by both ("expanded percentiles", Hesterberg 2015).
    """
    used = counts > 0
    sums, counts = sums[used].astype(np.float64), counts[used].astype(np.float64)
    n = len(sums)
    if n < MIN_CLIPS:
        return None
    means = np.concatenate(
        [draws @ sums / (draws @ counts) for draws in _draws(n, n_resamples, seed)]
    )
    outside = norm.cdf(np.sqrt(n / (n - 1)) * t.ppf((1 - level) / 2, n - 1))
    low, high = np.quantile(means, [outside, 1 - outside])
    return float(low), float(high)


def paired_p_value(
    sums_a: np.ndarray,
    counts_a: np.ndarray,
    sums_b: np.ndarray,
    counts_b: np.ndarray,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> float | None:
    """Two-sided p of the difference of two methods' scores on the same clips [C], paired bootstrap.

    Clips that either method lacks are left out; None for fewer than five. Twice the smaller share of resamples on
    either side of zero, at least 2 / (n_resamples + 1).
    """
    both = (counts_a > 0) & (counts_b > 0)
    n = int(both.sum())
    if n < MIN_CLIPS:
        return None
    a, na, b, nb = (x[both].astype(np.float64) for x in (sums_a, counts_a, sums_b, counts_b))
    above = below = total = 0
    for draws in _draws(n, n_resamples, seed):
        difference = draws @ a / (draws @ na) - draws @ b / (draws @ nb)
        above += int((difference >= 0).sum())
        below += int((difference <= 0).sum())
        total += len(difference)
    return min(1.0, 2 * (min(above, below) + 1) / (total + 1))


def _draws(n: int, n_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of n clips is drawn, float64 [k, n] blocks of `n_resamples` rows in all."""
    rng = np.random.default_rng(seed)
    block = max(1, _ELEMENTS // n)
    for start in range(0, n_resamples, block):
        size = min(block, n_resamples - start)
        yield rng.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64)
