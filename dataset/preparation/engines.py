"""Many videos at once: processes of this machine, or a Ray cluster. A worker that dies takes only its video."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from dataset.preparation.options import VideoOptions
from dataset.preparation.tools import Toolbox
from dataset.preparation.video import Job, OutputError, prepare_video
from dnnlib.errors import UserError
from dnnlib.signals import end_in_order

ATTEMPTS = 2  # of a video whose worker died, in case it was the machine and not the video
STOP_S = 5.0  # for a worker to end when it is asked to
SILENCE_S = 600.0  # of a worker after which it counts as dead

JobProgress = Callable[[int, int], None]  # (job number, frames read)


@dataclass(frozen=True)
class Outcome:
    """How a job ended. record: what `prepare_video` gave; otherwise `problem` says why there is none."""

    job: Job
    record: dict[str, Any] | None = None
    problem: str = ""


def run_here(
    jobs: list[Job], dest: Path, options: VideoOptions, progress: JobProgress
) -> Iterator[Outcome]:
    """One after the other in this process. Raises OutputError."""
    toolbox = Toolbox(options)
    for job in jobs:
        yield _attempt(job, dest, options, toolbox, lambda n, j=job: progress(j.number, n))  # type: ignore[misc]


def _attempt(
    job: Job, dest: Path, options: VideoOptions, toolbox: Toolbox, progress: Callable[[int], None]
) -> Outcome:
    try:
        return Outcome(job, prepare_video(job, dest, options, toolbox, progress))
    except OutputError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return Outcome(job, problem=f"{job.source.name} met a defect of this program ({text})")


# ---- processes of this machine -----------------------------------------------------------------------------------


def run_local(
    jobs: list[Job], dest: Path, options: VideoOptions, progress: JobProgress, workers: int
) -> Iterator[Outcome]:
    """On `workers` processes, each with one video at a time, in the order in which they end. Raises OutputError."""
    context = multiprocessing.get_context("spawn")  # the parent may hold threads of torch
    waiting = deque(jobs)
    attempts: Counter[int] = Counter()
    crew: list[_Worker] = []
    try:
        while waiting or any(w.job is not None for w in crew):
            crew = [w for w in crew if w.job is not None or w.process.is_alive()]
            while waiting and len(crew) < workers:
                crew.append(_Worker(context, dest, options))
            for worker in crew:
                if worker.job is None and waiting:
                    worker.give(waiting.popleft())
            busy = [w for w in crew if w.job is not None]
            wait([w.pipe for w in busy] + [w.process.sentinel for w in busy], timeout=5.0)
            for worker in busy:
                outcome = worker.look(progress)
                if outcome is not None and outcome.record is None and worker.died:
                    attempts[outcome.job.number] += 1
                    if attempts[outcome.job.number] < ATTEMPTS:
                        waiting.appendleft(outcome.job)
                        continue
                if outcome is not None:
                    yield outcome
    finally:
        for worker in crew:
            worker.stop()


class _Worker:
    """One process and the video it works on."""

    def __init__(self, context: Any, dest: Path, options: VideoOptions) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_work, args=(theirs, str(dest), options, os.getpid()), daemon=True
        )
        self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.died = False
        self._heard = time.monotonic()

    def give(self, job: Job) -> None:
        self.job = job
        self._heard = time.monotonic()
        with contextlib.suppress(OSError):  # it died in the meantime: seen at the next look
            self.pipe.send(job)

    def look(self, progress: JobProgress) -> Outcome | None:
        """What the worker says; None while it works."""
        assert self.job is not None
        job = self.job
        try:
            while self.pipe.poll():
                self._heard = time.monotonic()
                kind, value = self.pipe.recv()
                if kind == "progress":
                    progress(job.number, value)
                elif kind == "output":
                    raise OutputError(value)
                elif kind == "user":
                    raise UserError(value)
                else:
                    self.job = None
                    return Outcome(job, value) if kind == "record" else Outcome(job, problem=value)
        except (EOFError, ConnectionError):
            self.process.join(5.0)
        if self.process.is_alive():
            if time.monotonic() - self._heard < SILENCE_S:
                return None
            self.process.kill()
            self.process.join()
            why = f"its worker said nothing for {SILENCE_S:.0f} s"
        else:
            why = _cause_of_death(self.process.exitcode)
        self.job, self.died = None, True
        return Outcome(job, problem=f"{job.source.name} was given up: {why}")

    def stop(self) -> None:
        if self.process.is_alive():
            self.process.terminate()  # it removes what it has begun to write
            self.process.join(STOP_S)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.pipe.close()


def _cause_of_death(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"its worker was killed by {signal.Signals(-code).name}"
    return f"its worker ended with status {code}"


def _work(pipe: Connection, dest: str, options: VideoOptions, parent: int) -> None:
    """Main function of a worker process."""
    end_in_order()  # the parent decides
    _die_with(parent)
    try:
        toolbox = Toolbox(options)
    except UserError as error:
        pipe.recv()
        pipe.send(("user", str(error)))
        return
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            outcome = _attempt(
                job, Path(dest), options, toolbox, lambda n: pipe.send(("progress", n))
            )
        except OutputError as error:
            pipe.send(("output", str(error)))
            return
        if outcome.record is not None:
            pipe.send(("record", outcome.record))
        else:
            pipe.send(("problem", outcome.problem))


def _die_with(parent: int) -> None:
    """On Linux: be killed when the parent is, so that no orphan writes beside the next run."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


