"""What is trained, as the loop sees it: objects, a step, and what is told of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dataset.frames import FrameDataset, fingerprint
from running.agreement import check_same_start
from running.exchange import Exchange
from running.guard import StepGuard
from running.heartbeat import Heartbeat
from running.history import History
from running.precision import LossScale, check_precision
from running.records import RunDirectory
from running.states import Stateful
from torch_utils import distributed
from training.batches import Batch, UnreadableFrames, named_frames, on_device
from training.config import Config, PretrainConfig, TrainConfig
from training.cost import StepCost
from training.keys import KEY_RULES


class Task(ABC):
    """One training, or one process of it under torchrun. It builds its objects and names them in `objects`."""

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
        out: Path,  # run directory; only looked at
        device: torch.device,
        allowed: Collection[str] = (),  # keys that may differ from those of the run in `out`
        seen: str = "",  # fingerprint of what steps see; "": the dataset's
    ) -> None:
        self.config, self.pace, self.dataset = config, pace, dataset
        self.out, self.device, self.allowed = out, device, allowed
        self.rank, self.world = distributed.rank(), distributed.world_size()
        check_precision(device, pace.precision)
        check_same_start(
            config, KEY_RULES, seen or fingerprint(dataset)
        )  # before anything is broadcast
        if distributed.is_main():
            RunDirectory.check(out, config, KEY_RULES, allowed)
        self.step = 0
        self.history = History()
        self.objects: dict[str, Stateful] = {"history": self.history}  # by name in the state file
        self.scale = LossScale(pace.precision == "fp16")
        if self.scale.enabled:
            self.objects["loss_scale"] = self.scale
        self.heart = Heartbeat(pace.hang_limit_s)
        self.exchange = Exchange(self.heart)
        self.guard = StepGuard(
            out, self.history, self.scale, pace.skip_limit, pace.lr, self.shown_loss
        )
        self._unreadable = UnreadableFrames(dataset, config.data.unreadable_limit)
        torch.manual_seed(pace.seed)

    # ---- what is particular to a training -------------------------------------------------------------------------

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

    @abstractmethod
    def count(self) -> StepCost:
        """FLOP of a step, counted on inputs that show nothing; in the main process alone, before the first step."""

    @abstractmethod
    def flops(self, cost: StepCost) -> float:
        """FLOP of a step at this point of the training, in one process."""

    def counters(self) -> dict[str, Any]:
        """Noted with every line of statistics and every file."""
        return {}

    # ---- what the steps of all trainings share ---------------------------------------------------------------------

    def batches(self) -> Iterator[Batch]:
        """This rank's batches from `self.step` on, on the device, one for each step that is left."""
        batches = on_device(self.loader, self.device, self.heart)
        while self.step < self.total_steps:
            yield next(batches)

    def reduce(self, losses: Mapping[str, Tensor | float], batch: Batch) -> dict[str, float]:
        """Means over the ranks.

        Raises:
            UserError: in all ranks alike: more frames cannot be read than `data.unreadable_limit`.
        """
        values, unreadable = self.exchange.means(losses, self._unreadable.note(batch))
        self._unreadable.check(unreadable)
        return values

    def average_gradients(self, module: nn.Module) -> None:
        """Gradients of the mean over the global batch, freed of the loss scale."""
        self.exchange.average_gradients(module, self.scale)

    def leaves_out(self, values: Mapping[str, float], batch: Batch) -> bool:
        """Whether this step is to change nothing, see `StepGuard`. Raises UserError: it is one too many in a row."""
        return self.guard.leaves_out(self.step, values, lambda: named_frames(self.dataset, batch))

    def is_due(self, every: int) -> bool:
        """After each `every`-th step (0: none of them) and after the last."""
        return self.step == self.total_steps or (every > 0 and self.step % every == 0)
