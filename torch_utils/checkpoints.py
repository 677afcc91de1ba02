"""Checkpoints: safetensors whose header holds one JSON text under the key "export3d".

The JSON says what the file is:

    {"format": "export3d", "version": 1, "kind": "model", "config": {...}, "expression": {...}, "crop": {...},
     "tracker": {...}, "git": ..., "n_images": ..., "stored_dtype": "float32", "sha256": ..., ...}

`format`, `version`, `stored_dtype`, `sha256` (of names, shapes and bytes of all tensors) and `sha256_header` (of all
the rest) are written here, the rest by the caller. Nothing is ever unpickled, and no file is loaded in part: every
mistake ends in one sentence.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from dnnlib.errors import UserError
from dnnlib.files import atomic_path, check_free_space
from dnnlib.reading.files import check_file
from dnnlib.reading.tensors import check_finite_tensors, not_finite, read_safetensors
from dnnlib.reading.text import parse_json

FORMAT_NAME = "export3d"
FORMAT_VERSION = 1
KINDS = ("model", "clebs", "train_state", "weights", "motion")
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin")
_MAX_HEADER_BYTES = 100_000_000  # the bound of safetensors itself
_SEAL = "sha256_header"
_FREE_MARGIN_BYTES = 16 * 2**20

StoredDtype = Literal["float32", "float16"]


class Checkpoint(NamedTuple):
    state: dict[str, Tensor]  # float32 where the file holds float16
    metadata: dict[str, Any]


def save_checkpoint(
    path: str | os.PathLike[str],
    state: Mapping[str, Tensor],
    metadata: Mapping[str, Any],  # needs "kind"; must be JSON
    dtype: StoredDtype = "float32",  # float16: float32 tensors take half the space
) -> None:
    """Write a checkpoint, whole or not at all.

    With `dtype="float16"` a float32 tensor is stored in half precision unless it exceeds the range of float16.

    Raises:
        UserError: a tensor holds NaN or infinity, or the disk has no space for the file.
    """
    if metadata.get("kind") not in KINDS:
        raise ValueError(f"metadata['kind'] is {metadata.get('kind')!r} but must be one of {KINDS}")
    tensors = prepare_tensors(state)
    if (bad := not_finite(tensors)) is not None:
        raise UserError(
            f"{os.fspath(path)} is not written because {bad}; start again from an earlier state"
        )
    if dtype == "float16":
        tensors = {name: _to_half(tensor) for name, tensor in tensors.items()}
    full = {**metadata, "format": FORMAT_NAME, "version": FORMAT_VERSION, "stored_dtype": dtype}
    write_safetensors(path, tensors, {**full, "sha256": tensors_sha256(tensors)})


def load_checkpoint(
    path: str | os.PathLike[str],
    kind: str | None = None,  # refuse other kinds; None: any
    device: str | torch.device = "cpu",
) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises:
        UserError: no such file, a pickle, a truncated or damaged file, another format, version or kind, or NaN in
            the weights.
    """
    metadata = read_metadata(path, kind)
    tensors = read_tensors(path, metadata)
    check_finite_tensors(tensors, path, "take an earlier checkpoint")
    if metadata.get("stored_dtype") == "float16":
        tensors = {n: t.float() if t.dtype == torch.float16 else t for n, t in tensors.items()}
    return Checkpoint({name: tensor.to(device) for name, tensor in tensors.items()}, metadata)


def read_metadata(path: str | os.PathLike[str], kind: str | None = None) -> dict[str, Any]:
    """The JSON of a checkpoint, without reading its tensors; verifies the file's size, format, version and kind.

    Raises:
        UserError: see `load_checkpoint`.
    """
    name = os.fspath(path)
    header = _read_header(Path(path))
    text = header["__metadata__"].get(FORMAT_NAME)
    if text is None:
        raise UserError(
            f"{name} is a safetensors file of another program; give a checkpoint written by train.py"
        )
    try:
        metadata = parse_json(text, name)
        found = (metadata["format"], metadata["version"], metadata["kind"])
    except (UserError, KeyError) as error:
        raise UserError(
            f"{name} has a damaged description; take another copy of the checkpoint"
        ) from error
    seal = metadata.get(_SEAL)  # files of earlier versions have none
    if seal is not None and seal != header_sha256(metadata, header["__metadata__"].get("tree")):
        raise UserError(
            f"{name} is damaged: its description does not have the recorded hash; take another copy"
        )
    if found[:2] != (FORMAT_NAME, FORMAT_VERSION):
        raise UserError(
            f"{name} has format {found[0]!r} version {found[1]!r} but this program reads {FORMAT_NAME!r} version "
            f"{FORMAT_VERSION}; update the program or write the checkpoint again"
        )
    if kind is not None and found[2] != kind:
        raise UserError(
            f"{name} is a checkpoint of kind {found[2]!r} but one of kind {kind!r} is needed here"
        )
    return metadata


