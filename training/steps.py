"""Small verbs that both trainings share."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dnnlib import UserError
from dnnlib.signals import ENDING
from torch_utils.train_state import latest_train_state


class Meter:
    """Means of named numbers since they were last read."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}

    def add(self, values: dict[str, float]) -> None:
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


def apply_step(optimiser: torch.optim.Optimizer, lr: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.step()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bfloat16 where `precision` says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def check_finite(values: Mapping[str, float], step: int, out: Path, cure: str) -> None:
    """Refuse losses that are NaN or infinite. Raises UserError; names the first, and the state that is still good."""
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        first = next((name for name in bad if name != "total"), bad[0])
        kept = latest_train_state(out)
        where = f"; {kept.name} holds the last good weights" if kept else ""
        raise UserError(
            f"the loss {first!r} is {values[first]} at step {step}{where}; {cure} and start from there"
        )


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@contextmanager
def stop_signal(enabled: bool) -> Iterator[Any]:
    """Ctrl-C, SIGTERM and SIGHUP ask the loop to stop after its step; a second one stops at once."""
    asked = threading.Event()
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, _frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    listened = [s for s in ENDING if signal.getsignal(s) is not signal.SIG_IGN]  # not under nohup
    before = {s: signal.signal(s, ask) for s in listened}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
