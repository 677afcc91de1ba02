"""Steps of which a number is not finite: left out, told, and the end of a run where too many come in a row."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dnnlib import UserError
from running.history import History, SpikeWatch
from running.precision import LossScale
from running.records import RunDirectory
from running.steps import not_finite_names
from torch_utils import distributed
from torch_utils.train_state import latest_train_state


class StepGuard:
    """Asked after the numbers of a step are known and before anything changes; the same answer in all ranks."""

    def __init__(
        self,
        out: Path,  # run directory
        history: History,  # counts what is left out
        scale: LossScale,
        limit: int,  # steps in a row
        lr: float,
        watched: str,  # name of the number that training minimises
    ) -> None:
        self.run: RunDirectory | None = None  # of the main process, as soon as it is open
        self._out, self._history, self._scale = out, history, scale
        self._limit, self._lr, self._watched = limit, lr, watched
        self._spikes = SpikeWatch()

    def leaves_out(
        self,
        step: int,
        values: Mapping[str, float],
        frames: Callable[[], Any],  # JSON: what all ranks see in this step; called in all of them
    ) -> bool:
        """Whether the step is to change nothing, because one of its numbers is not finite.

        Raises:
            UserError: in all ranks alike: it is one too many in a row.
        """
        bad = not_finite_names(values)
        if not bad:
            self._history.skipped_in_a_row = 0
            self._scale.note_good_step()
            if (spike := self._spikes(values[self._watched])) is not None:
                distributed.print0(f"step {step}: {spike}", file=sys.stderr)
            return False
        if all(name.startswith("grad_norm") for name in bad) and self._scale.shrink():
            return True  # float16 finds its scale; nothing is wrong
        self._history.skipped += 1
        self._history.skipped_in_a_row += 1
        self._tell(step, bad, values, frames())
        if self._history.skipped_in_a_row >= self._limit:
            self._end(step, bad[0], values)
        return True

    def _tell(self, step: int, bad: list[str], values: Mapping[str, float], frames: Any) -> None:
        if self.run is not None:
            self.run.skipped({"step": step, "not_finite": bad, "batch": frames})
        distributed.print0(
            f"step {step} is left out: {bad[0]!r} is {values[bad[0]]} ({self._history.skipped} so far; its frames "
            f"are in {self._out / 'skipped.jsonl'})",
            file=sys.stderr,
        )

    def _end(self, step: int, name: str, values: Mapping[str, float]) -> None:
        kept = latest_train_state(self._out)
        good = f"; {kept.name} holds the last good weights" if kept else ""
        raise UserError(
            f"{name!r} is {values[name]} at step {step}, the {self._history.skipped_in_a_row}. step in a "
            f"row{good}; add --allow-change lr={self._lr / 2:g} to the command, which goes on from there"
        )
