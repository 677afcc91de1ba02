"""The metrics by name. A metric is a function of two batches of pictures and the facts that make its number quotable.

@register("l1", direction="lower", range="0..1")
def l1(pred, ref): '''L1 = mean |a - b|'''
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from dnnlib.errors import UserError

# pred, ref: float32 [N, 3, H, W] in [0, 1] -> one score a picture, float64 [N]
PictureMetric = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Metric:
    """A metric and what has to be said beside its number."""

    name: str
    function: PictureMetric
    direction: Literal["higher", "lower"]  # which is better
    range: str
    extractor: Callable[
        [], str
    ]  # names the files of the network that the score depends on, with their hashes
    formula: str  # one line


_METRICS: dict[str, Metric] = {}


def register(
    name: str,
    *,
    direction: Literal["higher", "lower"],
    range: str,
    extractor: Callable[[], str] = lambda: "none",
) -> Callable[[PictureMetric], PictureMetric]:
    """Put a function under `name`; the first line of its docstring is its formula."""

    def put(function: PictureMetric) -> PictureMetric:
        if name in _METRICS:
            raise ValueError(f"metric {name!r} is registered twice")
        formula = (function.__doc__ or "").strip().splitlines()
        if not formula:
            raise ValueError(f"metric {name!r} has no docstring; its first line is the formula")
        _METRICS[name] = Metric(name, function, direction, range, extractor, formula[0])
        return function

    return put


def metric_names() -> list[str]:
    """Names of all metrics, in the order of registration."""
    _load()
    return list(_METRICS)


def get_metric(name: str) -> Metric:
    """The metric of a name. Raises UserError with the nearest name when there is none."""
    _load()
    if name not in _METRICS:
        near = difflib.get_close_matches(name, _METRICS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_METRICS)}"
        raise UserError(f"there is no metric {name!r}; {hint}")
    return _METRICS[name]


def _load() -> None:
    """Import the modules that register metrics; late, because they import torch."""
    import metrics.image  # noqa: F401
