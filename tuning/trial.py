"""A few steps of a training in a process of their own: how fast, how much memory, or that they do not fit.

What a trial does to memory, caches and random numbers ends with its process, also when the kernel ends it. Nothing is
written, and no weight of a run is touched.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import re
import resource
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch

from dnnlib import UserError
from running.heartbeat import DATA
from training.batches import Batch
from training.config import Config, PretrainConfig, TrainConfig
from training.loop import Loop

Make = Callable[[Config, Path, torch.device], Loop]

_TIMED_S, _AT_LEAST, _AT_MOST = 2.0, 2, 20  # seconds and steps that are timed
_OF_A_GPU = 0.92  # share of its memory; pictures, evaluation and gaps want some
_END_S = 10.0  # until a process that has answered is ended
# torch's allocators say it in a RuntimeError of their own; so do C++, oneDNN and those who start threads
_NO_MEMORY = re.compile(
    r"out of memory|enough memory|allocate memory|bad_alloc|start new thread|create a primitive",
    re.IGNORECASE,
)
# a library gives up, the kernel lets nobody have more, no more of /dev/shm
_ENDED_FOR_MEMORY = (signal.SIGABRT, signal.SIGKILL, signal.SIGBUS)
_PRELOAD = ["training.trainer", "training.pretrainer", "dataset.reader"]


class Measured(NamedTuple):
    seconds: float  # of a step, with its share of R1
    memory_bytes: int  # the process at its largest; on a GPU what torch took of it
    data_wait: float = 0.0  # share of the time; 0 when batches were at hand


def try_out(
    make: Make,
    config: Config,  # of the trial: one process, no more than two passes a step
    section: str,  # "train", "pretrain"
    out: Path,  # run directory; only looked at
    device: torch.device,
    limit_bytes: int | None,  # on the CPU, that the process may grow by
    with_loader: bool = False,  # fetch batches as a run does; else the first one again and again
) -> Measured | None:
    """None: it does not fit into the memory.

    Raises:
        UserError: the configuration, the data or the folder do not fit.
    """
    context = multiprocessing.get_context(
        "forkserver"
    )  # of a process without threads and without a GPU
    context.set_forkserver_preload(_PRELOAD)
    here, there = context.Pipe(duplex=False)
    arguments = (make, config, section, out, device, limit_bytes, with_loader)
    process = context.Process(
        target=_child, args=(there, multiprocessing.get_start_method(), *arguments)
    )
    process.start()
    there.close()
    try:
        found = here.recv()
        process.join(_END_S)
    except EOFError:
        process.join()
        if -(process.exitcode or 0) not in _ENDED_FOR_MEMORY:
            raise RuntimeError(f"a trial ended with exit status {process.exitcode}") from None
        found = None
    finally:
        process.kill()  # this process is asked to stop, or that one does not end by itself
        process.join()
        here.close()
    if isinstance(found, Exception):
        raise found
    assert found is None or isinstance(found, Measured)
    return found


def _child(
    to: Connection,
    start_method: str,
    make: Make,
    config: Config,
    section: str,
    out: Path,
    device: torch.device,
    limit_bytes: int | None,
    with_loader: bool,
) -> None:
    multiprocessing.set_start_method(start_method, force=True)  # of loader processes, as in the run
    with contextlib.redirect_stderr(io.StringIO()):  # what a run tells at its start
        try:
            with _memory_limit(device, limit_bytes):
                found = _measure(make, config, section, out, device, with_loader)
            to.send(found)
        except UserError as error:
            to.send(UserError(str(error)))
        except Exception as error:
            # C code that does not look at what it was given tells of it as "error return without exception set"
            if isinstance(error, MemoryError | SystemError) or _NO_MEMORY.search(str(error)):
                to.send(None)
            else:  # a defect: with the place where it is
                to.send(RuntimeError(traceback.format_exc()))


@contextlib.contextmanager
def _memory_limit(device: torch.device, limit_bytes: int | None) -> Iterator[None]:
    """While the block runs, what asks for more fails; what it leaves behind may be told."""
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(_OF_A_GPU, device)
        limit_bytes = None
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if limit_bytes is not None:
        most = _status_bytes("VmData") + limit_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _measure(
    make: Make,
    config: Config,
    section: str,
    out: Path,
    device: torch.device,
    with_loader: bool,
) -> Measured:
    pace: TrainConfig | PretrainConfig = getattr(config, section)
    if pace.threads:
        torch.set_num_threads(pace.threads)
    run = make(config, out, device)
    batches = run.batches()
    batch = next(batches)
    interval = r1_interval(config, section)
    for step in {0, 1 % interval}:  # kernels are chosen, caches fill; step 0 is one with R1
        _timed(run, batch, step)
    if with_loader:
        seconds, wait = _with_loader(run, batches, config.data.num_workers)
    else:
        plain = [_timed(run, batch, 1)]
        while len(plain) < _AT_LEAST or (sum(plain) < _TIMED_S and len(plain) < _AT_MOST):
            plain.append(_timed(run, batch, 1))
        share = 1 / interval if interval > 1 else 0.0
        rare = _timed(run, batch, 0) if share else 0.0
        seconds, wait = share * rare + (1 - share) * statistics.median(plain), 0.0
    return Measured(seconds, _memory(device), wait)


def r1_interval(config: Config, section: str) -> int:
    """Steps from one with R1 to the next; 1: all steps are alike."""
    judged = section == "train" and config.loss.adversarial > 0
    return config.loss.r1_interval if judged else 1


def _with_loader(run: Loop, batches: Iterator[Batch], workers: int) -> tuple[float, float]:
    """(seconds of a step without R1, its share that waits for data)."""
    for _ in range(2 * workers):  # fetched while the first steps ran
        next(batches)
    run.heart.take_seconds()
    steps, passed, begun = 0, 0.0, time.perf_counter()
    # a few from each worker: the first ones of them were nearly there
    while steps < max(_AT_LEAST, 4 * workers) or (passed < _TIMED_S and steps < _AT_MOST):
        _timed(run, next(batches), 1)
        steps, passed = steps + 1, time.perf_counter() - begun
    return passed / steps, run.heart.take_seconds().get(DATA, 0.0) / passed


def _timed(run: Loop, batch: Batch, step: int) -> float:
    run.step = step
    begun = time.perf_counter()
    run.train_step(batch)
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
    return time.perf_counter() - begun


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return _status_bytes("VmHWM")


def _status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)
