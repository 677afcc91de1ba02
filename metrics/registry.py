"""The metrics by name, with the facts that make a number quotable.

    @frame_metric("l1", direction="lower", range="0..1")
    def l1(pred, ref): '''L1 = mean |a - b|'''

Three kinds: "frame" scores every pair of frames, "video" every clip as it streams by, "set" all frames together.
Scores of frames and videos are sums and counts per clip, so that clips can be shared between processes and resampled.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from typing import Protocol as Interface

import numpy as np
from torch import Tensor

from dnnlib.errors import UserError

if TYPE_CHECKING:
    from metrics.networks import Networks
    from metrics.pairs import Pairs

Direction = Literal["higher", "lower"]
Kind = Literal["frame", "video", "set"]

# -> one score a pair, float64 [N]; NaN where it cannot be measured, for example where no face is found
FrameFunction = Callable[["Pairs"], Tensor]
PictureFunction = Callable[[Tensor, Tensor], Tensor]  # pred, ref [N, 3, H, W] in [0, 1] -> [N]


class VideoScorer(Interface):
    """Scores one clip; made anew for every clip."""

    failed: int  # frames that could not be measured

    def update(self, pairs: Pairs) -> None:
        """Takes the next pairs of the clip, in order."""
        ...

    def result(self) -> tuple[float, int]:
        """Sum and number of the clip's scores."""
        ...


class SetScorer(Interface):
    """Scores all frames together."""

    failed: int  # frames that could not be measured

    def update(self, pairs: Pairs) -> None: ...

    def state(self) -> dict[str, np.ndarray]:
        """What this process has seen, to be added to that of the others."""
        ...

    def add(self, state: dict[str, np.ndarray]) -> None:
        """Add what another process has seen."""
        ...

    def value(self) -> float:
        """The score; NaN when there are too few frames."""
        ...


@dataclass(frozen=True)
class Metric:
    """A metric and what has to be said beside its number."""

    name: str
    kind: Kind
    direction: Direction  # which is better
    range: str  # with the unit
    formula: str  # one line
    extractors: tuple[str, ...] = ()  # networks that it reads, names of `Networks.record`
    needs: tuple[str, ...] = ("ref",)  # besides the prediction: "ref", "source"
    over: str = "frames"  # what is averaged
    frame: FrameFunction | None = None
    scorer: Callable[[Networks], Any] | None = None  # of kinds video and set


_METRICS: dict[str, Metric] = {}


def _put(metric: Metric) -> None:
    if metric.name in _METRICS:
        raise ValueError(f"metric {metric.name!r} is registered twice")
    _METRICS[metric.name] = metric


def first_line(documented: Any, name: str) -> str:
    """The formula of a metric: the first line of its docstring."""
    lines = (documented.__doc__ or "").strip().splitlines()
    if not lines:
        raise ValueError(f"metric {name!r} has no docstring; its first line is the formula")
    return str(lines[0])


def frame_metric(
    name: str,
    *,
    direction: Direction,
    range: str,
    extractors: tuple[str, ...] = (),
    needs: tuple[str, ...] = ("ref",),
) -> Callable[[FrameFunction], FrameFunction]:
    """Put a function of `Pairs` under `name`; the first line of its docstring is its formula."""

    def put(function: FrameFunction) -> FrameFunction:
        formula = first_line(function, name)
        _put(Metric(name, "frame", direction, range, formula, extractors, needs, frame=function))
        return function

    return put


def picture_metric(
    name: str, *, direction: Direction, range: str
) -> Callable[[PictureFunction], PictureFunction]:
    """Put a function of two batches of pictures under `name`."""

    def put(function: PictureFunction) -> PictureFunction:
        formula = first_line(function, name)

        def score(pairs: Pairs) -> Tensor:
            return function(pairs.pred.tensor, pairs.ref.tensor)

        _put(Metric(name, "frame", direction, range, formula, frame=score))
        return function

    return put


def class_metric(
    name: str,
    kind: Literal["video", "set"],
    *,
    direction: Direction,
    range: str,
    extractors: tuple[str, ...] = (),
    needs: tuple[str, ...] = ("ref",),
    over: str = "clips",
) -> Callable[[type], type]:
    """Put a `VideoScorer` or `SetScorer` class under `name`; it is called with the networks."""

    def put(scorer: type) -> type:
        formula = first_line(scorer, name)
        _put(Metric(name, kind, direction, range, formula, extractors, needs, over, scorer=scorer))
        return scorer

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
    for module in ("image", "perceptual", "face", "temporal", "sets"):
        importlib.import_module(f"metrics.{module}")