# ---- Ray ---------------------------------------------------------------------------------------------------------


def run_ray(
    jobs: list[Job], dest: Path, options: VideoOptions, progress: JobProgress, workers: int
) -> Iterator[Outcome]:
    """On a Ray cluster: the one that RAY_ADDRESS names, else a local one of `workers` processes.

    `dest` and the videos must lie on a store that all nodes see. Raises OutputError; UserError when ray is missing.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    try:
        ray: Any = importlib.import_module("ray")  # optional: an extra of pyproject.toml
    except ImportError as error:
        raise UserError(
            "--engine ray needs the package ray; run pip install ray, or use --engine local"
        ) from error
    started = not ray.is_initialized()
    if started:
        address = os.environ.get("RAY_ADDRESS")
        local = {} if address else {"num_cpus": workers, "include_dashboard": False}
        root = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
        environment = {"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}}
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="error",
            runtime_env=environment,
            **local,
        )
    try:
        yield from _ray_outcomes(ray, jobs, str(dest.resolve()), options, progress)
    finally:
        if started:
            ray.shutdown()


def _ray_outcomes(
    ray: Any, jobs: list[Job], dest: str, options: VideoOptions, progress: JobProgress
) -> Iterator[Outcome]:
    task = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(_ray_task)
    given = {task.remote(job, dest, options): job for job in jobs}
    while given:
        (ready,), _ = ray.wait(list(given), num_returns=1)
        job = given.pop(ready)
        try:
            kind, value = ray.get(ready)
        except ray.exceptions.RayError as error:
            why = type(error).__name__
            yield Outcome(job, problem=f"{job.source.name} was given up: its worker died ({why})")
            continue
        if kind == "output":
            raise OutputError(value)
        if kind == "user":
            raise UserError(value)
        yield Outcome(job, value) if kind == "record" else Outcome(job, problem=value)


_TOOLBOXES: dict[VideoOptions, Toolbox] = {}  # of a Ray worker: it lives longer than a task


def _ray_task(job: Job, dest: str, options: VideoOptions) -> tuple[str, Any]:
    try:
        if options not in _TOOLBOXES:
            _TOOLBOXES[options] = Toolbox(options)
        outcome = _attempt(job, Path(dest), options, _TOOLBOXES[options], lambda n: None)
    except OutputError as error:
        return "output", str(error)
    except UserError as error:
        return "user", str(error)
    if outcome.record is not None:
        return "record", outcome.record
    return "problem", outcome.problem
