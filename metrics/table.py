"""Tables for papers: several methods on one protocol, same and cross identity side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dnnlib.errors import UserError
from metrics.calc import Options, calculate, paired_clips
from metrics.clips import Failures, list_clips
from metrics.intervals import paired_p_value, ratio_interval
from metrics.networks import Networks
from metrics.protocols import MODES, Protocol
from metrics.registry import get_metric
from metrics.result import Result

# The columns of the paper's table: same identity, then cross identity.
SAME = ("psnr", "ssim", "akd", "csim", "aed")
CROSS = ("csim_source", "aed")
CLOSED = "aed"  # also as the share of the way from copying the source to the floor
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Cell:
    """One score of a method."""

    value: float  # NaN: not measured
    interval: tuple[float, float] | None
    p: float | None  # of the difference from the first method
    failed: int  # frames that could not be measured
    rank: int = 0  # 1 best, 2 second; 0: neither


@dataclass(frozen=True)
class Column:
    """A metric of a mode, or its closed share: see `closed_parts`."""

    mode: str
    metric: str
    closed: bool = False

    @property
    def name(self) -> str:
        return f"{self.metric}_closed" if self.closed else self.metric

    @property
    def title(self) -> str:
        return f"{self.name} {self.mode}"

    @property
    def higher_is_better(self) -> bool:
        return self.closed or get_metric(self.metric).direction == "higher"


LACKING = "†"  # mark of a method that lacks clips


class Scale(NamedTuple):
    """The two methods that bound a score: copying the source, and the truth through the network's resolution."""

    copy: str
    floor: str


@dataclass
class Table:
    """Cells by method and column, and what has to be said below."""

    columns: list[Column]
    rows: dict[str, list[Cell]]
    notes: list[str]
    results: dict[str, dict[str, Result]]  # method -> mode
    protocol: dict[str, Any] = field(default_factory=dict)
    lacking: frozenset[str] = frozenset()  # methods that have not all clips of the protocol

    def mark(self, method: str) -> str:
        """What stands behind a method's name."""
        return LACKING if method in self.lacking else ""

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        cells = {
            method: {
                c.title: {
                    "value": None if math.isnan(cell.value) else cell.value,
                    "interval_95": cell.interval,
                    "p_against_first": cell.p,
                    "failed": cell.failed,
                }
                for c, cell in zip(self.columns, row, strict=True)
            }
            for method, row in self.rows.items()
        }
        detail = {
            method: {mode: result.to_dict() for mode, result in modes.items()}
            for method, modes in self.results.items()
        }
        lacking = sorted(self.lacking)
        return {
            "protocol": self.protocol,
            "table": cells,
            "lacking": lacking,
            "notes": self.notes,
            "details": detail,
        }


def make_table(
    methods: Mapping[
        str, Path
    ],  # name -> folder of clips named as the protocol's pairs; the first is "ours"
    ref: Path,
    source: Path | None,
    protocol: Protocol,
    columns: Sequence[Column],
    networks: Networks | None = None,
    cache: Path | None = None,
    failures: Mapping[str, Sequence[str]] | None = None,  # method -> pairs that could not be made
    say: Callable[[str], None] = lambda line: None,
    scale: Scale | None = None,  # of two methods: their AED has its closed share beside it
) -> Table:
    """Score every method in every mode of the columns; see `calculate`.

    Raises:
        UserError: no columns, a mode without pairs, or a method of which nothing can be compared in a mode.
    """
    networks = networks or Networks()
    columns = list(dict.fromkeys(columns))
    check_clips(methods, ref, protocol, columns, failures)
    results: dict[str, dict[str, Result]] = {}
    for method, folder in methods.items():
        results[method] = {}
        for mode in dict.fromkeys(c.mode for c in columns):
            clips = protocol.ids(mode)
            names = [c.metric for c in columns if c.mode == mode]
            options = Options(networks, source, cache, protocol.record(), clips)
            say(f"{method}: {mode} identity, {len(clips)} clips")
            try:
                results[method][mode] = calculate(folder, ref, names, options)
            except UserError as error:
                raise UserError(f"{method}, {mode} identity: {error}") from error
    if scale is not None:
        columns = [
            d for c in columns for d in (c, replace(c, closed=True))[: 1 + (c.metric == CLOSED)]
        ]
    rows = _cells(results, columns, scale)
    notes = _notes(results, protocol, failures or {})
    if scale is not None and any(c.closed for c in columns):
        notes.append(
            f"{CLOSED}_closed: ({scale.copy} - method) / ({scale.copy} - {scale.floor}) of {CLOSED}, over the clips in "
            "which all three were measured."
        )
    lacking = frozenset(
        method
        for method, modes in results.items()
        if any(result.n_clips < len(protocol.ids(mode)) for mode, result in modes.items())
    )
    if lacking:
        notes.append(
            f"{LACKING} lacks clips of the protocol: its scores are means over others than those of the other methods."
        )
    return Table(columns, rows, notes, results, protocol.record(), lacking)


