"""A network from its file alone. The files themselves are read and written by torch_utils.

model.py    builds and loads the generator of a checkpoint
publish.py  makes a network file small enough to hand on: python -m training.checkpoints.publish
"""

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
