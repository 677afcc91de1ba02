"""The networks and states that a run keeps: written beside the steps, the newest few and some for good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from running.records import RunDirectory
from running.saving import Saver, snapshot
from running.states import Stateful, write_network, write_state


class Keeper:
    """Takes snapshots in the main process; a thread writes them, see running/saving.py."""

    def __init__(
        self,
        config: Any,  # a dataclass, see dnnlib.config; goes into every network
        prefix: str,  # of the networks' files
        save_every: int,  # steps
        keep_last: int,
        keep_every: int,  # steps; 0: none for good
    ) -> None:
        self._config, self._prefix = config, prefix
        self._keep_last, self._keep_every = keep_last, keep_every
        self._saver = Saver(retry_after=max(1, save_every // 10))

    @property
    def latest(self) -> str:
        """Name of the newest network."""
        return f"{self._prefix}-latest.safetensors"

    def network(
        self,
        run: RunDirectory,
        step: int,
        done: int,  # units so far
        weights: Mapping[str, Tensor],
        about: Mapping[str, Any],  # JSON, see running.states.write_network
        further: str = "",  # name of the same file; "" = `latest`
    ) -> None:
        """Write the file that others use."""
        state, name = snapshot(dict(weights)), f"{self._prefix}-{done:09d}.safetensors"

        def write() -> None:
            write_network(run, name, further or self.latest, state, self._config, about)

        self._saver.submit(step, write, only=further)

    def state(
        self,
        run: RunDirectory,
        step: int,
        done: int,  # units so far
        objects: Mapping[str, Stateful],
        about: Mapping[str, Any],  # JSON, beside the state
    ) -> None:
        """Write all that is needed to go on, and delete what is old."""
        state = snapshot({name: thing.state_dict() for name, thing in objects.items()})
        units = done // max(step, 1)  # of a step

        def write() -> None:
            write_state(run.path, step, state, about, self._keep_last, self._keep_every)
            run.prune(self._prefix, self._keep_last, self._keep_every * units)

        self._saver.submit(step, write)

    def is_due_again(self, step: int) -> bool:
        """Whether a save that failed is to be tried again after `step`. Raises what Saver.is_due_again raises."""
        return self._saver.is_due_again(step)

    def finish(self) -> None:
        """Wait until everything is on the disk. Raises UserError when the newest save failed."""
        self._saver.finish()

    def close(self) -> None:
        self._saver.close()
