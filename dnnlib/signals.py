"""Leaving in good order: SIGTERM and SIGHUP unwind the program as Ctrl-C does, so that temporary files go."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(SystemExit):
    """The program was asked to end by a signal; the exit status is what shells report, 128 + its number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name
        self.told = False  # whether the user has been told


@contextmanager
def orderly_exit() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Stopped` in this block. Ctrl-C raises KeyboardInterrupt already.

    A signal that somebody else handles, or that is ignored (nohup), stays as it is. Processes that were forked off
    end as they would without this.
    """
    if not _is_main_thread():
        yield
        return
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        for other in taken:  # once is enough: a second one must not cut the cleaning up short
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    taken = [n for n in ENDING[1:] if signal.getsignal(n) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def end_in_order() -> None:
    """In a worker process, for good: SIGTERM raises `Stopped`; Ctrl-C is left to the parent, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise Stopped(number)

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
        for n in ENDING
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
