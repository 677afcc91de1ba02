"""What a run remembers of its own way: steps that were skipped, the best score so far. Part of the state."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass
class History:
    """Counters that go on after a resume."""

    skipped: int = 0  # steps left out because something in them was not finite
    skipped_in_a_row: int = 0
    best: float | None = None  # score of the best network so far; higher is better

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


class SpikeWatch:
    """Tells when a loss leaps far above what it has been lately. Only a word to the user: training goes on."""

    FACTOR = 4.0  # times the median
    WINDOW = 100  # steps; silent before a fifth of them

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=self.WINDOW)

    def __call__(self, value: float) -> str | None:
        """A sentence about `value`, the loss of the newest step, or None."""
        found = None
        if len(self._recent) >= self.WINDOW // 5:
            usual = median(self._recent)
            if usual > 0 and value > self.FACTOR * usual:
                found = f"the loss leaps to {value:.4g}; lately it was {usual:.4g}"
        self._recent.append(value)
        return found
