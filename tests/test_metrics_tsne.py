"""The figure of expression spaces."""

from __future__ import annotations

import numpy as np
import pytest

from metrics.tsne import draw_scatter, purity, ticks, tsne


def test_tsne_keeps_clusters_together() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 25)
    points = rng.normal(size=(100, 20)) + 8 * rng.normal(size=(4, 20))[labels]
    embedded = tsne(points, perplexity=10, iterations=250)
    assert purity(embedded, labels) > 0.98
    assert np.array_equal(embedded, tsne(points, perplexity=10, iterations=250))
    mixed = tsne(rng.normal(size=(100, 20)), perplexity=10, iterations=250)
    assert purity(mixed, labels) < 0.5  # chance is a quarter
    figure = draw_scatter([("a", embedded), ("b", mixed)], labels, side_px=100)
    assert figure.shape == (100 + 40 + 44, 2 * (100 + 44), 3) and figure.std() > 5


def test_ticks_are_round_numbers() -> None:
    assert ticks(-31.0, 28.0) == [-30, -20, -10, 0, 10, 20]
    assert ticks(0.0, 1.0) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    for width in (0.003, 7.0, 1234.0):
        assert 3 <= len(ticks(-0.3 * width, 0.7 * width)) <= 9
