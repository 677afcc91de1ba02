"""Frames of a dataset: a memory-mapped index and one `os.pread` per image, the same in every process.

A dataset may be pickled to worker processes and survives a fork; it keeps no read position. `dataset.reader` opens one.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from pathlib import Path
from typing import IO, Any
from typing import Protocol as Interface

import numpy as np
import numpy.typing as npt

from conventions.spaces import ExpressionSpace
from dataset.codecs import decode_depth, decode_image, decode_mask
from dataset.spec import SPLITS, DatasetSpec
from dnnlib.errors import UserError
from dnnlib.reading.arrays import open_npy
from dnnlib.reading.files import open_file

_ROWS = 4096  # of the index that the fingerprint looks at

_MAX_OPEN_SHARDS = 512  # of one process, below the usual limit of 1024 descriptors


class ByteStore(Interface):
    """Where the encoded channels lie."""

    def read(self, frame: int, row: np.void, channel: str) -> bytes: ...

    def where(self, frame: int, row: np.void, channel: str) -> str:
        """Name of the place, for messages."""
        ...


class OpenFiles:
    """Files opened once per process and read by position; the one not used for longest goes when there are too many."""

    def __init__(self) -> None:
        self._files: dict[Path, IO[bytes]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_files": {}}

    def pread(self, path: Path, offset: int, size: int) -> bytes:
        """Exactly `size` bytes at `offset`.

        Raises:
            UserError: the file is missing or ends before.
        """
        file = self._files.pop(path, None)
        if file is None:
            file = open_file(path, "restore the file", buffering=0)  # stays open on purpose
            if len(self._files) >= _MAX_OPEN_SHARDS:
                # Only forgotten, not closed: a thread that is reading from it holds it until it is done.
                self._files.pop(next(iter(self._files)), None)
        self._files[path] = file  # last in the order: used most recently
        gone = UserError(
            f"{path} is truncated: {size} bytes at {offset} are not there; restore the file"
        )
        # Compared first: an index that lies could ask for gigabytes.
        if offset < 0 or size < 0 or offset + size > os.fstat(file.fileno()).st_size:
            raise gone
        data = b""
        while len(data) < size:  # a network file system may give less at once
            try:
                more = os.pread(file.fileno(), size - len(data), offset + len(data))
            except OSError as error:
                raise UserError(
                    f"{path} cannot be read ({error.strerror}); restore the file"
                ) from error
            if not more:
                raise gone
            data = data + more if data else more
        return data


class ShardStore:
    """Channels at byte offsets in shards/00000.zip."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = OpenFiles()

    def _path(self, row: np.void) -> Path:
        return self._folder / f"{int(row['shard']):05d}.zip"

    def read(self, frame: int, row: np.void, channel: str) -> bytes:
        return self._files.pread(
            self._path(row), int(row[f"{channel}_offset"]), int(row[f"{channel}_size"])
        )

    def where(self, frame: int, row: np.void, channel: str) -> str:
        return f"{self._path(row)} at byte {int(row[f'{channel}_offset'])}"


