"""Scores with what has to be said beside them: protocol, extractors, pairs, intervals, failures."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from metrics.clips import Failures
from metrics.intervals import MIN_CLIPS, N_RESAMPLES, interval
from metrics.registry import Metric

MAX_LINES = 12  # failures on the terminal; the JSON file holds all


@dataclass
class ClipScores:
    """One clip: for each metric the sum of its scores, their number, and how many could not be measured."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    n_pairs: int = 0
    cached: int = 0  # reference frames whose features came from the cache
    sizes: set[tuple[int, int]] = field(default_factory=set)  # (width, height)
    # metric, "reading", "cache" -> seconds; what several metrics share is counted in the first of them
    seconds: dict[str, float] = field(default_factory=dict)
    failures: Failures = field(default_factory=Failures)

    def add(self, name: str, total: float, count: int, failed: int) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + total
        self.counts[name] = self.counts.get(name, 0) + count
        self.failed[name] = self.failed.get(name, 0) + failed


@dataclass
class Result:
    """The scores of one set of predictions."""

    metrics: list[Metric]
    clips: dict[str, ClipScores]
    values: dict[str, float]  # of metrics of whole sets
    failures: Failures
    pred: Path
    ref: Path
    records: dict[str, str]  # metric -> its networks' files and hashes
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def n_pairs(self) -> int:
        return sum(scores.n_pairs for scores in self.clips.values())

    @property
    def n_clips(self) -> int:
        """Clips with at least one pair."""
        return sum(scores.n_pairs > 0 for scores in self.clips.values())

    @property
    def sizes(self) -> list[str]:
        found = {size for scores in self.clips.values() for size in scores.sizes}
        return [f"{width} x {height}" for width, height in sorted(found)]

    def sums(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Sums and counts of a metric per clip, float64 [C] each."""
        scores = self.clips.values()
        return (
            np.array([s.sums.get(name, 0.0) for s in scores], dtype=np.float64),
            np.array([s.counts.get(name, 0) for s in scores], dtype=np.float64),
        )

    def count(self, name: str) -> int:
        """How many scores the mean is of."""
        return sum(s.counts.get(name, 0) for s in self.clips.values())

    def failed(self, name: str) -> int:
        """Frames that the metric could not measure."""
        return sum(s.failed.get(name, 0) for s in self.clips.values())

    def mean(self, name: str) -> float:
        """The score; NaN when nothing could be measured."""
        if name in self.values:
            return self.values[name]
        count = self.count(name)
        total = math.fsum(s.sums.get(name, 0.0) for s in self.clips.values())
        return total / count if count else float("nan")

    def interval(self, name: str) -> tuple[float, float] | None:
        """95 % interval over clips; None for metrics of whole sets and for fewer than five clips."""
        return None if name in self.values else interval(*self.sums(name))

    def to_dict(self) -> dict[str, Any]:
        """Scores and protocol, as JSON can hold them."""
        return {
            "protocol": {
                **self.protocol,
                "pred": self.pred.name,
                "ref": self.ref.name,
                "pairs": self.n_pairs,
                "clips": self.n_clips,
                "sizes": self.sizes,
                "mean": "over all scores, float64; a clip counts by its frames",
                "interval": f"95 %, bootstrap over clips, {N_RESAMPLES} resamples, bootstrap-t",
            },
            "n_failures": sum(count for count, _ in self.failures.counts.values()),
            "failures": self.failures.lines(),
            "scores": {m.name: self._score(m) for m in self.metrics},
            "per_clip": {
                name: {
                    "pairs": s.n_pairs,
                    **{k: s.sums[k] / n if n else None for k, n in s.counts.items()},
                }
                for name, s in self.clips.items()
            },
        }

    def _score(self, m: Metric) -> dict[str, Any]:
        bounds, value = self.interval(m.name), self.mean(m.name)
        return {
            "value": None if math.isnan(value) else value,
            "interval_95": None if bounds is None else list(bounds),
            "over": m.over,
            "n": self.count(m.name) if m.kind != "set" else self.n_pairs,
            "failed": self.failed(m.name),
            "direction": m.direction,
            "range": m.range,
            "formula": m.formula,
            "extractor": self.records[m.name],
        }

    def lines(self) -> list[str]:
        """For a terminal: the protocol first, then the scores."""
        failures = self.failures.lines()
        total = sum(count for count, _ in self.failures.counts.values())
        lines = [f"{key:<11} {value}" for key, value in self.protocol.items()]
        lines += [
            f"prediction  {self.pred}",
            f"reference   {self.ref}",
            f"pairs       {self.n_pairs} frames of {self.n_clips} clips, {', '.join(self.sizes)} px",
            f"interval    95 %, bootstrap over clips; none below {MIN_CLIPS} clips",
            f"failures    {total}",
            *(f"            {failure}" for failure in failures[:MAX_LINES]),
        ]
        if len(failures) > MAX_LINES:
            lines.append(f"            and {len(failures) - MAX_LINES} further reasons")
        for m in self.metrics:
            lines += self._lines(m)
        return lines

    def _lines(self, m: Metric) -> list[str]:
        value, bounds, failed = self.mean(m.name), self.interval(m.name), self.failed(m.name)
        number = "not measured" if math.isnan(value) else f"{value:.4f}"
        if bounds is not None and not math.isnan(value):
            number += f"  [{bounds[0]:.4f}, {bounds[1]:.4f}]"
        over = f"{self.count(m.name)} {m.over}" if m.kind != "set" else m.over
        lost = f", {failed} failed" if failed else ""
        lines = [
            f"{m.name:<15} {number}  ({m.direction} is better, {m.range}; {over}{lost})",
            f"{'':<15} {m.formula}",
        ]
        if self.records[m.name] != "none":
            lines.append(f"{'':<15} {self.records[m.name]}")
        return lines
