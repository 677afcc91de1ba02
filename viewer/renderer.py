"""One thread renders for all visitors in turn: of what a visitor asked for meanwhile only the newest is made.

While a visitor's picture moves it is made with less work; when nothing has moved for REST_S, once more in full.
"""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass
from threading import Condition, Thread
from time import perf_counter
from typing import Protocol

REST_S = 0.25  # without a change, until the picture is made in full
MAX_FPS = 30.0  # of one visitor's playing clip


class Viewed(Protocol):
    """What is rendered again and again."""

    @property
    def playing(self) -> bool:
        """Whether it changes by itself."""
        ...

    def draw(self, moving: bool, asked_s: float) -> None:
        """Render and show it. asked_s: when it was asked for, of `perf_counter`."""
        ...


@dataclass
class _Turn:
    asked_s: float  # the newest change
    wanted: bool = True  # a picture of it
    refined: bool = False  # in full
    drawn_s: float = 0.0  # began

    def due_s(self, playing: bool) -> float:
        """When it is next to be drawn; infinity: not before something changes."""
        if playing:
            return self.drawn_s + 1 / MAX_FPS
        if self.wanted:
            return self.asked_s
        return float("inf") if self.refined else self.asked_s + REST_S


class Renderer:
    """Draws what is asked for, one at a time; who was drawn last comes last."""

    def __init__(self) -> None:
        self._turns: dict[Viewed, _Turn] = {}
        self._changed = Condition()
        self._stopped = False
        self._thread = Thread(target=self._run, name="renderer", daemon=True)
        self._thread.start()

    def ask(self, viewed: Viewed) -> None:
        """Something has changed: draw it soon."""
        with self._changed:
            turn = self._turns.setdefault(viewed, _Turn(0.0))
            turn.asked_s, turn.wanted, turn.refined = perf_counter(), True, False
            self._changed.notify()

    def forget(self, viewed: Viewed) -> None:
        """It has gone; a picture that is being made is still finished."""
        with self._changed:
            self._turns.pop(viewed, None)

    def stop(self) -> None:
        """End the thread after the picture that it is at."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while (chosen := self._next()) is not None:
            viewed, moving, asked_s = chosen
            try:
                viewed.draw(moving, asked_s)
            except Exception:  # one visitor's trouble is not the others'
                traceback.print_exc(file=sys.stderr)
                self.forget(viewed)

    def _next(self) -> tuple[Viewed, bool, float] | None:
        """Waits for what is due; (what, whether it moves, when it was asked for), None to stop."""
        with self._changed:
            while not self._stopped:
                now = perf_counter()
                due = {v: turn.due_s(v.playing) for v, turn in self._turns.items()}
                ready = [v for v, at in due.items() if at <= now]
                if ready:
                    return self._begin(min(ready, key=self._place), now)
                wait = min(due.values(), default=float("inf")) - now
                self._changed.wait(None if wait == float("inf") else wait)
        return None

    def _place(self, viewed: Viewed) -> tuple[bool, float]:
        """Who waits longest comes first; pictures in full only when nobody waits for one at all."""
        turn = self._turns[viewed]
        return not (turn.wanted or viewed.playing), turn.drawn_s

    def _begin(self, viewed: Viewed, now: float) -> tuple[Viewed, bool, float]:
        turn = self._turns[viewed]
        playing = viewed.playing
        moving = playing or turn.wanted
        asked_s = turn.asked_s if turn.wanted else now
        turn.wanted, turn.refined, turn.drawn_s = False, not moving, now
        if playing:
            turn.asked_s = now
        return viewed, moving, asked_s
