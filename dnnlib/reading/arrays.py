"""Numpy's files: .npy and .npz, without objects; the header is compared with the file before memory is taken."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dnnlib.errors import UserError
from dnnlib.reading.archives import member_bytes, open_zip
from dnnlib.reading.files import HALF_GIB, check_file


def open_npy(path: str | os.PathLike[str], advice: str = "write it again") -> npt.NDArray[Any]:
    """The array of a .npy file as a read-only memory map: takes no memory until it is read.

    Raises:
        UserError: missing, damaged, shorter than its header says, or made of objects.
    """
    file = check_file(path, advice)
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # the header is text that numpy parses: it may raise anything
        raise UserError(f"{file} is damaged ({error or 'no array'}); {advice}") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{file} is not a .npy file; {advice}")
    return array


def read_npz(
    path: str | os.PathLike[str], advice: str = "write it again", limit: int = HALF_GIB
) -> dict[str, np.ndarray]:
    """All arrays of a .npz file; together at most `limit` bytes.

    Raises:
        UserError: missing, damaged, too large, or it holds objects, which would have to be unpickled.
    """
    file = Path(path)
    arrays: dict[str, np.ndarray] = {}
    with open_zip(file, advice) as archive:
        for info in archive.infolist():
            content = member_bytes(archive, info.filename, advice, limit)
            limit -= len(content)
            try:
                arrays[info.filename.removesuffix(".npy")] = _parsed(content)
            except Exception as error:
                raise UserError(
                    f"{file}: {info.filename} is not a plain array ({error}); {advice}"
                ) from error
    return arrays


def _parsed(content: bytes) -> np.ndarray:
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"unknown version {version}")
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds objects")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or stream.tell() + count * dtype.itemsize != len(content):
        raise ValueError("its size is not that of its header")
    values = np.frombuffer(content, dtype, count, stream.tell()).copy()
    return values.reshape(shape, order="F" if fortran else "C")
