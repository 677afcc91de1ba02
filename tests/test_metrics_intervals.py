"""Intervals contain the truth as often as they say; the paired test finds differences and no more than it should."""

from __future__ import annotations

import numpy as np
import pytest

from metrics.intervals import MIN_CLIPS, interval, paired_p_value


def simulated(rng: np.random.Generator, n_clips: int, mean: float = 0.0) -> tuple[np.ndarray, ...]:
    """Sums and counts of clips of unequal length whose frames share a skewed clip effect of expectation `mean`."""
    counts = rng.integers(20, 60, n_clips).astype(float)
    effect = rng.gamma(2.0, 1.0, n_clips) - 2.0  # expectation 0, skewed as distances are
    frames = rng.normal(size=n_clips) * np.sqrt(counts)  # sum of unit noise
    return (mean + effect) * counts + frames, counts


@pytest.mark.parametrize("n_clips", [8, 15, 50])
def test_intervals_contain_the_truth_as_often_as_they_say(n_clips: int) -> None:
    rng = np.random.default_rng(1)
    trials = 800
    hits = 0
    for _ in range(trials):
        bounds = interval(*simulated(rng, n_clips))
        assert bounds is not None
        hits += bounds[0] <= 0 <= bounds[1]
    # what is asked for is 92 to 98 %; the standard error of 800 trials is 0.8 %
    assert 0.92 <= hits / trials <= 0.98


def test_frames_of_one_clip_do_not_count_as_independent() -> None:
    sums, counts = simulated(np.random.default_rng(0), 10)
    wide, narrow = interval(sums, counts), interval(np.repeat(sums, 10), np.repeat(counts, 10))
    assert wide is not None and narrow is not None
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])


def test_few_clips_have_no_interval() -> None:
    few = np.ones(MIN_CLIPS - 1)
    assert interval(few, few) is None
    assert paired_p_value(few, few, few, few) is None
    counts = np.array([1.0, 1.0, 0.0, 1.0, 1.0])  # the third was never measured
    assert interval(np.ones(5), counts) is None


def test_paired_test_uses_the_pairing() -> None:
    rng = np.random.default_rng(2)
    counts = np.full(30, 10.0)
    clip = rng.normal(size=30) * 50  # clips differ far more than methods do
    ours, theirs = clip + rng.normal(size=30), clip + 1.5 + rng.normal(size=30)
    p = paired_p_value(ours, counts, theirs, counts)
    assert p is not None and p < 0.01
    same = paired_p_value(ours, counts, ours, counts)
    assert same == 1.0


@pytest.mark.parametrize("n_clips", [5, 10, 30])
def test_paired_test_is_quiet_where_there_is_no_difference(n_clips: int) -> None:
    rng = np.random.default_rng(3)
    trials, false = 500, 0
    for _ in range(trials):
        counts = rng.integers(20, 60, n_clips).astype(float)
        clip = 5 * rng.normal(size=n_clips)
        a, b = ((clip + rng.normal(size=n_clips)) * counts for _ in range(2))
        p = paired_p_value(a, counts, b, counts, n_resamples=500)
        assert p is not None
        false += p < 0.05
    # 5 % is what is promised; the standard error of 500 trials is 1 %
    assert false / trials < 0.07


def test_a_difference_that_every_clip_shows_alike_is_one() -> None:
    counts = np.full(6, 10.0)
    sums = np.arange(6.0) * 10
    assert paired_p_value(sums, counts, sums + 5.0, counts, n_resamples=99) == 0.01