def load_state_strict(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load `state` into `module`; all names and shapes must agree. `what` names the weights in the message.

    Raises:
        UserError: names are missing or unexpected, or shapes differ; `module` is unchanged then.
    """
    _check_names_and_shapes(module, state, what)
    module.load_state_dict(dict(state), strict=True)


def check_fits(make: Callable[[], nn.Module], state: Mapping[str, Tensor], what: str) -> None:
    """Compare weights with the module that a configuration asks for, before that module takes any memory.

    Raises:
        UserError: see `load_state_strict`; or no such module can be.
    """
    try:
        with torch.device("meta"):
            module = make()
    except (RuntimeError, OverflowError, ValueError, TypeError) as error:
        raise UserError(
            f"{what} asks for a network that cannot be made; take another copy of the checkpoint"
        ) from error
    _check_names_and_shapes(module, state, what)


def _check_names_and_shapes(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    own = module.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    faults = [
        _count_and_first(missing, "missing"),
        _count_and_first(unexpected, "unexpected"),
        _count_and_first(shapes, "of another shape"),
    ]
    if any(faults):
        raise UserError(
            f"{what} does not fit this model: {'; '.join(f for f in faults if f)}; "
            "use the configuration it was made with"
        )


# ---- shared with train_state ------------------------------------------------------------------------------------


def prepare_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detached, contiguous CPU tensors, none sharing memory with another (safetensors refuses that)."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in state.items():
        plain = tensor.detach().to("cpu").contiguous()
        address = plain.untyped_storage().data_ptr()
        if plain.numel() and (
            address in seen or plain.untyped_storage().nbytes() > plain.numel() * plain.itemsize
        ):
            plain = plain.clone()
            address = plain.untyped_storage().data_ptr()
        seen.add(address)
        tensors[name] = plain
    return tensors


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: dict[str, Tensor],
    metadata: Mapping[str, Any],
    tree: str | None = None,
) -> None:
    """Write prepared tensors and JSON metadata atomically, after a look at the free space."""
    sealed = {**metadata, _SEAL: header_sha256(metadata, tree)}
    texts = {FORMAT_NAME: json.dumps(sealed, sort_keys=True)}
    if tree is not None:
        texts["tree"] = tree
    n_bytes = sum(t.numel() * t.itemsize for t in tensors.values()) + sum(map(len, texts.values()))
    check_free_space(path, n_bytes + _FREE_MARGIN_BYTES)
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=texts)
        except SafetensorError as error:
            raise UserError(
                f"cannot write {os.fspath(path)} ({error}); free some space or choose another folder"
            ) from error


def read_tensors(path: str | os.PathLike[str], metadata: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a file whose header was verified; their SHA-256 must be the one that the metadata records."""
    tensors = read_safetensors(path)
    if metadata.get("sha256") != tensors_sha256(tensors):
        raise UserError(
            f"{os.fspath(path)} is damaged: its tensors do not have the recorded hash; take another copy"
        )
    return tensors


def read_tree(path: str | os.PathLike[str]) -> str | None:
    text = _read_header(Path(path))["__metadata__"].get("tree")
    return None if text is None else str(text)


def header_sha256(metadata: Mapping[str, Any], tree: str | None) -> str:
    """SHA-256 of all that a file says beside its tensors: numbers such as the step are damaged as easily as weights."""
    own = {key: value for key, value in metadata.items() if key != _SEAL}
    text = json.dumps(own, sort_keys=True) + "|" + (tree or "")
    return hashlib.sha256(text.encode()).hexdigest()


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        if tensor.numel():
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_header(path: Path) -> dict[str, Any]:
    if path.suffix.lower() in _PICKLES:
        raise UserError(
            f"{path} is a pickle, which can run code when loaded; give a .safetensors checkpoint of this project"
        )
    check_file(path, "give the path of a .safetensors checkpoint")
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(9)
            # Nine bytes of safetensors are a length and "{"; the length alone may begin like a pickle does.
            if start[8:] != b"{" and (start[:2] == b"PK" or start[:1] == b"\x80"):
                raise UserError(
                    f"{path} is a pickle under another name, which can run code when loaded; "
                    "give a .safetensors checkpoint of this project"
                )
            n_header = int.from_bytes(start[:8], "little")
            if len(start) < 9 or not 2 <= n_header <= _MAX_HEADER_BYTES:
                raise UserError(
                    f"{path} is not a safetensors file; give a checkpoint written by this project"
                )
            if 8 + n_header > size:
                raise UserError(f"{path} is truncated ({size} bytes); take another copy")
            text = start[8:] + file.read(n_header - 1)
        header = _header_of(text, path)
        texts = header.setdefault("__metadata__", {})
        if not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("a text is none")
        end = max(
            (v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"), default=0
        )
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); give a .safetensors checkpoint"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is not a safetensors file; give a checkpoint written by this project"
        ) from error
    if 8 + n_header + end != size:
        raise UserError(
            f"{path} is truncated ({size} bytes instead of {8 + n_header + end}); take another copy"
        )
    return header


def _header_of(text: bytes, path: Path) -> dict[str, Any]:
    """Raises ValueError when it is no JSON."""
    try:
        return parse_json(text, str(path))
    except UserError as error:
        raise ValueError from error


def _to_half(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32:
        return tensor
    half = tensor.half()
    return half if bool(torch.isfinite(half).all()) else tensor


def _count_and_first(names: list[str], state: str) -> str:
    if not names:
        return ""
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} {state} ({', '.join(names[:3])}{more})"
