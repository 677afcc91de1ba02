"""Where the time of the last steps went: rate, share of each phase, memory. One set of numbers a logged line."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch

from running.flops import TERA
from running.heartbeat import DATA

PREFIX = "timing/"  # of the names in the statistics; what follows is no property of the training
TFLOPS = PREFIX + "tflops_per_s_per_process"
MFU = PREFIX + "mfu"  # model FLOPs utilisation: share of the device's peak


class Timing:
    """Numbers of the steps since the last ones were taken."""

    def __init__(
        self,
        device: torch.device,
        processes: int,
        peak: float | None = None,  # FLOP/s of the device, see running.flops.peak_flops
    ) -> None:
        self._device, self._processes, self._peak = device, processes, peak
        self._since, self._step, self._done = time.monotonic(), 0, 0

    def begin(self, step: int, done: int) -> None:
        """The steps begin here."""
        self._since, self._step, self._done = time.monotonic(), step, done

    def numbers(
        self,
        step: int,
        done: int,  # units so far
        unit: str,
        seconds: Mapping[str, float],  # by phase, see Heartbeat.take_seconds
        flops: float = 0.0,  # of a step in this process; 0: not known
    ) -> dict[str, float]:
        """Since the last call. `<unit>_per_s` is over all processes; shares are of this process' time.

        On a GPU the time of a phase is what the CPU spends in it: it runs ahead until it asks for the losses, so that
        the GPU's own work shows in the phase that waits for them.
        """
        now = time.monotonic()
        passed, steps = max(now - self._since, 1e-9), max(step - self._step, 1)
        rate = (done - self._done) / passed
        total = max(sum(seconds.values()), 1e-9)
        found = {
            f"{unit}_per_s": round(rate, 3),
            f"{PREFIX}{unit}_per_s_per_process": round(rate / self._processes, 3),
            f"{PREFIX}seconds_per_step": round(passed / steps, 5),
            f"{PREFIX}data_wait": round(seconds.get(DATA, 0.0) / total, 4),
        }
        for phase, value in seconds.items():
            if phase != DATA:
                found[PREFIX + phase.replace(" ", "_")] = round(value / total, 4)
        if flops:
            found[TFLOPS] = round(flops * steps / passed / TERA, 5)
            if self._peak:
                found[MFU] = round(flops * steps / passed / self._peak, 4)
        if self._device.type == "cuda":
            found[PREFIX + "peak_memory_mb"] = torch.cuda.max_memory_allocated(self._device) / 2**20
        self.begin(step, done)
        return found
