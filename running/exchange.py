"""What the processes of a run tell each other at every step."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from running.heartbeat import WAITING, WAITING_FOR_MAIN, Heartbeat
from running.precision import LossScale
from running.steps import StopRequest
from torch_utils import distributed
from torch_utils.gradients import GradientMeans

_STOP, _UNREADABLE = "_stop", "_unreadable"  # ride with the losses


class Exchange:
    """Means over the ranks. What else all must know in the same step rides in the same message."""

    def __init__(self, heart: Heartbeat) -> None:
        self.heart = heart  # is told when this process waits
        self.stop = StopRequest()
        self._stop_agreed = False
        self._means: dict[nn.Module, GradientMeans] = {}

    @property
    def stops(self) -> bool:
        """Whether the run was asked to stop; the same in all ranks after the same step."""
        return self._stop_agreed or (distributed.world_size() == 1 and self.stop.asked())

    def means(
        self, losses: Mapping[str, Tensor | float], unreadable: int
    ) -> tuple[dict[str, float], int]:
        """Losses averaged over the ranks, and the sum of the frames that each cannot read."""
        riders = {_STOP: float(self.stop.asked()), _UNREADABLE: float(unreadable)}
        with self.heart.phase(WAITING):
            values = distributed.all_reduce_mean({**losses, **riders})
        self._stop_agreed = values.pop(_STOP) > 0
        return values, round(values.pop(_UNREADABLE) * distributed.world_size())

    def last_pass(self, module: nn.Module) -> None:
        """Before the backward pass that completes the module's gradients: they may be sent as they come."""
        if distributed.world_size() > 1:
            if module not in self._means:
                self._means[module] = GradientMeans(module.parameters())
            self._means[module].begin()

    def average_gradients(self, module: nn.Module, scale: LossScale) -> None:
        """After that pass: gradients of the mean over the global batch, freed of the loss scale."""
        if distributed.world_size() > 1:
            with self.heart.phase(WAITING):
                self._means[module].finish()
        scale.unscale(module.parameters())

    def wait_for_main(self, what: str) -> None:
        """Until the main process is here too, however long its own work takes, as long as it lives."""
        with self.heart.phase(WAITING_FOR_MAIN):
            distributed.wait_for_main(what)
            distributed.barrier()
