"""The figure of expression spaces."""

from __future__ import annotations

import numpy as np

from metrics.tsne import draw_scatter, purity, tsne


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
    assert figure.shape == (140, 200, 3) and figure.std() > 5
