"""A trained network from its file alone: the checkpoint says how to build it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from conventions.spaces import ExpressionSpace
from dnnlib.config import apply_overrides
from dnnlib.errors import UserError
from dnnlib.typed import from_dict
from torch_utils.checkpoints import check_fits, load_checkpoint, load_state_strict
from training.config import ModelConfig
from training.generator.model import Export3D

if TYPE_CHECKING:
    from training.generator.model import Export3D


def load_model(
    path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    # "model.render.samples_coarse=48", also without "model.": values that no weight's shape depends on
    overrides: Sequence[str] = (),
) -> Export3D:
    """The generator of a checkpoint of kind "model", in evaluation mode on `device`.

    Raises:
        UserError: see `load_checkpoint`; or its configuration or weights do not fit this version of the program, or
            not the overrides.
    """
    # Here, not above: reading a checkpoint's metadata must not need the network's code.
    state, metadata = load_checkpoint(path, kind="model")
    try:
        inside = [text.removeprefix("model.") for text in overrides]  # keys are those of train.py
        values = apply_overrides(metadata["config"]["model"], inside, ModelConfig)
        config = from_dict(ModelConfig, values, "model")
        space = ExpressionSpace.from_dict(metadata["expression"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{os.fspath(path)} lacks its configuration or expression space; train it again"
        ) from error
    check_fits(lambda: Export3D(config, space.dim), state, os.fspath(path))
    model = Export3D(config, space.dim)
    load_state_strict(model, state, os.fspath(path))
    return model.to(device).eval()