def check_clips(
    methods: Mapping[str, Path],
    ref: Path | None,  # None: yet to be made, a clip for every pair
    protocol: Protocol,
    columns: Sequence[Column],
    failures: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Ask for clips of every method and mode by their names alone, before hours of work.

    Raises:
        UserError: no columns, a mode without pairs, or a method without clips of a mode.
    """
    if not columns:
        raise UserError("the table has no columns; give --same psnr,ssim")
    for mode in dict.fromkeys(c.mode for c in columns):
        wanted = protocol.ids(mode)
        if not wanted:
            raise UserError(_no_pairs(protocol, mode))
        for method, folder in methods.items():
            if ref is not None:
                found = bool(paired_clips(folder, ref, wanted, Failures()))
            else:
                names = list_clips(folder).keys()
                found = bool(names & set(wanted)) or len(names) == len(protocol.pairs) == 1
            if not found:
                lines = (failures or {}).get(method, ())
                lost = next((f" ({f})" for f in lines if f.partition(":")[0] in wanted), "")
                raise UserError(
                    f"the method {method} has no clip for the {mode}-identity pairs of {protocol.name} in "
                    f'{folder}{lost}; name its clips as the pairs, or give --{mode} ""'
                )


def _no_pairs(protocol: Protocol, mode: str) -> str:
    return (
        f"the protocol {protocol.name} has no {mode}-identity pairs; make it with --{mode} 50, "
        f"or give no metrics by --{mode}"
    )


def closed_parts(
    method: Result, copy: Result, floor: Result, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators [C] of a method's closed share: sum(numerators) / sum(denominators).

    (copy - method) / (copy - floor), 1 for a method as good as the floor and 0 for one no better than copying. Over the
    clips in which all three could be measured; a clip counts by the method's frames, as in the score itself.
    """
    names = [n for n in method.clips if n in copy.clips and n in floor.clips]
    scores = [[r.clips[n] for n in names] for r in (method, copy, floor)]
    counts = np.array([[c.counts.get(metric, 0) for c in row] for row in scores], np.float64)
    sums = np.array([[c.sums.get(metric, 0.0) for c in row] for row in scores], np.float64)
    used = (counts > 0).all(axis=0)
    ours, copied, least = sums[:, used] / counts[:, used]
    n = counts[0, used]
    return n * (copied - ours), n * (copied - least)


def _closed_cells(
    results: dict[str, dict[str, Result]], column: Column, scale: Scale
) -> dict[str, Cell]:
    of_mode = {method: modes[column.mode] for method, modes in results.items()}
    values, bounds = {}, {}
    for method, result in of_mode.items():
        parts = closed_parts(result, of_mode[scale.copy], of_mode[scale.floor], column.metric)
        gap = float(parts[1].sum())
        # where the floor is no better than copying there is no way to go
        values[method] = float(parts[0].sum()) / gap if gap > 0 else float("nan")
        bounds[method] = ratio_interval(*parts) if gap > 0 else None
    ranks = _ranks(values, higher=True)
    return {
        m: Cell(values[m], bounds[m], None, of_mode[m].failed(column.metric), ranks[m])
        for m in results
    }


def _cells(
    results: dict[str, dict[str, Result]], columns: list[Column], scale: Scale | None
) -> dict[str, list[Cell]]:
    first = next(iter(results))
    rows: dict[str, list[Cell]] = {method: [] for method in results}
    for column in columns:
        if column.closed and scale is not None:
            for method, cell in _closed_cells(results, column, scale).items():
                rows[method].append(cell)
            continue
        values = {m: modes[column.mode].mean(column.metric) for m, modes in results.items()}
        ranks = _ranks(values, column.higher_is_better)
        for method, modes in results.items():
            result = modes[column.mode]
            p = None
            if method != first and column.metric not in result.values:
                p = _p_value(results[first][column.mode], result, column.metric)
            rows[method].append(
                Cell(
                    values[method],
                    result.interval(column.metric),
                    p,
                    result.failed(column.metric),
                    ranks[method],
                )
            )
    return rows


def _ranks(values: Mapping[str, float], higher: bool) -> dict[str, int]:
    """1 for the best value and 2 for the second; equal values share a rank."""
    measured = sorted({v for v in values.values() if not math.isnan(v)}, reverse=higher)
    place = {v: i + 1 for i, v in enumerate(measured[:2])}
    return {m: 0 if math.isnan(v) else place.get(v, 0) for m, v in values.items()}


def _p_value(ours: Result, other: Result, metric: str) -> float | None:
    """On the clips that both have."""
    names = [n for n in ours.clips if n in other.clips]

    def column(result: Result, what: str) -> np.ndarray:
        return np.array([float(getattr(result.clips[n], what).get(metric, 0)) for n in names])

    return paired_p_value(
        column(ours, "sums"), column(ours, "counts"), column(other, "sums"), column(other, "counts")
    )


def _notes(
    results: dict[str, dict[str, Result]],
    protocol: Protocol,
    failures: Mapping[str, Sequence[str]],
) -> list[str]:
    first = next(iter(results))
    record = protocol.record()
    notes = [
        f"Protocol {protocol.name} (sha256 {protocol.sha256[:12]}), seed {protocol.seed}, "
        f"{protocol.resolution} px, crop {record['crop']}."
    ]
    for mode in MODES:
        for method, modes in results.items():
            if mode not in modes:
                continue
            result = modes[mode]
            count = sum(n for n, _ in result.failures.counts.values())
            notes.append(
                f"{method}, {mode} identity: {result.n_pairs} frames of {result.n_clips} of "
                f"{len(protocol.ids(mode))} clips, {count} failures{_by_metric(result)}."
            )
    for method, lines in failures.items():
        notes += [f"{method} could not be made for {line}" for line in lines]
    records = {
        m.name: result.records[m.name]
        for result in results[first].values()
        for m in result.metrics
        if result.records[m.name] != "none"
    }
    notes += [f"{name}: {text}." for name, text in records.items()]
    notes.append(
        f"95 % intervals: bootstrap over clips. * differs from {first} with p < {SIGNIFICANT}, paired bootstrap."
    )
    return notes


def _by_metric(result: Result) -> str:
    """Frames that single metrics could not measure, such as those without a face: their scores are of the rest."""
    lost = [f"{m.name} of {n} frames" for m in result.metrics if (n := result.failed(m.name))]
    return f" (without {', '.join(lost)})" if lost else ""


def parse_columns(same: str, cross: str) -> list[Column]:
    """Columns of two lists of metrics, separated by commas, each once.

    Raises:
        UserError: both are empty, or a metric is unknown.
    """
    wanted = [
        Column(mode, name.strip())
        for mode, names in (("same", same), ("cross", cross))
        for name in names.split(",")
        if name.strip()
    ]
    columns = list(dict.fromkeys(wanted))
    for column in columns:
        get_metric(column.metric)
    if not columns:
        raise UserError("the table has no columns; give --same psnr,ssim")
    return columns


def protocol_columns(
    columns: Sequence[Column],
    protocol: Protocol,
    asked: Sequence[str] = MODES,  # modes whose metrics the user named; the others' are defaults
) -> list[Column]:
    """The columns that a protocol has pairs for.

    Raises:
        UserError: none is left, or one that was asked for would be lost.
    """
    left = [c for c in columns if protocol.ids(c.mode)]
    for column in columns:
        if column.mode in asked and column not in left:
            raise UserError(f"{column.metric}: {_no_pairs(protocol, column.mode)}")
    if not left:
        raise UserError(
            f"no column is left: the protocol {protocol.name} has only {protocol.pairs[0].mode}-identity pairs; "
            f"give --{protocol.pairs[0].mode} psnr"
        )
    return left
