"""A whole data set: which sources are done, who prepares the rest, and what joins them.

DATA/videos/list.json     the sources in the order of their numbers; new ones are appended, none is ever moved
DATA/videos/00000.json    the record of source 0, written when it is finished, .jpg its thumbnails
DATA/shards/00000.*       its clips
DATA/report.*, dataset.json, clips.npy, frames.npy    once all sources are done
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset.joining import finalise, remove_leftovers
from dataset.preparation.engines import (
    Outcome,
    run_here,
    run_local,
    run_ray,
)
from dataset.preparation.finding import find_sources
from dataset.preparation.options import VideoOptions
from dataset.preparation.records import read_record
from dataset.preparation.report import write_report
from dataset.preparation.sources import Source
from dataset.preparation.tools import Toolbox
from dataset.preparation.video import Job, write_record
from dnnlib.cores import available_cores
from dnnlib.errors import UserError
from dnnlib.files import atomic_write, open_lock, os_error_to_user_error
from dnnlib.reading.files import read_bytes
from dnnlib.reading.text import parse_json_value


@dataclass(frozen=True)
class Summary:
    """What a run of `prepare` came to."""

    n_sources: int  # of this part
    n_done_before: int
    n_rejected: int
    n_frames: int  # read in this run
    n_kept: int
    complete: bool  # the data set is joined


@dataclass
class Progress:
    """Called as work goes on; the base class says nothing."""

    total: int = 0
    report: Callable[[int, int, int, str], None] | None = None

    def __post_init__(self) -> None:
        self._running: dict[int, int] = {}
        self.frames = self.done = 0

    def frame(self, number: int, frames: int) -> None:
        self._running[number] = frames
        self._say("")

    def end(self, outcome: Outcome) -> None:
        self._running.pop(outcome.job.number, None)
        self.done += 1
        if outcome.record is not None:
            self.frames += outcome.record["frames"]
        self._say(outcome.job.source.name)

    def _say(self, name: str) -> None:
        if self.report is not None:
            self.report(self.done, self.total, self.frames + sum(self._running.values()), name)


def prepare(
    source: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    options: VideoOptions | None = None,
    workers: int | None = None,  # processes; None: all cores; 0: this process
    engine: str = "local",  # "local" or "ray"
    part: tuple[int, int] = (0, 1),  # (i, n): every n-th source from the i-th on, for job arrays
    progress: Callable[[int, int, int, str], None] | None = None,  # done, total, frames, name
) -> Summary:
    """Prepare all videos of `source` into the data set `dest`.

    The bytes depend on sources and options alone. The same call goes on where it was killed.

    Raises:
        UserError: nothing to prepare, the folder belongs to other options, or it cannot be written.
    """
    options, dest = options or VideoOptions(), Path(dest)
    index, count = part
    if not 0 <= index < count:
        raise UserError(
            f"--shard {index}/{count} does not exist; use 0/{count} to {count - 1}/{count}"
        )
    sources = find_sources(source, options.layout)
    fingerprint = _fingerprint(options)  # before anything is written
    _make_folder(dest / "videos")
    with _lock(dest / "videos" / f".lock-{index}-of-{count}", wait=False):
        jobs = _jobs(dest, sources)
        mine = [j for j in jobs if j.number % count == index]
        todo = [j for j in mine if not is_done(dest, j, fingerprint)]
        state = Progress(len(todo), progress)
        for outcome in _run(todo, dest, options, workers, engine, state):
            if outcome.record is None:
                record = _given_up(outcome, fingerprint)
                write_record(dest, outcome.job.number, record, None)
            state.end(outcome)
        complete = _finish(dest, jobs, fingerprint)
    records = [read_record(dest, j.number) or {} for j in mine]
    return Summary(
        n_sources=len(mine),
        n_done_before=len(mine) - len(todo),
        n_rejected=sum(r.get("status") != "kept" for r in records),
        n_frames=state.frames,
        n_kept=sum(r.get("kept", 0) for r in records),
        complete=complete,
    )


def _run(
    todo: list[Job],
    dest: Path,
    options: VideoOptions,
    workers: int | None,
    engine: str,
    state: Progress,
) -> Iterator[Outcome]:
    if not todo:
        return iter(())
    n_workers = available_cores() if workers is None else workers
    if engine == "ray":
        return run_ray(todo, dest, options, state.frame, max(1, n_workers))
    if n_workers == 0:
        return run_here(todo, dest, options, state.frame)
    return run_local(todo, dest, options, state.frame, min(n_workers, len(todo)))


def _fingerprint(options: VideoOptions) -> str:
    """Loads what the workers will load: what is missing fails here, once."""
    return Toolbox(options).fingerprint


def _jobs(dest: Path, sources: list[Source]) -> list[Job]:
    """Numbered sources. Names that an earlier run knew keep their number, new ones follow."""
    path = dest / "videos" / "list.json"
    with _lock(dest / "videos" / ".lock-list", wait=True):
        known: list[str] = []
        if path.is_file():
            advice = "remove the folder and start anew"
            found = parse_json_value(read_bytes(path, advice), str(path), advice)
            if not isinstance(found, list) or not all(isinstance(n, str) for n in found):
                raise UserError(f"{path} is no list of names; {advice}")
            if len(set(found)) < len(found):
                raise UserError(f"{path} names a video twice; {advice}")
            known = found
        listed = set(known)
        names = known + [s.name for s in sources if s.name not in listed]
        if names != known:
            with atomic_write(path, "w") as file:
                json.dump(names, file, indent=0, ensure_ascii=False)
                file.write("\n")
    numbers = {name: i for i, name in enumerate(names)}
    people: dict[str, int] = {}
    for source in sorted(sources, key=lambda s: numbers[s.name]):
        people.setdefault(source.identity, numbers[source.name])
    return sorted(
        (Job(numbers[s.name], s, people[s.identity]) for s in sources), key=lambda j: j.number
    )


def is_done(dest: Path, job: Job, fingerprint: str) -> bool:
    """Whether an earlier run finished this source.

    Raises:
        UserError: it did, with other options.
    """
    record = read_record(dest, job.number)
    if record is None:
        return False
    if record["fingerprint"] != fingerprint:
        raise UserError(
            f"{dest} was prepared with other options or another tracker; choose another folder or remove it"
        )
    return bool(record["name"] == job.source.name)


def _given_up(outcome: Outcome, fingerprint: str) -> dict[str, Any]:
    """The record of a source whose worker died or met a defect."""
    return {
        "number": outcome.job.number,
        "name": outcome.job.source.name,
        "identity": outcome.job.source.identity,
        "fingerprint": fingerprint,
        "status": "rejected",
        "problem": outcome.problem,
        "notes": [],
        "width": 0,
        "height": 0,
        "fps": 0.0,
        "shots": 0,
        "frames": 0,
        "kept": 0,
        "rejected": {},
        "clips": [],
    }


def _finish(dest: Path, jobs: list[Job], fingerprint: str) -> bool:
    """Join the shards and write the report when every source is done; False while others are at work."""
    if not all(is_done(dest, job, fingerprint) for job in jobs):
        return False
    with _lock(dest / "videos" / ".lock-finish", wait=True):
        records = [r for j in jobs if (r := read_record(dest, j.number)) is not None]
        write_report(dest, records)
        remove_leftovers(dest)
        if any(r["kept"] for r in records):
            finalise(dest)
        for lock in (dest / "videos").glob(".lock-*"):
            lock.unlink(missing_ok=True)
        if not any(r["kept"] for r in records):
            raise UserError(
                f"no video gave a clip; {dest / 'report.html'} tells the reason of each"
            )
    return True


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise os_error_to_user_error(error, path) or error from error


@contextlib.contextmanager
def _lock(path: Path, wait: bool) -> Iterator[None]:
    """One process at a time; the operating system frees the lock of a killed one."""
    with open_lock(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise UserError(
                f"another process is preparing {path.parent.parent}; wait for it, or use --shard"
            ) from error
        except OSError:  # a store without locks: go on without
            pass
        yield
