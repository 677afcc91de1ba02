"""The loop of every training: batch -> step -> log -> draw -> evaluate -> save.

Everything random is a function of (seed, step), so the training state is the named objects of a run and the number of
its step; a run that was killed goes on from its newest state and ends in the same weights.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dataset.frames import FrameDataset, fingerprint
from dnnlib import UserError
from dnnlib.errors import SavedError
from running.agreement import check_same_start
from running.heartbeat import DATA, EVALUATING, WAITING, WAITING_FOR_MAIN, Heartbeat
from running.history import History, SpikeWatch
from running.precision import LossScale, check_precision
from running.records import ProgressLine, RunDirectory, ending_noted
from running.saving import Saver, snapshot
from running.states import Stateful, find_state, resume, set_aside, write_network, write_state
from running.steps import Meter, StopRequest, not_finite_names
from running.timing import Timing
from torch_utils import distributed
from torch_utils.train_state import latest_train_state
from training.config import Config, PretrainConfig, TrainConfig
from training.keys import KEY_RULES
from training.preflight import check_provenance, provenance_of

Batch = Mapping[str, Tensor]
_STOP, _UNREADABLE = "_stop", "_unreadable"  # ride with the losses
_NEWER = ("history", "loss_scale")  # objects that states of earlier versions or of fp32 lack
_ON_CPU = ("index", "source_index", "replaced")


class Loop(ABC):
    """One run, or one process of it under torchrun. A subclass builds its objects and names them in `objects`."""

    unit: ClassVar[str]  # what progress and rates count
    prefix: ClassVar[str]  # of the files that others use
    shown: ClassVar[tuple[str, ...]]  # numbers beside the progress
    shown_loss: ClassVar[str]  # what training minimises
    total: int  # units of the whole run
    total_steps: int

    def __init__(
        self,
        config: Config,
        pace: TrainConfig | PretrainConfig,  # its section of `config`
        dataset: FrameDataset,
        out: Path,  # run directory; nothing is written before `run`
        device: torch.device,
        allowed: Collection[str] = (),  # keys that may differ from those of the run in `out`
    ) -> None:
        self.config, self.pace, self.dataset = config, pace, dataset
        self.out, self.device = out, device
        self.rank, self.world = distributed.rank(), distributed.world_size()
        check_precision(device, pace.precision)
        check_same_start(config, KEY_RULES, fingerprint(dataset))  # before anything is broadcast
        if distributed.is_main():
            RunDirectory.check(out, config, KEY_RULES, allowed)
        self.allowed = allowed
        self.step = 0
        self.history = History()
        self.objects: dict[str, Stateful] = {"history": self.history}  # by name in the state file
        self.scale = LossScale(pace.precision == "fp16")
        if self.scale.enabled:
            self.objects["loss_scale"] = self.scale
        self.heart = Heartbeat(pace.hang_limit_s)
        self._run: RunDirectory | None = None
        self._stop = StopRequest()
        self._stop_agreed = False
        self._spikes = SpikeWatch()
        self._timing = Timing(device, self.world)
        self._saver = Saver(retry_after=max(1, pace.save_every // 10))
        self._unreadable: set[int] = set()  # frames that this rank had to replace
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
        """One step; losses averaged over ranks. When one is not finite the weights stay as they are."""

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
            SavedError: a signal asked to stop; all is saved.
            UserError: too many steps in a row were not finite, or too many frames cannot be read.
        """
        if (found := find_state(self.out)) is not None:
            if "expression" in found.metadata:
                verify = self.config.data.verify
                check_provenance(found.metadata, self.dataset, str(found.path), verify)
            self.step = resume(found, self.objects, _NEWER)
            for sentence in found.damaged:
                distributed.print0(f"{sentence} - going on from {found.path.name}", file=sys.stderr)
        run = self._run = self._open_run_directory() if distributed.is_main() else None
        if run is not None and found is not None:
            set_aside(self.out, found)
        progress = ProgressLine(self.total, self.done, self.unit, quiet=run is None)
        try:
            with self._stop, self.heart, ending_noted(run):
                self._train(run, progress)
            self._saver.finish()
            if run is not None and not (self.out / self.latest).is_file():
                self.save_network(run)
                self._saver.finish()
        finally:
            self._saver.close()
            progress.close()
            if run is not None:
                run.close()
        self.wait_for_main("the end")

    def _train(self, run: RunDirectory | None, progress: ProgressLine) -> None:
        meter = Meter()
        self._timing.begin(self.step, self.done)
        for batch in self._batches():
            values = self.train_step(batch)
            self.heart.step_done(self.step)
            if self.history.skipped_in_a_row == 0:  # NaN would hide the other steps of a mean
                meter.add(values)
            progress.update(self.done)
            if run is not None and self.is_due(self.pace.log_every):
                self._log(run, progress, meter.means())
            if run is not None:
                with self.heart.phase("drawing"):
                    self.draw(run)
            stop = self._stop_agreed or (self.world == 1 and self._stop.asked())
            # first: what it finds out is part of the state
            with self.heart.phase(EVALUATING):
                self.evaluate(run)
            again = self._saver.is_due_again(self.step)
            if stop or again or self.is_due(self.pace.save_every):
                with self.heart.phase("saving"):
                    self.save(run)
            if stop and self.step < self.total_steps:
                self._saver.finish()
                # the first process that ends makes the launcher end the others
                self.wait_for_main(f"saved {self.step}")
                raise SavedError(
                    f"stopped at step {self.step}, which is saved; the same command goes on"
                )

    # ---- what the steps of all trainings share ---------------------------------------------------------------

    def reduce(self, losses: Mapping[str, Tensor | float], batch: Batch) -> dict[str, float]:
        """Means over the ranks; what else all ranks must know in the same step rides in the same message.

        Raises:
            UserError: in all ranks alike: more frames cannot be read than `data.unreadable_limit`.
        """
        self._note_unreadable(batch)
        riders = {_STOP: float(self._stop.asked()), _UNREADABLE: float(len(self._unreadable))}
        with self.heart.phase(WAITING):
            values = distributed.all_reduce_mean({**losses, **riders})
        self._stop_agreed = values.pop(_STOP) > 0
        unreadable = round(values.pop(_UNREADABLE) * self.world)
        limit = self.config.data.unreadable_limit
        if unreadable > limit:
            raise UserError(
                f"{unreadable} frames of {self.dataset.path} cannot be read, more than data.unreadable_limit={limit}; "
                "restore its files (dataset_tool.py validate names them)"
            )
        return values

    def average_gradients(self, module: nn.Module) -> None:
        """Gradients of the mean over the global batch, freed of the loss scale."""
        with self.heart.phase(WAITING):
            distributed.average_gradients(module.parameters())
        self.scale.unscale(module.parameters())

    def wait_for_main(self, what: str) -> None:
        """Until the main process is here too, however long its own work takes, as long as it lives."""
        with self.heart.phase(WAITING_FOR_MAIN):
            distributed.wait_for_main(what)
            distributed.barrier()

    def leaves_out(self, values: Mapping[str, float], batch: Batch) -> bool:
        """Whether this step is to change nothing, because one of its numbers is not finite; the same in all ranks.

        Raises:
            UserError: in all ranks alike: it is one too many in a row.
        """
        bad = not_finite_names(values)
        if not bad:
            self.history.skipped_in_a_row = 0
            self.scale.note_good_step()
            if (spike := self._spikes(values[self.shown_loss])) is not None:
                distributed.print0(f"step {self.step}: {spike}", file=sys.stderr)
            return False
        if all(name.startswith("grad_norm") for name in bad) and self.scale.shrink():
            return True  # float16 finds its scale; nothing is wrong
        self.history.skipped += 1
        self.history.skipped_in_a_row += 1
        frames = batch["index"].flatten().tolist(), batch.get("source_index", batch["index"][:0])
        everyone = distributed.gather_json(
            {
                "rank": self.rank,
                "host": distributed.host(),
                "frames": frames[0],
                "source_frames": frames[1].flatten().tolist(),
            }
        )
        where = {"step": self.step, "not_finite": bad, "batch": self._named(everyone)}
        if self._run is not None:
            self._run.skipped(where)
        distributed.print0(
            f"step {self.step} is left out: {bad[0]!r} is {values[bad[0]]} ({self.history.skipped} so far; its frames "
            f"are in {self.out / 'skipped.jsonl'})",
            file=sys.stderr,
        )
        if self.history.skipped_in_a_row >= self.pace.skip_limit:
            kept = latest_train_state(self.out)
            good = f"; {kept.name} holds the last good weights" if kept else ""
            raise UserError(
                f"{bad[0]!r} is {values[bad[0]]} at step {self.step}, the {self.history.skipped_in_a_row}. step in a "
                f"row{good}; add --allow-change lr={self.pace.lr / 2:g} to the command, which goes on from there"
            )
        return True

    def _named(self, everyone: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for part in everyone:
            clips = [int(self.dataset.row(i)["clip"]) for i in part["frames"]]
            part["clips"] = [self.dataset.clips["name"][c].decode() for c in clips]
        return everyone

    def _note_unreadable(self, batch: Batch) -> None:
        pairs = batch["replaced"].reshape(-1, 2).tolist() if "replaced" in batch else []
        for frame, taken in pairs:
            if frame >= 0 and frame not in self._unreadable:
                self._unreadable.add(frame)
                print(
                    f"[rank {self.rank}, {distributed.host()}] {self.dataset.place(frame)} cannot be read; "
                    f"frame {taken} takes its place",
                    file=sys.stderr,
                    flush=True,
                )

    def is_due(self, every: int) -> bool:
        """After each `every`-th step (0: none of them) and after the last."""
        return self.step == self.total_steps or (every > 0 and self.step % every == 0)

    def _batches(self) -> Iterator[Batch]:
        if self.step >= self.total_steps:
            return
        batches = iter(self.loader())
        while True:
            with self.heart.phase(DATA):
                batch = next(batches)
            # which frames they are is asked on the CPU alone
            yield {
                name: x if name in _ON_CPU else x.to(self.device, non_blocking=True)
                for name, x in batch.items()
            }
            if self.step >= self.total_steps:
                return

    def _open_run_directory(self) -> RunDirectory:
        run = RunDirectory(self.out, self.config, KEY_RULES, self.allowed)
        run.record_start(self.facts())
        run.begin(self.step)
        return run

    def _log(self, run: RunDirectory, progress: ProgressLine, means: dict[str, float]) -> None:
        seconds = self.heart.take_seconds()
        timing = self._timing.numbers(self.step, self.done, self.unit, seconds)
        run.scalars(self.step, {**self.counters(), **means, **timing})
        shown = "  ".join(f"{name} {means[name]:.4f}" for name in means if name in self.shown)
        wait = f"data wait {timing['timing/data_wait']:.0%}"
        progress.report(self.done, f"{wait}  {shown}", timing[f"{self.unit}_per_s"])

    @property
    def latest(self) -> str:
        """Name of the newest file that others use."""
        return f"{self.prefix}-latest.safetensors"

    def save(self, run: RunDirectory | None) -> None:
        """Network and state of this step; the main process writes them beside the next steps."""
        if run is None:
            return
        self.save_network(run)
        state = snapshot({name: thing.state_dict() for name, thing in self.objects.items()})
        about = {**provenance_of(self.dataset), **self.counters()}
        step, pace = self.step, self.pace
        units = self.done // max(step, 1)  # of a step

        def write() -> None:
            write_state(self.out, step, state, about, pace.keep_last, pace.keep_every)
            run.prune(self.prefix, pace.keep_last, pace.keep_every * units)

        self._saver.submit(step, write)

    def save_network(self, run: RunDirectory, latest: str = "") -> None:
        """Write the file that others use; `latest` is a further name of it."""
        tensors, about = self.network()
        state = snapshot(dict(tensors))
        name = f"{self.prefix}-{self.done:09d}.safetensors"
        data = {**provenance_of(self.dataset), "data": self.dataset.spec.source}
        about = {**data, "step": self.step, **self.counters(), **about}
        latest = latest or self.latest

        def write() -> None:
            write_network(run, name, latest, state, self.config, about)

        self._saver.submit(self.step, write)

    def keep_best(self, run: RunDirectory | None, score: float) -> None:
        """Remember the network with the highest score as <prefix>-best.safetensors."""
        if self.history.best is None or score > self.history.best:
            self.history.best = score
            if run is not None:
                self.save_network(run, f"{self.prefix}-best.safetensors")
