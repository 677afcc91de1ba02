"""The numbers of the steps since the last line: into the run's statistics, and beside its progress."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from running.flops import TERA
from running.heartbeat import Heartbeat
from running.parameters import short
from running.progress import ProgressLine
from running.records import RunDirectory
from running.steps import Meter
from running.timing import MFU, TFLOPS, Timing
from torch_utils import distributed


class Statistics:
    """Takes the values of every step; a line has their means and where the time went."""

    def __init__(
        self,
        run: RunDirectory | None,  # of the main process; the others stay silent
        heart: Heartbeat,
        device: torch.device,
        total: int,  # units of the whole run
        done: int,  # units so far
        unit: str,
        shown: Collection[str],  # numbers beside the progress
        peak: float | None = None,  # FLOP/s of the device
    ) -> None:
        self._run, self._heart, self._unit, self._shown = run, heart, unit, shown
        self._progress = ProgressLine(total, done, unit, quiet=run is None)
        self._timing = Timing(device, distributed.world_size(), peak)
        self._meter = Meter()

    def begin(self, step: int, done: int) -> None:
        """The steps begin here."""
        self._timing.begin(step, done)

    def add(self, values: Mapping[str, float], done: int, left_out: bool) -> None:
        """A step is done."""
        if self._run is not None and not left_out:  # NaN would hide the other steps of a mean
            self._meter.add(values)
        self._progress.update(done)

    def line(self, step: int, done: int, counters: Mapping[str, Any], flops: float) -> None:
        """Write what has come since the last line; `flops` of a step in this process, 0: not known."""
        if self._run is None:
            return
        means, seconds = self._meter.means(), self._heart.take_seconds()
        timing = self._timing.numbers(step, done, self._unit, seconds, flops)
        self._run.scalars(step, {**counters, **means, **timing})
        shown = "  ".join(f"{name} {means[name]:.4f}" for name in means if name in self._shown)
        wait = f"data wait {timing['timing/data_wait']:.0%}"
        work = f"{short(timing[TFLOPS] * TERA)}FLOP/s" if TFLOPS in timing else ""
        work += f", MFU {timing[MFU]:.0%}" if MFU in timing else ""
        self._progress.report(
            done, "  ".join(filter(None, (work, wait, shown))), timing[f"{self._unit}_per_s"]
        )

    def close(self) -> None:
        self._progress.close()
