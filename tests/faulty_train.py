"""train.py with a fault put into it, for the tests of what happens then: FAULT=name:step python faulty_train.py ..."""

from __future__ import annotations

import errno
import os
import time
from typing import Any

import torch

import train
from dataset.loader import _PairBatches
from running import saving
from training import objectives
from training.trainer import Trainer

NAME, _, STEP = os.environ["FAULT"].partition(":")
AT = int(STEP or 0)
RANK = int(os.environ.get("RANK", "0"))
LAST = int(os.environ.get("WORLD_SIZE", "1")) - 1 == RANK


def in_pictures_or_beta(name: str) -> None:
    true = Trainer.train_step

    def spoiled(self: Trainer, batch: Any) -> dict[str, float]:
        if self.step == AT and LAST:
            batch = {**batch, name: batch[name] * torch.nan}
        return true(self, batch)

    Trainer.train_step = spoiled  # type: ignore[method-assign]


def in_gradient_of_discriminator() -> None:
    true = objectives.critic_losses
    calls = iter(range(10**6))

    def spoiled(*args: Any, **options: Any) -> objectives.Losses:
        losses = true(*args, **options)
        return (
            {k: v * torch.nan for k, v in losses.items()} if next(calls) == AT and LAST else losses
        )

    objectives.critic_losses = spoiled


def in_worker(what: str) -> None:
    true = _PairBatches.__getitem__

    def spoiled(self: _PairBatches, step: int) -> Any:
        if step == AT and LAST:
            if what == "hang":
                time.sleep(10_000)
            raise RuntimeError("a defect in a worker")
        return true(self, step)

    _PairBatches.__getitem__ = spoiled  # type: ignore[method-assign]


def full_disk() -> None:
    """The first save that is tried at AT or later finds no space; what comes after it does."""
    import running.states as states

    true = states.save_train_state
    left = [1]

    def spoiled(path: Any, state: Any, *rest: Any) -> None:
        if left[0] and state["step"] >= AT:
            left[0] = 0
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        true(path, state, *rest)

    states.save_train_state = spoiled
    assert saving.Saver


def slow() -> None:
    """Steps that last, so that a signal meets one."""
    true = Trainer.train_step

    def spoiled(self: Trainer, batch: Any) -> dict[str, float]:
        time.sleep(0.2)
        return true(self, batch)

    Trainer.train_step = spoiled  # type: ignore[method-assign]


FAULTS = {
    "pictures": lambda: in_pictures_or_beta("driving"),
    "beta": lambda: in_pictures_or_beta("beta"),
    "discriminator": in_gradient_of_discriminator,
    "worker-raises": lambda: in_worker("raises"),
    "worker-hangs": lambda: in_worker("hang"),
    "full-disk": full_disk,
    "slow": slow,
}

if __name__ == "__main__":
    FAULTS[NAME]()
    train.main()
