"""How well results follow their driver, unit by unit: the expression of both is measured on their pictures.

For a group of units (metrics/units.py) x_t is the driver's signal in frame t of a clip and y_t the result's, both
measured by the same tracker, each picture by itself. The clip's means are taken out, side by side, for people differ at
rest. Of a clip c with n frames, sums over its frames and sides:

    r_c    = sum xy / sqrt(sum xx sum yy)     correlation over time; 0 where the result does not move at all
    gain_c = sum xy / sum xx                  slope; 1 is a full copy
    s_c    = sqrt(sum xx / (n sides))         how much the driver moves the unit, a standard deviation

    r = sum_c w_c r_c / sum_c w_c, gain = sum_c w_c gain_c / sum_c w_c, w_c = n s_c

A clip whose driver hardly moves the unit has an r and a gain of noise: it weighs little, without a threshold that a
clip may pass or miss. Weights of n s_c^2, which make one regression over all frames, would let two or three clips
decide. A group is not measured where the mean of s_c over all frames is below MIN_DEVIATION: there the tracker's noise
is all there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch

from conventions.spaces import ARKIT52
from dnnlib.errors import UserError
from metrics.cache import ReferenceCache
from metrics.calc import frame_batches, paired_clips
from metrics.clips import Failures
from metrics.intervals import MIN_CLIPS, N_RESAMPLES, interval
from metrics.networks import Networks
from metrics.protocols import Protocol
from metrics.units import GROUPS, UnitGroup, signals
from torch_utils import distributed

# Of a unit's range 0..1. Real faces moved by one of 256 pixels are measured 0.004 to 0.015 apart (standard deviation).
MIN_DEVIATION = 0.01


class UnitMotion(NamedTuple):
    """A group of units in one clip, see the module; r and gain are 0 where the driver does not move it at all."""

    r: float
    gain: float
    deviation: float


@dataclass
class ClipFollow:
    """One clip, for each group of units."""

    n_frames: int  # with a face on both sides
    units: dict[str, UnitMotion] = field(default_factory=dict)
    failures: Failures = field(default_factory=Failures)


def follow_clip(driver: np.ndarray, result: np.ndarray) -> ClipFollow:
    """A clip from the expressions [T, 52] of driver and result, frame by frame."""
    out = ClipFollow(len(driver))
    for group in GROUPS if len(driver) else ():
        x, y = (signals(group, beta) for beta in (driver, result))
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        xy, xx, yy = (float((a * b).sum()) for a, b in ((x, y), (x, x), (y, y)))
        r = xy / math.sqrt(xx * yy) if xx * yy > 0 else 0.0
        out.units[group.name] = UnitMotion(r, xy / xx if xx > 0 else 0.0, math.sqrt(xx / x.size))
    return out


@dataclass(frozen=True)
class Follow:
    """One group of units of one method; NaN and None where nothing could be measured."""

    r: float
    r_interval: tuple[float, float] | None
    gain: float
    gain_interval: tuple[float, float] | None
    driver_deviation: float  # mean of s_c over all frames
    clips: float  # how many clips of equal weight would weigh as much: (sum w)^2 / sum w^2

    @property
    def measured(self) -> bool:
        return not math.isnan(self.gain)


@dataclass
class Following:
    """A method in one mode of a protocol."""

    clips: dict[str, ClipFollow]
    failures: Failures

    @property
    def n_frames(self) -> int:
        return sum(c.n_frames for c in self.clips.values())

    def of(self, group: UnitGroup) -> Follow:
        """r and gain of a group over all clips."""
        clips = [c for c in self.clips.values() if c.n_frames > 0]
        units = [c.units[group.name] for c in clips]
        r, gain, deviation = np.array(units, np.float64).reshape(-1, 3).T
        weight = deviation * [c.n_frames for c in clips]
        mean = float(weight.sum()) / self.n_frames if clips else float("nan")
        if not mean >= MIN_DEVIATION:
            return Follow(float("nan"), None, float("nan"), None, mean, 0.0)
        return Follow(
            r=float((weight * r).sum() / weight.sum()),
            r_interval=_within_range(interval(weight * r, weight)),
            gain=float((weight * gain).sum() / weight.sum()),
            gain_interval=interval(weight * gain, weight),
            driver_deviation=mean,
            clips=float(weight.sum() ** 2 / (weight**2).sum()),
        )

    def medians(self) -> tuple[float, float]:
        """Medians over the measured groups of r and of gain; NaN without any."""
        found = [f for f in map(self.of, GROUPS) if f.measured]
        if not found:
            return float("nan"), float("nan")
        return median(f.r for f in found), median(f.gain for f in found)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        of = {group.name: self.of(group) for group in GROUPS}
        r, gain = self.medians()
        return {
            "frames": self.n_frames,
            "clips": sum(c.n_frames > 0 for c in self.clips.values()),
            "n_failures": sum(count for count, _ in self.failures.counts.values()),
            "failures": self.failures.lines(),
            "median": {
                "r": _number(r),
                "gain": _number(gain),
                "groups": sum(f.measured for f in of.values()),
            },
            "units": {
                name: {
                    "r": {"value": _number(f.r), "interval_95": f.r_interval},
                    "gain": {"value": _number(f.gain), "interval_95": f.gain_interval},
                    "driver_deviation": _number(f.driver_deviation),
                    "clips_that_count": f.clips,
                }
                for name, f in of.items()
            },
            "per_clip": {
                name: {
                    "frames": c.n_frames,
                    "units": {unit: motion._asdict() for unit, motion in c.units.items()},
                }
                for name, c in self.clips.items()
            },
        }


def _within_range(bounds: tuple[float, float] | None) -> tuple[float, float] | None:
    """Of a correlation."""
    return None if bounds is None else (max(bounds[0], -1.0), min(bounds[1], 1.0))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


@dataclass
class FollowTable:
    """Methods and modes, with what has to be said beside them."""

    results: dict[str, dict[str, Following]]  # method -> mode
    protocol: dict[str, Any]
    extractor: str
    failures: dict[str, list[str]]  # method -> pairs that could not be made

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {
            "protocol": {
                **self.protocol,
                "extractor": self.extractor,
                "r": "sum xy / sqrt(sum xx sum yy) of a clip, means taken out; x the driver, y the result",
                "gain": "sum xy / sum xx of the same",
                "mean": "over clips, by their frames times the driver's standard deviation of the unit",
                "measured_above_deviation": MIN_DEVIATION,
                "interval": f"95 %, bootstrap over clips, {N_RESAMPLES} resamples, bootstrap-t, "
                f"none below {MIN_CLIPS} clips",
                "groups": {g.name: [dict(s) for s in g.signals] for g in GROUPS},
            },
            "not_made": {name: list(lines) for name, lines in self.failures.items() if lines},
            "methods": {
                name: {mode: found.to_dict() for mode, found in modes.items()}
                for name, modes in self.results.items()
            },
        }


def follow(
    methods: Mapping[str, Path],  # name -> folder of clips named as the protocol's pairs
    ref: Path,  # the driving frames, likewise
    protocol: Protocol,
    modes: Sequence[str],
    networks: Networks | None = None,
    cache: Path | None = None,
    failures: Mapping[str, Sequence[str]] | None = None,  # method -> pairs that could not be made
    say: Callable[[str], None] = lambda line: None,
) -> FollowTable:
    """Measure every method in every mode. In a process group each process takes every n-th clip.

    Raises:
        UserError: the networks measure another space than arkit52, or no frame of a method can be compared.
    """
    networks = networks or Networks()
    if networks.space != ARKIT52.name:
        raise UserError(
            f"following is measured in arkit52, not in {networks.space}; leave the weights deep3d out"
        )
    networks.load(["expression"])
    results: dict[str, dict[str, Following]] = {}
    for method, folder in methods.items():
        results[method] = {}
        for mode in modes:
            say(f"{method}: {mode} identity, {len(protocol.ids(mode))} clips")
            found = _following(folder, ref, protocol, mode, networks, cache)
            if found.n_frames == 0:
                reason = next(iter(found.failures.lines()), "no clips")
                raise UserError(
                    f"{method}, {mode} identity: no frame of {folder} could be compared with {ref} "
                    f"({reason}); give clips of faces named as the protocol's pairs"
                )
            results[method][mode] = found
    made = {name: list(lines) for name, lines in (failures or {}).items()}
    return FollowTable(results, protocol.record(), networks.record("expression"), made)


def _following(
    pred: Path, ref: Path, protocol: Protocol, mode: str, networks: Networks, cache: Path | None
) -> Following:
    failures = Failures()
    pairs = paired_clips(pred, ref, protocol.ids(mode), failures)
    mine = {
        name: _measured(name, a, b, networks, protocol, cache)
        for name, a, b in pairs[distributed.rank() :: distributed.world_size()]
    }
    parts = [mine]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts = [{} for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather_object(parts, mine)
    merged = {name: clip for part in parts for name, clip in part.items()}
    clips = {name: merged[name] for name, _, _ in pairs}
    for clip in clips.values():
        for reason, (count, frame) in clip.failures.counts.items():
            failures.add(reason, frame, count)
    return Following(clips, failures)


def _measured(
    name: str, pred: Path, ref: Path, networks: Networks, protocol: Protocol, cache: Path | None
) -> ClipFollow:
    """One clip; frames without a face on either side are left out and counted."""
    failures = Failures()
    known = None if cache is None else ReferenceCache(cache, ref, networks.key, protocol.sha256)
    drivers: list[np.ndarray] = []
    results: list[np.ndarray] = []
    try:
        for places, pairs in frame_batches(name, pred, ref, networks, failures):
            if known is not None:
                known.fill(pairs.ref, places)
            faces = zip(pairs.indices, pairs.pred.faces, pairs.ref.faces, strict=True)
            for number, result, driver in faces:
                if result is None or driver is None:
                    side = "result" if result is None else "driver"
                    failures.add(f"{name}: no face in the {side}", str(number))
                    continue
                results.append(result.beta)
                drivers.append(driver.beta)
            if known is not None:
                known.keep(pairs.ref, places)
    except UserError as error:  # a video that breaks off: what was read counts
        failures.add(f"{name}: {error}")
    if known is not None:
        known.close()
    empty = np.zeros((0, ARKIT52.dim))
    out = follow_clip(np.array(drivers or empty), np.array(results or empty))
    out.failures = failures
    return out
