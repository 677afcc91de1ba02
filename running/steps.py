"""Small verbs that both trainings share."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dnnlib.signals import ENDING


class Meter:
    """Means of named numbers since they were last read."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._sums.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        out = {name: math.fsum(v) / len(v) for name, v in self._sums.items()}
        self._sums.clear()
        return out


def micro_batches(
    batch: Mapping[str, Tensor], size: int, parts: int
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """(first sample, its part of the batch) for each of `parts` equal parts."""
    n = size // parts
    for start in range(0, size, n):
        yield start, {name: x[start : start + n] for name, x in batch.items()}


def clip_gradients(module: nn.Module, limit: float) -> Tensor:
    """Norm of all gradients before clipping them to `limit` (0: no limit)."""
    parameters = [p for p in module.parameters() if p.grad is not None]
    return nn.utils.clip_grad_norm_(parameters, limit if limit > 0 else math.inf)


def adam(
    parameters: Iterable[nn.Parameter], device: torch.device, lr: float, **options: Any
) -> torch.optim.Optimizer:
    """AdamW; on a GPU one kernel with its counters there, so that no step waits for the CPU to read them."""
    learned = [p for p in parameters if p.requires_grad]
    fused = True if device.type == "cuda" else None
    return torch.optim.AdamW(learned, lr=lr, fused=fused, **options)


def apply_step(optimiser: torch.optim.Optimizer, lr: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.step()


def gradient_norm(module: nn.Module) -> Tensor:
    """Norm of all gradients; NaN or infinite when one of them is."""
    return nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])


def not_finite_names(values: Mapping[str, float]) -> list[str]:
    """Names of the numbers that are NaN or infinite, `total` last: it only follows from the others."""
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    return sorted(bad, key=lambda name: name == "total")


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


class StopRequest:
    """Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 ask the loop to stop after its step, and so does the end of the launcher.

    A second Ctrl-C stops at once. Other signals may come twice: a cluster sends them to launcher and process, and the
    launcher passes them on.
    """

    PATIENCE_S = (
        2.0  # an interrupt that comes so soon after the first is the first, passed on by a launcher
    )

    def __init__(self) -> None:
        self._asked_at: float | None = None
        self._parent = os.getppid() if "RANK" in os.environ else None
        self._before: dict[int, Any] = {}

    def asked(self) -> bool:
        # without its launcher nobody would end this process, nor start it again
        return self._asked_at is not None or (
            self._parent is not None and os.getppid() != self._parent
        )

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            listened = [
                s for s in (*ENDING, signal.SIGUSR1) if signal.getsignal(s) is not signal.SIG_IGN
            ]  # not under nohup
            self._before = {s: signal.signal(s, self._note) for s in listened}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, _frame: Any) -> None:
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
        elif number == signal.SIGINT and now - self._asked_at > self.PATIENCE_S:
            raise KeyboardInterrupt
