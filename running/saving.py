"""States and networks written beside the steps, not in their way.

    saver.submit(step, write)     # `write` gets nothing and works on a snapshot; a thread calls it
    saver.poll(step)              # after every step: raises what must end the run, says whether to save again
    saver.finish()                # waits for what is on its way; raises when it could not be written

A save that fails (a full disk, a quota, a file server that hiccups) does not end the training: it is told, and tried
again with a newer state; what no newer one makes up for is tried again as it is. Only the last ones have to succeed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from torch import Tensor

from dnnlib import UserError

_WAITING = 2  # snapshots in memory at most: a disk slower than that is waited for


class NotFiniteError(UserError):
    """What was to be saved holds NaN or infinity; trying again does not help."""


def snapshot(value: Any) -> Any:
    """A copy on the CPU of nested dicts, lists and tuples; what training does afterwards does not touch it."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: snapshot(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(snapshot(item) for item in value)
    return value


class _Save(NamedTuple):
    step: int
    write: Callable[[], None]
    only: str
    future: Future[None]


class Saver:
    """One thread that writes files, in the order in which they were asked for."""

    def __init__(self, retry_after: int) -> None:
        self.retry_after = retry_after  # steps until a save that failed is tried again
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._on_the_way: list[_Save] = []
        self._again_at: int | None = None
        self._kept: dict[str, _Save] = {}  # by name: what failed and no newer save will make up for

    def submit(self, step: int, write: Callable[[], None], only: str = "") -> None:
        """Call `write` in the thread, after what was submitted before.

        only: name of what no later save writes anew; when it fails, it is tried again until one of that name is there.
        """
        while len(self._on_the_way) >= _WAITING:
            self._settle(step)
        self._kept.pop(only, None)
        self._on_the_way.append(_Save(step, write, only, self._pool.submit(write)))

    def is_due_again(self, step: int) -> bool:
        """Whether a save that failed is to be tried again after `step`.

        Raises:
            NotFiniteError: what was to be saved is not finite. Other defects of the writing come as they are.
        """
        while self._on_the_way and self._on_the_way[0].future.done():
            self._settle(step)
        due = self._again_at is not None and step >= self._again_at
        if due:
            self._again_at = None
            for save in list(self._kept.values()):
                self.submit(step, save.write, save.only)
        return due

    def finish(self) -> None:
        """Wait until everything is on the disk.

        Raises:
            UserError: one of the newest saves failed, or one that no newer one makes up for; those before stay.
        """
        for save in list(self._kept.values()):
            self.submit(save.step, save.write, save.only)
        newest = max((save.step for save in self._on_the_way), default=0)
        errors = []
        while self._on_the_way:
            save = self._on_the_way.pop(0)
            error = save.future.exception()
            if error is not None and (save.step == newest or save.only):
                errors.append(error)
        if errors:
            raise errors[-1]

    def close(self) -> None:
        """End the thread; what is on its way is written first."""
        self._pool.shutdown(wait=True)

    def _settle(self, step: int) -> None:
        save = self._on_the_way.pop(0)
        error = save.future.exception()
        if error is None:
            return
        if isinstance(error, NotFiniteError) or not isinstance(error, (UserError, OSError)):
            raise error
        self._again_at = step + self.retry_after
        if save.only:
            self._kept[save.only] = save
        print(
            f"step {save.step} is not saved: {error}. Training goes on; the next try is after step {self._again_at}",
            file=sys.stderr,
            flush=True,
        )
