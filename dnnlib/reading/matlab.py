"""MATLAB files, as far as they are plain numeric arrays: Deep3DFaceRecon's results, the Basel face model.

Read here are level-5 files (MATLAB's -v6 and -v7, scipy's savemat): a header of 128 bytes, then elements of a tag
(type and number of bytes) and content, padded to 8 bytes. An element is a matrix, or a zlib stream that holds one. A
matrix is a sequence of elements itself: flags with its class, dimensions, name, numbers. Its numbers may be stored in a
narrower type than its class. Text, cells, structures, objects, sparse and complex arrays are passed over.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np

from dnnlib.errors import UserError
from dnnlib.reading.files import HALF_GIB, read_bytes

_HEADER, _TAG = 128, 8
_MATRIX, _COMPRESSED = 14, 15
_INT8, _INT32, _UINT32, _UTF8 = 1, 5, 6, 16
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
_NUMBERS |= {12: "i8", 13: "u8"}
_REAL = ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
_CLASSES = dict(enumerate(_REAL, 6))  # a matrix's class -> its type
_COMPLEX = 0x0800  # a flag of a matrix
_MAX_DIMENSIONS = 32


class _Element(NamedTuple):
    kind: int
    content: memoryview


def read_mat(
    path: str | os.PathLike[str],
    names: Collection[str] | None = None,  # read these alone; None: all
    advice: str = "save it anew",
    limit: int = HALF_GIB,  # bytes of the file, and of all arrays together
) -> dict[str, np.ndarray]:
    """Name -> array of the file's real numeric matrices, in their own types and shapes (two dimensions at least).

    Raises:
        UserError: the file is missing, damaged, too large, or of another version of MATLAB.
    """
    name = os.fspath(path)
    data = read_bytes(path, advice, limit)
    if data[:10] == b"MATLAB 7.3" or data[512:520] == b"\x89HDF\r\n\x1a\n":
        raise UserError(f"{name} is a MATLAB file of version 7.3 (HDF5); save it with -v7")
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None or struct.unpack(f"{order}H", data[124:126])[0] != 0x0100:
        raise UserError(f"{name} is no MATLAB file as -v7 saves them; {advice}")
    arrays: dict[str, np.ndarray] = {}
    left = limit
    try:
        for element in _elements(memoryview(data)[_HEADER:], order):
            if element.kind == _COMPRESSED:
                content = _unpacked(element.content, limit)
                element = next(_elements(memoryview(content), order))
            found = _matrix(element.content, order, names) if element.kind == _MATRIX else None
            if found is None:
                continue
            values, into, shape = found[1]
            left -= len(values) * np.dtype(into).itemsize
            if left < 0:
                raise ValueError(f"its arrays take more than {limit / 2**20:.0f} MiB")
            arrays[found[0]] = values.astype(into).reshape(shape, order="F")
    except (ValueError, zlib.error, struct.error, StopIteration) as error:
        raise UserError(f"{name} is damaged ({error or 'it ends early'}); {advice}") from error
    return arrays


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    """The elements that follow each other in `data`. Raises ValueError where one is longer than what is there."""
    place = 0
    while place + _TAG <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, place)
        small = kind >> 16
        if small:  # up to four bytes lie within the tag itself
            kind, size, start, after = kind & 0xFFFF, small, place + 4, place + _TAG
            if small > 4:
                raise ValueError("a short element is too long")
        else:
            start = place + _TAG
            after = start + size
            if kind != _COMPRESSED:
                after += -size % 8
        if start + size > len(data):
            raise ValueError("an element ends beyond the file")
        yield _Element(kind, data[start : start + size])
        place = after


def _unpacked(content: memoryview, limit: int) -> bytes:
    unpacker = zlib.decompressobj()
    out = unpacker.decompress(content, max(limit, 1))
    if unpacker.unconsumed_tail:
        raise ValueError(f"it unpacks to more than {limit / 2**20:.0f} MiB")
    if not unpacker.eof:
        raise ValueError("a packed array breaks off")
    return out


def _matrix(
    content: memoryview, order: str, names: Collection[str] | None
) -> tuple[str, tuple[np.ndarray, str, tuple[int, ...]]] | None:
    """Name, and stored numbers with the type and shape they stand for; None for what is passed over."""
    parts = _elements(content, order)
    flags = next(parts)
    if flags.kind != _UINT32 or len(flags.content) != 8:
        raise ValueError("an array has no flags")
    word = struct.unpack_from(f"{order}I", flags.content)[0]
    into = _CLASSES.get(word & 0xFF)
    if into is None or word & _COMPLEX:
        return None
    dimensions, label, numbers = next(parts), next(parts), next(parts)
    kinds = (dimensions.kind in (_INT32, _UINT32), label.kind in (_INT8, _UTF8))
    if not all(kinds) or numbers.kind not in _NUMBERS:
        raise ValueError("an array is not made of dimensions, name and numbers")
    name = bytes(label.content).decode("utf-8")
    if not name or (names is not None and name not in names):  # without name: MATLAB's own
        return None
    shape = tuple(int(n) for n in np.frombuffer(dimensions.content, f"{order}i4"))
    values = np.frombuffer(numbers.content, f"{order}{_NUMBERS[numbers.kind]}")
    if not 2 <= len(shape) <= _MAX_DIMENSIONS or min(shape) < 0 or math.prod(shape) != len(values):
        raise ValueError(f"{name} does not have as many numbers as its shape")
    return name, (values, into, shape)
