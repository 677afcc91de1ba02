"""The loop of every training: batch -> step -> log -> draw -> save -> evaluate.

Everything random is a function of (seed, step), so the training state is the named objects of a run and the number of
its step; a run that was killed goes on from its newest state and ends in the same weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from dataset.frames import FrameDataset
from dnnlib import UserError
from torch_utils import distributed
from training.agreement import check_same_start
from training.config import Config, PretrainConfig, TrainConfig
from training.preflight import provenance_of
from training.records import ProgressLine, RunDirectory
from training.states import Stateful, find_state, resume, save_network, save_state
from training.steps import Meter, stop_signal

Batch = Mapping[str, Tensor]


class Loop(ABC):
    """One run, or one process of it under torchrun. A subclass builds its objects and names them in `objects`."""

    unit: ClassVar[str]  # what progress and rates count
    prefix: ClassVar[str]  # of the files that others use
    shown: ClassVar[tuple[str, ...]]  # numbers beside the progress
    total: int  # units of the whole run
    total_steps: int

    def __init__(
        self,
        config: Config,
        pace: TrainConfig | PretrainConfig,  # its section of `config`
        dataset: FrameDataset,
        out: Path,  # run directory; nothing is written before `run`
        device: torch.device,
    ) -> None:
        self.config, self.pace, self.dataset = config, pace, dataset
        self.out, self.device = out, device
        self.rank, self.world = distributed.rank(), distributed.world_size()
        check_same_start(config, dataset)  # before anything is broadcast
        if distributed.is_main():
            RunDirectory.check(out, config)
        self.step = 0
        self.objects: dict[str, Stateful] = {}  # name in the state file -> object
        torch.manual_seed(pace.seed)

    @property
    @abstractmethod
    def done(self) -> int:
        """Units so far, over all ranks."""

    @abstractmethod
    def loader(self) -> Iterable[Batch]:
        """This rank's batches from `self.step` on."""

    @abstractmethod
    def train_step(self, batch: Batch) -> dict[str, float]:
        """One step; losses averaged over ranks. Raises UserError when one is not finite; the weights stay."""

    @abstractmethod
    def network(self) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
        """The weights that others use, and what their file says beside the common facts."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What this start is made of, for record.json and --dry-run."""

    def counters(self) -> dict[str, Any]:
        """Noted with every line of statistics and every file."""
        return {}

    def draw(self, run: RunDirectory) -> None:  # noqa: B027  (a training may have none)
        """After every step, in the main process: pictures, where they are due."""

    @abstractmethod
    def evaluate(self, run: RunDirectory | None) -> None:
        """After every step, in every process (`run` in the main one): numbers on unseen clips, where due."""

    def run(self) -> None:
        """Train to the end, from the newest state of the run directory if there is one.

        Raises:
            UserError: a loss is not finite, or the disk is full; the last checkpoint stays.
        """
        if (found := find_state(self.out)) is not None:
            self.step = resume(found, self.objects, (), self.dataset, self.config.data.verify)
        run = self._open_run_directory() if distributed.is_main() else None
        progress = ProgressLine(self.total, self.done, self.unit, quiet=run is None)
        meter = Meter()
        try:
            with stop_signal(enabled=self.world == 1) as stopping:
                for batch in self._batches():
                    meter.add(self.train_step(batch))
                    progress.update(self.done)
                    if run is not None and self.is_due(self.pace.log_every):
                        self._log(run, progress, meter.means())
                    if run is not None:
                        self.draw(run)
                    stop = stopping()
                    if stop or self.is_due(self.pace.save_every):
                        self.save(run)
                    self.evaluate(run)
                    if stop:
                        raise UserError(
                            f"stopped at step {self.step}, which is saved; the same command goes on"
                        )
            if run is not None and not (self.out / self.latest).is_file():
                self.save_network(run)
        finally:
            progress.close()
            if run is not None:
                run.close()
        distributed.barrier()

    def is_due(self, every: int) -> bool:
        """After each `every`-th step (0: none of them) and after the last."""
        return self.step == self.total_steps or (every > 0 and self.step % every == 0)

    def _batches(self) -> Iterator[Batch]:
        if self.step >= self.total_steps:
            return
        for batch in self.loader():
            yield {name: x.to(self.device, non_blocking=True) for name, x in batch.items()}
            if self.step >= self.total_steps:
                return

    def _open_run_directory(self) -> RunDirectory:
        run = RunDirectory(self.out, self.config)
        run.record_start(self.facts())
        run.begin(self.step)
        return run

    def _log(self, run: RunDirectory, progress: ProgressLine, means: dict[str, float]) -> None:
        rate = {f"{self.unit}_per_s": round(progress.rate(self.done), 3)}
        run.scalars(self.step, {**self.counters(), **means, **rate})
        shown = (name for name in means if name in self.shown)
        progress.report(self.done, "  ".join(f"{name} {means[name]:.4f}" for name in shown))

    @property
    def latest(self) -> str:
        """Name of the newest file that others use."""
        return f"{self.prefix}-latest.safetensors"

    def save(self, run: RunDirectory | None) -> None:
        """Network and state of this step; the main process writes, the others wait."""
        if run is not None:
            self.save_network(run)
            about = {**provenance_of(self.dataset), **self.counters()}
            save_state(self.out, self.step, self.objects, about, self.pace.keep_last)
            run.prune(self.prefix, self.pace.keep_last)
        distributed.barrier()

    def save_network(self, run: RunDirectory, latest: str = "") -> None:
        """Write the file that others use; `latest` is a further name of it."""
        state, about = self.network()
        name = f"{self.prefix}-{self.done:09d}.safetensors"
        about = {"step": self.step, **self.counters(), **about}
        save_network(run, name, latest or self.latest, state, self.config, self.dataset, about)
