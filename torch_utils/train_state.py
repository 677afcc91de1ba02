"""Training state: any nesting of dicts, lists and tuples of tensors, arrays and plain values, without pickles.

    save_train_state(train_state_path(run_dir, step), {"generator": g.state_dict(), "optimiser": opt.state_dict(),
                     "step": step}, {"config": to_dict(config)}, keep_last=3)
    state, metadata = load_train_state(latest_train_state(run_dir))

Tensors keep their type and bits; numbers come back equal (JSON writes floats so that they round-trip).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import UserError
from dnnlib.reading.tensors import check_finite_tensors
from dnnlib.reading.text import parse_json_value
from torch_utils.checkpoints import (
    FORMAT_NAME,
    FORMAT_VERSION,
    prepare_tensors,
    read_metadata,
    read_tensors,
    read_tree,
    tensors_sha256,
    write_safetensors,
)

_STATE_NAME = re.compile(r"state-(\d{9})\.safetensors")


def train_state_path(run_dir: str | os.PathLike[str], step: int) -> Path:
    """Where the state after `step` steps lies."""
    return Path(run_dir) / f"state-{step:09d}.safetensors"


def train_states(run_dir: str | os.PathLike[str]) -> list[Path]:
    """Complete states of a run, oldest first."""
    return sorted(
        p for p in Path(run_dir).glob("state-*.safetensors") if _STATE_NAME.fullmatch(p.name)
    )


def latest_train_state(run_dir: str | os.PathLike[str]) -> Path | None:
    """The state to resume from, or None in a new run."""
    states = train_states(run_dir)
    return states[-1] if states else None


def save_train_state(
    path: str | os.PathLike[str],
    state: Mapping[
        Any, Any
    ],  # nested dict/list/tuple of Tensor, ndarray, int, float, str, bool, None
    metadata: Mapping[str, Any] | None = None,  # JSON; the kind is set here
    keep_last: int = 0,  # > 0: afterwards delete all but so many newest states beside it
    keep_every: int = 0,  # > 0: of those deleted, not the ones whose step is a multiple
) -> None:
    """Write a training state, whole or not at all (temporary file, fsync, rename).

    Raises:
        UserError: the disk has no space for it; older states stay.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_flatten(state, "", tensors))
    tensors = prepare_tensors(tensors)
    full = {
        **(metadata or {}),
        "format": FORMAT_NAME,
        "version": FORMAT_VERSION,
        "kind": "train_state",
        "sha256": tensors_sha256(tensors),
    }
    write_safetensors(path, tensors, full, tree)
    if keep_last > 0:
        _prune(Path(path), keep_last, keep_every)


def load_train_state(
    path: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> tuple[dict[Any, Any], dict[str, Any]]:
    """Read what `save_train_state` wrote: (state, metadata). Tensors come on `device`.

    Raises:
        UserError: see `load_checkpoint`.
    """
    metadata = read_metadata(path, "train_state")
    text = read_tree(path)
    if text is None:
        raise UserError(f"{os.fspath(path)} has no description of its state; take another copy")
    tensors = read_tensors(path, metadata)
    check_finite_tensors(tensors, path, "go on from an earlier state")
    try:
        tree = parse_json_value(text, os.fspath(path), finite=False)
        state = _unflatten(tree, tensors, torch.device(device))
    except (UserError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{os.fspath(path)} has a damaged description of its state; take another copy"
        ) from error
    return state, metadata


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON, its tensors moved into `tensors`. One-key objects "!..." stand for what JSON lacks."""
    if isinstance(value, Tensor):
        return {"!tensor": _store(value, path, tensors)}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        # As bytes: safetensors' torch side lacks some of numpy's types.
        array = np.ascontiguousarray(value)
        data = torch.from_numpy(array.reshape(-1).view(np.uint8).copy())
        return {"!array": [_store(data, path, tensors), array.dtype.str, list(value.shape)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        items = [
            (k, _flatten(v, f"{path}.{k}" if path else str(k), tensors)) for k, v in value.items()
        ]
        if all(isinstance(k, str) and not k.startswith("!") for k, _ in items):
            return dict(items)
        if not all(isinstance(k, (str, int)) for k, _ in items):
            raise TypeError(f"{path}: keys must be text or whole numbers")
        return {"!dict": [list(item) for item in items]}
    if isinstance(value, (list, tuple)):
        flat = [
            _flatten(v, f"{path}.{i}" if path else str(i), tensors) for i, v in enumerate(value)
        ]
        return {"!tuple": flat} if isinstance(value, tuple) else flat
    raise TypeError(
        f"{path or 'the state'} is a {type(value).__name__}, which a training state cannot hold"
    )


def _store(tensor: Tensor, path: str, tensors: dict[str, Tensor]) -> str:
    name = path or "value"
    while name in tensors:  # {"a": {"b": ..}, "a.b": ..} meet in one path
        name += "'"
    tensors[name] = tensor
    return name


def _unflatten(value: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    if isinstance(value, list):
        return [_unflatten(v, tensors, device) for v in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (key, content), *_ = value.items()
        if key == "!tensor":
            return tensors[content].to(device)
        if key == "!array":
            name, dtype, shape = content
            return tensors[name].numpy().view(np.dtype(dtype)).reshape(shape).copy()
        if key == "!dict":
            return {k: _unflatten(v, tensors, device) for k, v in content}
        if key == "!tuple":
            return tuple(_unflatten(v, tensors, device) for v in content)
    return {k: _unflatten(v, tensors, device) for k, v in value.items()}


def _prune(newest: Path, keep_last: int, keep_every: int) -> None:
    for old in train_states(newest.parent)[:-keep_last]:
        step = int(old.stem.removeprefix("state-"))
        if old != newest and not (keep_every and step % keep_every == 0):
            old.unlink(missing_ok=True)
    # What a killed process left behind; only one process of a run writes states, and it has just ended writing.
    for leftover in newest.parent.glob(".state-*.tmp-*"):
        leftover.unlink(missing_ok=True)
