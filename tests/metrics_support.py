"""Pairs of pictures without files, for the tests of metrics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metrics.networks import Networks
from metrics.pairs import Pairs, Side


def pairs_of(
    pred: Sequence[np.ndarray],
    ref: Sequence[np.ndarray],
    networks: Networks | None = None,
    source: np.ndarray | None = None,
) -> Pairs:
    """Pairs of pictures uint8 [H, W, 3] that are neighbours in one clip."""
    networks = networks or Networks()
    return Pairs(
        Side(pred, networks),
        Side(ref, networks),
        source=None if source is None else Side([source], networks),
    )
