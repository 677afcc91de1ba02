"""How far a run is: a bar in a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


class ProgressLine:
    """A bar with the time left and images per second in a terminal, a plain line now and then elsewhere."""

    def __init__(self, total: int, done: int, unit: str = "images", quiet: bool = False) -> None:
        self.total, self.unit, self.quiet = total, unit, quiet
        self._start_time, self._start_done = time.monotonic(), done
        self._bar: Progress | None = None
        if not quiet and sys.stderr.isatty():
            from rich.console import Console  # here: slow to import

            self._bar = Progress(
                MofNCompleteColumn(),
                TextColumn(unit),
                BarColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=total, completed=done)

    def rate(self, done: int) -> float:
        """Images per second since the start of this process."""
        return (done - self._start_done) / max(time.monotonic() - self._start_time, 1e-9)

    def update(self, done: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def report(self, done: int, text: str, rate: float) -> None:
        """Show `text` beside the progress; `rate`: units a second lately."""
        if self._bar is not None:
            description = f"{rate:.1f} {self.unit}/s  {text}"
            self._bar.update(self._task, completed=done, description=description)
        elif not self.quiet:
            left = _clock((self.total - done) / rate) if rate else "?"
            line = f"{done}/{self.total} {self.unit}  {rate:.1f}/s  {left} left  {text}"
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
