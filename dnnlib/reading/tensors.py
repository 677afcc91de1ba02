"""Weights: safetensors, and .pth files of plain tensors; no code of a file runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dnnlib.errors import UserError
from dnnlib.reading.files import check_file


def read_safetensors(
    path: str | os.PathLike[str], advice: str = "take another copy"
) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, on the CPU.

    Raises:
        UserError: the file is missing or damaged.
    """
    file = check_file(path, advice)
    try:
        return dict(load_file(file))
    except Exception as error:  # SafetensorError, KeyError of an unknown type, MemoryError
        raise UserError(f"{file} is damaged; {advice}") from error


def read_torch(path: str | os.PathLike[str], advice: str = "take another copy") -> Any:
    """What a .pth file holds, as long as that is tensors and plain values.

    Raises:
        UserError: the file is missing or damaged, or wants to run code.
    """
    file = check_file(path, advice)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's, zipfile's and torch's own
        raise UserError(f"{file} is damaged or holds more than tensors; {advice}") from error


def check_finite_tensors(
    tensors: Mapping[str, Tensor], path: str | os.PathLike[str], advice: str = "take another copy"
) -> None:
    """Refuse weights with NaN or infinity: a network would answer NaN to everything, and a mean hide it.

    Raises:
        UserError: names the file, the first tensor and how many there are.
    """
    if (bad := not_finite(tensors)) is not None:
        raise UserError(f"{os.fspath(path)} cannot be used because {bad}; {advice}")


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """What is wrong when tensors hold NaN or infinity, with the name of the first; None when all is well."""
    bad = [n for n, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]
    return f"{len(bad)} of its tensors hold NaN or infinity (first: {bad[0]})" if bad else None
