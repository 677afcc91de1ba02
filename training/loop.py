"""The loop of every training: batch -> step -> log -> draw -> evaluate -> save.

Everything random is a function of (seed, step), so the training state is the named objects of a run and the number of
its step; a run that was killed goes on from its newest state and ends in the same weights.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

from dnnlib.errors import SavedError
from running.flops import peak_flops
from running.heartbeat import EVALUATING
from running.keeping import Keeper
from running.parameters import parameter_lines, short
from running.profiling import Profiler
from running.records import RunDirectory, ending_noted
from running.states import Found, find_state, resume, set_aside
from running.statistics import Statistics
from torch_utils import distributed
from training.config import TrainConfig
from training.cost import StepCost
from training.keys import KEY_RULES
from training.preflight import check_provenance, provenance_of
from training.task import Task

_NEWER = ("history", "loss_scale")  # objects that states of earlier versions or of fp32 lack


class Loop(Task):
    """A task and its run: what is done around a step, and what is written. A subclass says what is particular."""

    profile = False  # whether to profile a few steps, see running/profiling.py
    cost: StepCost | None = None  # of the main process, as soon as its run is open

    @cached_property
    def keeper(self) -> Keeper:
        """What writes networks and states."""
        pace = self.pace
        return Keeper(self.config, self.prefix, pace.save_every, pace.keep_last, pace.keep_every)

    @property
    def latest(self) -> str:
        """Name of the newest file that others use."""
        return self.keeper.latest

    def draw(self, run: RunDirectory) -> None:
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
            self._go_on_from(found)
        run = self.guard.run = self._open(found) if distributed.is_main() else None
        numbers = Statistics(
            run,
            self.heart,
            self.device,
            self.total,
            self.done,
            self.unit,
            self.shown,
            peak_flops(self.device, self.pace.precision),
        )
        try:
            with self.exchange.stop, ending_noted(run):
                with self.heart, self._profiler(run) as profiler:
                    self._train(run, numbers, profiler)
                self.keeper.finish()
                if run is not None and not (self.out / self.latest).is_file():
                    self.save_network(run)
                    self.keeper.finish()
        finally:
            self.keeper.close()
            numbers.close()
            if run is not None:
                run.close()
        self.exchange.wait_for_main("the end")

    @contextmanager
    def _profiler(self, run: RunDirectory | None) -> Iterator[Profiler | None]:
        """In the main process, when it was asked for."""
        if run is None or not self.profile:
            yield None
            return
        compiled = isinstance(self.pace, TrainConfig) and self.pace.compile
        profiler = Profiler(self.out, self.device, listed=not compiled)
        yield profiler
        profiler.close()

    def _train(
        self, run: RunDirectory | None, numbers: Statistics, profiler: Profiler | None
    ) -> None:
        numbers.begin(self.step, self.done)
        for batch in self.batches():
            with profiler.step() if profiler is not None else nullcontext():
                values = self.train_step(batch)
            self.heart.step_done(self.step)
            numbers.add(values, self.done, left_out=self.history.skipped_in_a_row > 0)
            if self.is_due(self.pace.log_every):
                flops = self.flops(self.cost) if self.cost is not None else 0.0
                numbers.line(self.step, self.done, self.counters(), flops)
            if run is not None:
                with self.heart.phase("drawing"):
                    self.draw(run)
            stop = self.exchange.stops
            # first: what it finds out is part of the state
            with self.heart.phase(EVALUATING):
                self.evaluate(run)
            again = self.keeper.is_due_again(self.step)
            if run is not None and (stop or again or self.is_due(self.pace.save_every)):
                with self.heart.phase("saving"):
                    self.save(run)
            if profiler is not None:
                profiler.step_done(self.step)
            if stop and self.step < self.total_steps:
                self._end_early()

    def _end_early(self) -> None:
        self.keeper.finish()
        # the first process that ends makes the launcher end the others
        self.exchange.wait_for_main(f"saved {self.step}")
        raise SavedError(f"stopped at step {self.step}, which is saved; the same command goes on")

    # ---- the run directory ------------------------------------------------------------------------------------------

    def _go_on_from(self, found: Found) -> None:
        if "expression" in found.metadata:
            verify = self.config.data.verify
            check_provenance(found.metadata, self.dataset, str(found.path), verify)
        self.step = resume(found, self.objects, _NEWER)
        for sentence in found.damaged:
            distributed.print0(f"{sentence} - going on from {found.path.name}", file=sys.stderr)

    def _open(self, found: Found | None) -> RunDirectory:
        run = RunDirectory(self.out, self.config, KEY_RULES, self.allowed)
        facts = self.facts()
        self.cost = self.count()
        step = self.flops(self.cost)
        run.record_start({**facts, "flops": {**self.cost._asdict(), "step": step}})
        self._tell(facts, step)
        run.begin(self.step)
        if found is not None:
            set_aside(self.out, found)
        return run

    def _tell(self, facts: Mapping[str, Any], flops: float) -> None:
        """What is trained and what a step of it takes, before the first one."""
        lines = parameter_lines(facts["modules"])
        lines.append(f"a step now: {short(flops)}FLOP in each process (docs/training.md)")
        print("\n".join(lines), file=sys.stderr, flush=True)

    def save(self, run: RunDirectory) -> None:
        """Network and state of this step; they are written beside the next steps."""
        self.save_network(run)
        about = {**provenance_of(self.dataset), **self.counters()}
        self.keeper.state(run, self.step, self.done, self.objects, about)

    def save_network(self, run: RunDirectory, further: str = "") -> None:
        """Write the file that others use; `further`: a name of it in place of `latest`."""
        weights, about = self.network()
        data = {**provenance_of(self.dataset), "data": self.dataset.spec.source}
        about = {**data, "step": self.step, **self.counters(), **about}
        self.keeper.network(run, self.step, self.done, weights, about, further)
