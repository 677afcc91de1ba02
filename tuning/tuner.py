"""`--tune`: passes a step, precision and loader processes, chosen by short trials and printed as a command.

The global batch stays what the configuration says, and so does all else that a result depends on but the precision.
Nothing is written.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch

from dnnlib import UserError, available_cores
from dnnlib.memory import available_memory
from running.checks import check_divisible
from running.precision import quick_half
from torch_utils.train_state import latest_train_state
from training.config import Config
from tuning.trial import Make, Measured, try_out

HALF_PAYS = 1.1  # times the speed of fp32, for which its fewer digits are taken
WORKERS_PAY = 1.03  # times the speed with fewer of them: trials differ by as much
_SIZES = 2  # of a pass, that fit: smaller ones are no faster
_PASSES = 2  # of a trial at most: the second one finds the gradients of the first in memory, as all later ones do
_SHARE = 0.8  # of the memory that is left, for all processes; the rest is for files that are read
_LR = 1e-9  # a trial's steps move nothing
_MANY = 10**9
_COLUMNS = "{:>9} {:>13} {:>12} {:>13} {:>7} {:>9} {:>9} {:>7}"


class Setting(NamedTuple):
    """What is chosen."""

    precision: str
    accumulate: int = 1  # passes a step
    checkpointing: bool = False
    workers: int = 0


class Trial(NamedTuple):
    setting: Setting
    samples: int  # of a trial's step
    found: Measured | None  # None: it does not fit

    @property
    def rate(self) -> float:
        """Samples a second in one process; 0: it does not fit."""
        return self.samples / self.found.seconds if self.found else 0.0


def faster(trials: Sequence[Trial]) -> Trial | None:
    """The fastest of those that fit; one in half precision only where that pays. None: none of them fits."""
    full = max((t for t in trials if t.setting.precision == "fp32"), key=lambda t: t.rate)
    half = max(
        (t for t in trials if t.setting.precision != "fp32"), key=lambda t: t.rate, default=full
    )
    chosen = half if half.rate >= HALF_PAYS * full.rate else full
    return chosen if chosen.found else None


def fewest_workers(trials: Sequence[Trial]) -> Trial:
    """Of trials with ascending numbers of loader processes the one beyond which more of them do not pay."""
    best = max(t.rate for t in trials)
    return next(t for t in trials if t.rate * WORKERS_PAY >= best)


class Tuning:
    """The trials of one training."""

    def __init__(
        self,
        make: Make,  # builds the run of a configuration; a function of a module, as other processes call it
        config: Config,
        section: str,  # "train", "pretrain"
        out: Path,  # run directory; only looked at
        device: torch.device,
        processes: int,  # of the run that is to come; one of them is tried
        memory: int | None = None,  # bytes that trials may take on a CPU; None: what is left
    ) -> None:
        """Raises UserError: the run has begun, or its batch does not divide."""
        if (begun := latest_train_state(out)) is not None:
            raise UserError(
                f"{out} holds a run that has begun ({begun.name}), which keeps its precision and passes; give --tune "
                "another --out, or leave it out and the run goes on"
            )
        self._make, self._config, self._section = make, config, section
        self._out, self._device, self._processes = out, device, processes
        pretraining = section == "pretrain"
        name = "pretrain.videos_per_batch" if pretraining else "train.batch_size"
        self._batch = config.pretrain.videos_per_batch if pretraining else config.train.batch_size
        check_divisible(name, self._batch, processes)
        left = memory if memory is not None else available_memory()
        self._limit = None if left is None else int(left * _SHARE / processes)
        self._told = f"{name}={self._batch} in all, {self._batch // processes} in each process"

    def run(self) -> Trial:
        """Try, tell each trial in a line, and choose.

        Raises:
            UserError: nothing fits into the memory, or see what builds the run.
        """
        click.echo(self._told)
        click.echo(_COLUMNS.format("precision", "passes a step", "samples each", "checkpointing", "workers",
                                   "samples/s", "data wait", "GB"))  # fmt: skip
        chosen = self._fitting()
        best = fewest_workers([self._try(s, True) for s in self._with_workers(chosen.setting)])
        click.echo(self._total(chosen))
        return best

    def _fitting(self) -> Trial:
        pretraining = self._section == "pretrain"
        asked = not pretraining and self._config.train.gradient_checkpointing
        for checkpointing in (asked,) if asked or pretraining else (False, True):
            trials = []
            for precision in dict.fromkeys(("fp32", quick_half(self._device))):
                if precision:
                    trials += self._sizes(Setting(precision, checkpointing=checkpointing))
            if (chosen := faster(trials)) is not None:
                return chosen
        sizes = "frames_per_video or image_size" if pretraining else "model.resolution or samples"
        what = f"{self._told}," if pretraining else "a single sample"
        raise UserError(
            f"{what} does not fit into the memory that is there; use a smaller {sizes}, or more processes"
        )

    def _sizes(self, setting: Setting) -> list[Trial]:
        """Trials with the largest passes that fit, the largest first."""
        trials: list[Trial] = []
        for passes in self._divisors():
            trials.append(self._try(setting._replace(accumulate=passes)))
            if sum(t.found is not None for t in trials) == _SIZES:
                break
        return trials

    def _divisors(self) -> Iterator[int]:
        share = self._batch // self._processes
        for passes in range(1, share + 1 if self._section == "train" else 2):
            if share % passes == 0:
                yield passes

    def _with_workers(self, setting: Setting) -> list[Setting]:
        here = self._processes
        if self._device.type == "cuda":
            here = min(here, max(1, torch.cuda.device_count()))
        cores = max(1, available_cores() // here)
        counts = [0, *(2**k for k in range(cores.bit_length()) if 2**k <= cores)]
        return [setting._replace(workers=n) for n in counts]

    def _try(self, setting: Setting, with_loader: bool = False) -> Trial:
        size = self._batch // self._processes // setting.accumulate
        passes = min(_PASSES, setting.accumulate)
        config = self._of_trial(setting, size * passes, passes)
        found = try_out(
            self._make, config, self._section, self._out, self._device, self._limit, with_loader
        )
        trial = Trial(setting, size * passes, found)
        cells: list[str] = ["", "", "does not fit"]
        if found is not None:
            wait = f"{found.data_wait:.0%}" if with_loader else ""
            cells = [f"{trial.rate:.4g}", wait, f"{found.memory_bytes / 1e9:.2f}"]
        click.echo(
            _COLUMNS.format(
                setting.precision, setting.accumulate, size, "yes" if setting.checkpointing else "no",
                setting.workers if with_loader else "", *cells,
            ).rstrip()
        )  # fmt: skip
        return trial

    def _of_trial(self, setting: Setting, batch: int, passes: int) -> Config:
        """One process' share of a step, in the phase that takes most: with discriminator and R1."""
        config = self._config
        common: dict[str, Any] = {
            "precision": setting.precision, "lr": _LR, "hang_limit_s": 0.0, "skip_limit": _MANY
        }  # fmt: skip
        train, pretrain = config.train, config.pretrain
        if self._section == "train":
            train = replace(
                train, **common, lr_discriminator=_LR, batch_size=batch, accumulate=passes, warmup_images=0,
                total_images=_MANY, adversarial_ramp_images=0, gradient_checkpointing=setting.checkpointing,
                protocol="",
            )  # fmt: skip
        else:
            pretrain = replace(pretrain, **common, videos_per_batch=batch, total_steps=_MANY)
        data = replace(config.data, num_workers=setting.workers)
        return replace(config, data=data, train=train, pretrain=pretrain)

    def _total(self, chosen: Trial) -> str:
        """How long the run takes at this rate, when all its processes are as fast as the one that was tried."""
        steps = self._config.pretrain.total_steps
        if self._section == "train":
            steps = math.ceil(self._config.train.total_images / self._batch)
        seconds = steps * self._batch / self._processes / chosen.rate
        return f"{steps} steps take {duration(seconds)} at this rate; evaluation and waiting for others come on top"

    def overrides(self, setting: Setting) -> list[str]:
        """The choice as `--set` strings."""
        values = [
            f"{self._section}.precision={setting.precision}",
            f"data.num_workers={setting.workers}",
        ]
        if self._section == "train":
            values.insert(1, f"train.accumulate={setting.accumulate}")
        if setting.checkpointing:
            values.append("train.gradient_checkpointing=true")
        return values


def duration(seconds: float) -> str:
    """In the unit that gives a number people can think of."""
    for size, name in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.2g} seconds"


def command(words: Sequence[str], overrides: Sequence[str]) -> str:
    """A command line as it was given, without `--tune`, with further `--set`."""
    kept = []
    rest = iter(words)
    for word in rest:
        if word == "--tune":
            following = next(rest, None)
            if following is not None and not following.isdecimal():
                kept.append(following)
        elif not word.startswith("--tune="):
            kept.append(word)
    return shlex.join([*kept, *(part for value in overrides for part in ("--set", value))])


def tune(
    make: Make,
    config: Config,
    section: str,
    out: Path,
    device: torch.device,
    processes: int,
    words: Sequence[str],
) -> None:
    """Try, and print the command to run. words: the command line as it was given."""
    tuning = Tuning(make, config, section, out, device, processes)
    click.echo(command(words, tuning.overrides(tuning.run().setting)))
