"""Leaving in good order: SIGTERM and SIGHUP unwind the program as Ctrl-C does, so that temporary files go."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN_S = 0.5  # until the end is asked for once more


class Stopped(SystemExit):
    """The program was asked to end by a signal; the exit status is what shells report, 128 + its number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name
        self.told = False  # whether the user has been told
        self.taken = False  # whether who has caught it ends in good order and then raises it again


@contextmanager
def orderly_exit() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Stopped` in this block. Ctrl-C raises KeyboardInterrupt already.

    A signal that somebody else handles, or that is ignored (nohup), stays as it is. Processes that were forked off
    end as they would without this.
    """
    if not _is_main_thread():
        yield
        return
    owner, repeating = os.getpid(), _Repeating()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        for other in taken:  # once is enough: a second one must not cut the cleaning up short
            signal.signal(other, signal.SIG_IGN)
        raise repeating.begin(number)

    taken = [n for n in ENDING[1:] if signal.getsignal(n) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        repeating.end()
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


class _Repeating:
    """Raises `Stopped` again for as long as it gets lost.

    The exception of a signal's handler may come up where nobody takes it: in C code that clears whatever error it finds
    (a SIGTERM was lost in `numpy.random.Generator.choice`), in a callback of the garbage collector. The program would
    work on to its end. One that is on its way through the blocks that clean up is left alone.
    """

    def __init__(self) -> None:
        self._last: Stopped | None = None
        self._told = sys.unraisablehook

    def begin(self, number: int) -> Stopped:
        """The exception to raise now."""
        stopped = Stopped(number)
        if signal.getsignal(signal.SIGALRM) is signal.SIG_DFL:  # nobody else's

            def again(_: int, frame: FrameType | None) -> None:
                on_its_way = sys.exc_info()[1]
                while on_its_way is not None and not isinstance(on_its_way, Stopped):
                    on_its_way = on_its_way.__context__
                if on_its_way is None and self._last is not None and not self._last.taken:
                    self._last = Stopped(number)
                    raise self._last

            self._last, self._told = stopped, sys.unraisablehook
            sys.unraisablehook = self._unraisable
            signal.signal(signal.SIGALRM, again)
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S, AGAIN_S)
        return stopped

    def _unraisable(self, lost: sys.UnraisableHookArgs) -> None:
        if not isinstance(lost.exc_value, Stopped):  # which comes again
            self._told(lost)

    def end(self) -> None:
        """It has arrived, or nothing came."""
        if self._last is not None:
            sys.unraisablehook = self._told
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)


def end_in_order() -> None:
    """In a worker process, for good: SIGTERM raises `Stopped`; Ctrl-C is left to the parent, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    repeating = _Repeating()

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise repeating.begin(number)

    signal.signal(signal.SIGTERM, stop)


@contextmanager
def signals_held() -> Iterator[None]:
    """A block that no signal of `ENDING` interrupts: one that comes meanwhile acts at the end of the block."""
    if not _is_main_thread():  # handlers run in the main thread: nothing to hold here
        yield
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before: dict[int, Any] = {
        n: signal.signal(n, note)
        for n in (*ENDING, signal.SIGALRM)  # see _Repeating
        if signal.getsignal(n) not in (signal.SIG_IGN, None)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
