"""What a process is doing and for how long: the times of a step's phases, and a watch that ends a run that hangs.

A process that waits for data or computes says so by itself when its patience ends. One that waits for the others has
more patience, so that the one that hangs speaks first; when that one cannot (its node is gone), those that wait name it
from what it last said.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from torch_utils import distributed

WAITING = "waiting for the other processes"  # in a collective operation
WAITING_FOR_MAIN = "waiting for the main process"  # which does something alone
DATA = "waiting for data"
EVALUATING = "evaluating"
_FIRST = 6.0  # times the limit until the first step is done: compilers and loaders start
# times the limit; those that wait for others have more of it
_PATIENCE = {WAITING: 1.5, EVALUATING: 6.0, WAITING_FOR_MAIN: 9.0}
_BEAT_S = 5.0
EXIT_HANGS = 1
_Beats = dict[int, dict[str, Any]]  # what each rank said last


class Heartbeat:
    """`with heart:` around the steps; `with heart.phase(NAME):` around a part of one; `heart.step_done(step)`."""

    def __init__(self, limit_s: float) -> None:  # 0: never ends a run
        self.limit_s = limit_s
        self.seconds: dict[str, float] = {}  # by phase, since they were last taken
        self._name, self._since, self._step = "computing", time.monotonic(), 0
        self._progress = time.monotonic()
        self._first = True
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._since = self._progress = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Its time counts for `name`, and not for what is around it."""
        before = self._turn_to(name)
        try:
            yield
        finally:
            self._turn_to(before)

    def step_done(self, step: int) -> None:
        self._step, self._first = step, False
        self._progress = time.monotonic()

    def take_seconds(self) -> dict[str, float]:
        """Seconds by phase since the last call."""
        self._turn_to(self._name)
        taken, self.seconds = self.seconds, {}
        return taken

    def _turn_to(self, name: str) -> str:
        now, before = time.monotonic(), self._name
        self.seconds[before] = self.seconds.get(before, 0.0) + now - self._since
        self._name, self._since = name, now
        self._progress = now  # a new phase is progress
        return before

    # ---- the thread ------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        store, beats = distributed.second_store(), 0
        interval_s = min(_BEAT_S, max(0.05, self.limit_s / 4 or _BEAT_S))
        # since when nothing moves here, and what the others said when that had lasted
        before: tuple[float, _Beats] = (0.0, {})
        while not self._ended.wait(interval_s):
            name, since = self._name, self._progress
            stuck_s = time.monotonic() - since
            if store is not None:
                beats += 1
                beat = {
                    "host": distributed.host(),
                    "phase": name,
                    "step": self._step,
                    "beat": beats,
                }
                with suppress(RuntimeError):
                    store.set(f"beat/{distributed.rank()}", json.dumps(beat))
            limit_s = self.limit_s * _PATIENCE.get(name, 1.0) * (_FIRST if self._first else 1.0)
            if self.limit_s <= 0 or self._ended.is_set():
                continue
            if stuck_s > limit_s:
                self._end(name, stuck_s, store, before[1])
            elif stuck_s > limit_s - 3 * interval_s and before[0] != since and store is not None:
                before = (since, self._beats(store))

    def _end(self, name: str, stuck_s: float, store: Any, before: _Beats) -> None:
        # another process may have told already; then this one only follows
        if distributed.is_first_to_fail(store):
            sentence = f"no progress for {stuck_s:.0f} s in step {self._step + 1}, {name}"
            if name in (WAITING, WAITING_FOR_MAIN) and store is not None:
                sentence += "; " + "; ".join(self._of_others(store, before))
            where = f"[rank {distributed.rank()}, {distributed.host()}] "
            print(
                f"{where}{sentence}. The run ends here; the same command goes on from the newest state",
                file=sys.stderr,
                flush=True,
            )
        os._exit(EXIT_HANGS)  # the main thread hangs: nothing softer reaches it

    def _of_others(self, store: Any, before: _Beats) -> list[str]:
        """Who does something else than wait, or has not been heard of since `before`.

        Not by the times of their beats: clocks of hosts differ.
        """
        found = []
        for rank, beat in self._beats(store).items():
            if beat == before.get(rank):
                found.append(f"rank {rank} on {beat['host']} is silent since step {beat['step']}")
            elif beat["phase"] not in (WAITING, WAITING_FOR_MAIN):
                found.append(f"rank {rank} on {beat['host']} is {beat['phase']}")
        return found or ["all processes wait: a connection between them is broken"]

    def _beats(self, store: Any) -> _Beats:
        """By rank, what the other processes said last."""
        beats: _Beats = {}
        for rank in range(distributed.world_size()):
            with suppress(RuntimeError):
                if rank != distributed.rank() and store.check([f"beat/{rank}"]):
                    beats[rank] = json.loads(store.get(f"beat/{rank}"))
        return beats