class FrameDataset:
    """Frames of many clips. Index `i` runs over all frames; the frames of a clip are neighbours."""

    def __init__(
        self,
        path: Path,
        spec: DatasetSpec,
        clips: npt.NDArray[np.void],  # CLIP_DTYPE
        frames: npt.NDArray[np.void],  # frame_dtype(spec), usually a memory map
        store: ByteStore,
    ) -> None:
        self.path, self.spec = path, spec
        self.clips, self.frames = clips, frames
        self._store = store
        self._files = OpenFiles()
        self._shrink = 1  # pixels of the store along a side of one that is given

    def shrunk_to(self, resolution: int) -> FrameDataset:
        """The same frames with fewer pixels: pictures and masks averaged, depth at each pixel's middle.

        Raises:
            UserError: the stored resolution is no multiple of `resolution`.
        """
        if resolution < 1 or self.spec.resolution % resolution:
            raise UserError(
                f"{self.path} has {self.spec.resolution} px, which is no multiple of the {resolution} px that are "
                f"wanted; make the dataset again with --resolution {resolution}"
            )
        other = copy.copy(self)
        other._files = OpenFiles()
        other._shrink = self.spec.resolution // resolution
        return other

    def __len__(self) -> int:
        return len(self.frames)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if isinstance(self.frames, np.memmap):  # pickled as its path, not as gigabytes
            state["frames"] = Path(str(self.frames.filename))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(state["frames"], Path):
            self.frames = open_npy(state["frames"])

    @property
    def space(self) -> ExpressionSpace | None:
        """The expression space of `beta`; None when the frames carry no beta."""
        return self.spec.expression

    @property
    def resolution(self) -> int:
        """Side of the pictures that are given, pixels; see `shrunk_to`."""
        return self.spec.resolution // self._shrink

    @property
    def channels(self) -> tuple[str, ...]:
        return self.spec.channels

    def clips_of(self, split: str | None) -> npt.NDArray[np.int64]:
        """Numbers of the clips of "train", "val" or "test"; None: all."""
        if split is None:
            return np.arange(len(self.clips))
        if split not in SPLITS:
            raise UserError(f"there is no split {split!r}; use one of {', '.join(SPLITS)}")
        return np.flatnonzero(self.clips["split"] == SPLITS.index(split))

    def row(self, i: int) -> np.void:
        """The index row of frame `i`.

        Read from the file, not through the map: random access would in time map the whole index into every worker,
        and be counted as its memory.
        """
        if not isinstance(self.frames, np.memmap):
            return self.frames[i]
        if not -len(self.frames) <= i < len(self.frames):
            raise IndexError(f"frame {i} of {len(self.frames)}")
        dtype, start = self.frames.dtype, int(self.frames.offset)
        place = start + (i % len(self.frames)) * dtype.itemsize
        data = self._files.pread(Path(str(self.frames.filename)), place, dtype.itemsize)
        return np.frombuffer(data, dtype)[0]

    def image(self, i: int) -> npt.NDArray[np.uint8]:
        """uint8 RGB [3, H, W]."""
        image = self._decode(i, "image", decode_image)
        if self._shrink > 1:
            image = np.round(_averaged(image, self._shrink)).astype(np.uint8)
        return np.ascontiguousarray(image.transpose(2, 0, 1))

    def depth(self, i: int) -> npt.NDArray[np.float32]:
        """float32 [H, W]: distance along the pixel's ray, world units."""
        depth: npt.NDArray[np.float32] = self._decode(i, "depth", decode_depth)
        # not averaged: between face and background there is no surface
        middle = self._shrink // 2
        return np.ascontiguousarray(depth[middle :: self._shrink, middle :: self._shrink])

    def mask(self, i: int) -> npt.NDArray[np.float32]:
        """float32 [H, W], 1 = the person."""
        mask: npt.NDArray[np.float32] = self._decode(i, "mask", decode_mask)
        return mask if self._shrink == 1 else _averaged(mask, self._shrink)

    def camera(self, i: int) -> npt.NDArray[np.float32]:
        """float32 [25], see docs/conventions.md."""
        return self.label("camera", i)

    def beta(self, i: int) -> npt.NDArray[np.float32]:
        """float32 [D] in `space`.

        Raises:
            UserError: the dataset has no expression parameters.
        """
        if self.space is None:
            raise UserError(
                f"{self.path} has no expression parameters; make it with dataset_tool.py"
            )
        return self.label("beta", i)

    def label(self, name: str, i: int) -> npt.NDArray[np.float32]:
        """A float32 label of frame `i` by its field's name, also those of `spec.extra_labels`.

        Raises:
            UserError: it holds NaN or infinity.
        """
        value = np.array(self.row(i)[name], dtype=np.float32)
        if not np.isfinite(value).all():
            raise UserError(
                f"frame {i} of {self.path} has NaN or infinity in its {name}; see dataset_tool.py validate, "
                "and leave the frame out"
            )
        return value

    def place(self, i: int) -> str:
        """Frame `i` and where its picture lies, for messages."""
        return f"frame {i} ({self._store.where(i, self.row(i), 'image')})"

    def encoded(self, i: int, channel: str = "image") -> bytes:
        """The stored bytes of a channel."""
        if channel not in self.channels:
            raise UserError(
                f"{self.path} has no channel {channel!r}, only {', '.join(self.channels)}"
            )
        return self._store.read(i, self.row(i), channel)

    def _decode(self, i: int, channel: str, decode: Any) -> Any:
        data = self.encoded(i, channel)
        try:
            array = decode(data)
        except UserError as error:
            where = self._store.where(i, self.row(i), channel)
            raise UserError(
                f"frame {i} ({where}) is not a readable {channel}; restore the file"
            ) from error
        side = self.spec.resolution
        if array.shape[:2] != (side, side):
            where = self._store.where(i, self.row(i), channel)
            raise UserError(
                f"frame {i} ({where}) is {array.shape[1]} x {array.shape[0]} pixels but the dataset has "
                f"{side} x {side}; crop all images to one size"
            )
        return array


def fingerprint(dataset: FrameDataset) -> str:
    """SHA-256 of what a data set says of itself, of all its clips and of rows spread evenly over its index."""
    rows = dataset.frames[:: max(1, len(dataset.frames) // _ROWS)]
    digest = hashlib.sha256(json.dumps(dataset.spec.to_dict(), sort_keys=True).encode())
    digest.update(str(len(dataset.frames)).encode())
    digest.update(np.ascontiguousarray(dataset.clips).tobytes())
    digest.update(np.ascontiguousarray(rows).tobytes())
    return digest.hexdigest()[:16]


def _averaged(pixels: npt.NDArray[Any], k: int) -> npt.NDArray[np.float32]:
    """[H, W] or [H, W, C] -> float32, the means of k x k pixels."""
    h, w = pixels.shape[0] // k, pixels.shape[1] // k
    return pixels.reshape(h, k, w, k, *pixels.shape[2:]).mean(axis=(1, 3), dtype=np.float32)
