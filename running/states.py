"""The files of a run: its state, made of named objects, and the network that others use.

An object is named once, in the run's `objects`; the name is its key in the state file.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from typing import Protocol as Interface

import torch
from torch import Tensor, nn

from dnnlib import UserError, to_dict
from running.agreement import check_same
from running.provenance import git_revision
from running.records import RunDirectory
from running.saving import NotFiniteError
from torch_utils import distributed
from torch_utils.checkpoints import load_state_strict, save_checkpoint
from torch_utils.train_state import (
    load_train_state,
    save_train_state,
    train_state_path,
    train_states,
)

LISTING_S = 60.0  # how long NFS lets a node see an old listing, unless told otherwise (acdirmax)
_LOOK_S = 1.0
_IMPLEMENTATION = ("fused", "foreach", "capturable")  # of an optimiser's step; not what it computes


class Stateful(Interface):
    """What goes on where it was: a module, an average of weights, an optimiser."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any, /) -> Any: ...


def write_state(
    out: Path,  # run directory
    step: int,
    state: Mapping[str, Any],  # snapshot of the objects' states
    about: Mapping[str, Any],  # JSON, beside the state
    keep_last: int,
    keep_every: int,  # steps; 0: none for good
) -> None:
    """Write the state after `step` steps, whole or not at all.

    Raises:
        NotFiniteError: something in it is NaN or infinite.
        UserError: the disk is full.
    """
    found = [(path, t) for path, t in _tensors(state, "") if t.is_floating_point()]
    bad = [path for path, t in found if not t.isfinite().all()]
    if bad:
        raise NotFiniteError(
            f"the state after step {step} is not saved: {bad[0]} holds NaN or infinity; the same command goes on from "
            "the state before, with --allow-change lr=... at a lower rate"
        )
    path = train_state_path(out, step)
    save_train_state(path, {"step": step, **state}, about, keep_last, keep_every)


def _tensors(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{path}.{key}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _tensors(item, f"{path}.{number}")


class Found(NamedTuple):
    """The state that a run goes on from."""

    path: Path
    state: dict[Any, Any]
    metadata: dict[str, Any]
    damaged: tuple[str, ...]  # sentences about newer states that cannot be read


def find_state(out: Path) -> Found | None:
    """The newest state of a run directory that is whole, the same in all processes; None in a new run.

    Raises:
        UserError: in every process alike: processes see different states, or none of the states can be read.
    """
    cure = "the run directory must be one folder that all nodes share"
    paths = _listed_alike(out)
    check_same({"the newest state": _newest(paths)}, cure)
    found: Found | None = None
    damaged: list[str] = []
    for path in reversed(paths):
        try:  # on the CPU: an optimiser keeps its counters where it wants them
            found = Found(path, *load_train_state(path), tuple(damaged))
            break
        except UserError as error:
            damaged.append(str(error))
    hashes = {
        "the newest readable state": found and found.path.name,
        "its hash": found and found.metadata.get("sha256"),
    }
    check_same(hashes, cure)
    if found is None and damaged:
        raise UserError(damaged[0])
    return found


def _listed_alike(out: Path) -> list[Path]:
    """The states of a run directory, as soon as all processes see the same newest one, or when their patience ends.

    A network file system shows a node for up to a minute what it saw before: that of the node where the run began anew
    may lack the state that another node has just written.
    """
    patience_s = _patience_s()
    begun = time.monotonic()
    while True:
        paths = train_states(out)
        passed = time.monotonic() - begun
        seen = distributed.gather_json({"newest": _newest(paths), "passed": passed})
        # the same decision in all of them: rank 0's clock counts
        if len({s["newest"] for s in seen}) == 1 or seen[0]["passed"] > patience_s:
            return paths
        if passed < _LOOK_S:
            distributed.print0(
                f"not all processes see the same states in {out}; waiting up to {patience_s:.0f} s for its file system",
                file=sys.stderr,
            )
        time.sleep(_LOOK_S)


def _patience_s() -> float:
    """LISTING_S, or EXPORT3D_LISTING_S for a file system that shows sooner or later what was written."""
    text = os.environ.get("EXPORT3D_LISTING_S") or str(LISTING_S)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise UserError(
            f"EXPORT3D_LISTING_S={text!r} is not a number of seconds; set one, such as 60"
        )
    return seconds


def _newest(paths: Sequence[Path]) -> str | None:
    return paths[-1].name if paths else None


def set_aside(out: Path, found: Found) -> None:
    """Take the names from states newer than `found`: they cannot be read, and the run will write them anew."""
    for path in train_states(out):
        if path.name > found.path.name:
            path.rename(path.with_suffix(".damaged"))


def resume(
    found: Found,
    objects: Mapping[str, Stateful],
    optional: Collection[str],  # names that states of earlier versions lack
) -> int:
    """Put a state into the objects; its step.

    Raises:
        UserError: the state is of another network.
    """
    path, state = str(found.path), found.state
    for name, thing in objects.items():
        if name not in state:
            if name in optional:
                continue
            raise UserError(
                f"{path} holds no {name}; go on with the losses that the run began with"
            )
        if isinstance(thing, nn.Module):
            load_state_strict(thing, state[name], path)
        elif isinstance(thing, torch.optim.Optimizer):
            load_optimiser(thing, state[name])
        else:
            thing.load_state_dict(state[name])
    return int(state["step"])


def load_optimiser(optimiser: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Moments and settings of `state`; how the step is computed (fused or not) stays as the optimiser was made."""
    own = optimiser.param_groups
    groups = [
        {**saved, **{key: mine[key] for key in _IMPLEMENTATION if key in mine}}
        for saved, mine in zip(state["param_groups"], own, strict=True)
    ]
    optimiser.load_state_dict({**state, "param_groups": groups})


def write_network(
    run: RunDirectory,
    name: str,
    latest: str,  # further name of the same file
    state: Mapping[str, Tensor],
    config: Any,  # a dataclass, see dnnlib.config
    about: Mapping[str, Any],  # JSON: the kind, the data, and how far training has come
) -> None:
    """Write weights that others use, with what is needed to use them."""
    metadata = {"config": to_dict(config), "git": git_revision(), **about}
    save_checkpoint(run.path / name, state, metadata)
    run.publish(run.path / name, latest)
