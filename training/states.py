"""The files of a run: its state, made of named objects, and the network that others use.

An object is named once, in the run's `objects`; the name is its key in the state file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import torch
from torch import Tensor, nn

from dataset.frames import FrameDataset
from dnnlib import to_dict
from torch_utils.checkpoints import load_state_strict, save_checkpoint
from torch_utils.train_state import (
    latest_train_state,
    load_train_state,
    save_train_state,
    train_state_path,
)
from training.config import Config
from training.preflight import check_provenance, provenance_of
from training.records import RunDirectory, git_revision


class Stateful(Interface):
    """What goes on where it was: a module, an average of weights, an optimiser."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any, /) -> Any: ...


def save_state(
    out: Path,  # run directory
    step: int,
    objects: Mapping[str, Stateful],
    about: Mapping[str, Any],  # JSON, beside the state
    keep_last: int,
) -> None:
    """Write the state after `step` steps, whole or not at all. Raises UserError when the disk is full."""
    state = {"step": step, **{name: thing.state_dict() for name, thing in objects.items()}}
    save_train_state(train_state_path(out, step), state, about, keep_last)


def resume(
    out: Path,
    objects: Mapping[str, Stateful],
    dataset: FrameDataset,
    verify: bool,  # crop and tracker, too
    device: torch.device,
) -> int:
    """Put the newest state of the run directory into the objects; its step, 0 in a new run.

    Raises:
        UserError: the file is damaged, or the state is of other data or another network.
    """
    path = latest_train_state(out)
    if path is None:
        return 0
    state, metadata = load_train_state(path, device)
    if "expression" in metadata:
        check_provenance(metadata, dataset, str(path), verify)
    for name, thing in objects.items():
        if isinstance(thing, nn.Module):
            load_state_strict(thing, state[name], str(path))
        else:
            thing.load_state_dict(state[name])
    return int(state["step"])


def save_network(
    run: RunDirectory,
    name: str,
    latest: str,  # further name of the same file
    state: Mapping[str, Tensor],
    config: Config,
    dataset: FrameDataset,
    about: Mapping[str, Any],  # JSON: the kind, and how far training has come
) -> None:
    """Write weights that others use, with what is needed to use them."""
    metadata = {
        "config": to_dict(config),
        **provenance_of(dataset),
        "git": git_revision(),
        "data": dataset.spec.source,
        **about,
    }
    save_checkpoint(run.path / name, state, metadata)
    run.publish(run.path / name, latest)
