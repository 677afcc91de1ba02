"""Reading the weights of other people's networks: installed packages, or paths that the user gives.

Nothing is imported from those packages and nothing is downloaded.
"""

from __future__ import annotations

import os
import re
from typing import Any

from torch import Tensor

from dnnlib.errors import UserError
from dnnlib.files import sha256_file
from dnnlib.reading.files import check_file
from dnnlib.reading.tensors import check_finite_tensors, read_safetensors, read_torch

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.(pth|pt)$")


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """A state dict from .safetensors, or from .pth read as plain tensors (no code runs).

    A name such as vgg16-397923af.pth carries the start of the file's SHA-256, which is verified then.

    Raises:
        UserError: no such file, it is damaged, it holds more than tensors, or a tensor holds NaN or infinity.
    """
    path = check_file(path, "give the path of a .pth or .safetensors file")
    match = _HASH_IN_NAME.search(path.name)
    if match and not sha256_file(path).startswith(match.group(1)):
        raise UserError(
            f"the weights {path} are damaged: their hash is not the one in their name; take another copy"
        )
    if path.suffix == ".safetensors":
        state: Any = read_safetensors(path)
    else:
        state = read_torch(path, "give a plain state dict")
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(
            f"the weights {path} are not a state dict of tensors; give a plain state dict"
        )
    check_finite_tensors(state, path)
    return {str(name): tensor for name, tensor in state.items()}
