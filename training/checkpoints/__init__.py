"""Weights and training state as safetensors with JSON inside, verified at load. See `io` and `train_state`."""

from torch_utils.checkpoints import (
    Checkpoint,
    load_checkpoint,
    load_state_strict,
    read_metadata,
    save_checkpoint,
)
from torch_utils.train_state import (
    latest_train_state,
    load_train_state,
    save_train_state,
    train_state_path,
)
from training.checkpoints.model import load_model

__all__ = [
    "Checkpoint",
    "latest_train_state",
    "load_checkpoint",
    "load_model",
    "load_state_strict",
    "load_train_state",
    "read_metadata",
    "save_checkpoint",
    "save_train_state",
    "train_state_path",
]
