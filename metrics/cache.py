"""What networks saw in reference clips, kept on disk between methods and runs: `--cache DIR`.

A file holds up to 256 frames of one clip. Its name is a hash of the clip's bytes, the networks' files and the
protocol, so nothing stale can be read. Plain arrays: nothing is unpickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dnnlib.errors import UserError
from dnnlib.files import atomic_path, sha256_file
from dnnlib.listing import listed
from dnnlib.reading.arrays import read_npz
from metrics.networks import Face
from metrics.pairs import Side

VERSION = 3  # of the files; 3: a frame's number is its place in the reference alone
CHUNK = 256  # frames
_TENSORS = ("rotations", "embeddings", "inception")  # cached properties of a side, one row a frame
_FACE_FIELDS = ("landmarks", "beta", "rotation", "position_cm", "score")


def clip_hash(path: Path) -> str:
    """SHA-256 of a video, or of the names and bytes of a folder's files."""
    if not path.is_dir():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(listed(path)):
        if file.is_file():
            digest.update(f"{file.name}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


class ReferenceCache:
    """Features of one reference clip."""

    def __init__(self, folder: Path, clip: Path, networks: str, protocol: str = "") -> None:
        text = f"{VERSION}\0{clip_hash(clip)}\0{networks}\0{protocol}"
        self._stem = hashlib.sha256(text.encode()).hexdigest()[:32]
        self._folder = folder
        self._chunk = -1
        self._rows: dict[str, dict[int, np.ndarray]] = {}  # field -> frame -> row
        self._dirty = False
        self.hits = 0  # frames whose features were read instead of computed

    def fill(self, side: Side, indices: Sequence[int]) -> None:
        """Give a side what is known of its frames."""
        self._open(indices[0] // CHUNK)
        if self._has("found", indices):
            side.__dict__["faces"] = [self._face(i) for i in indices]
            self.hits += len(indices)
        for field in _TENSORS:
            if self._has(field, indices):
                rows = np.stack([self._rows[field][i] for i in indices])
                side.__dict__[field] = torch.from_numpy(rows)

    def keep(self, side: Side, indices: Sequence[int]) -> None:
        """Take what a side has found out."""
        known = side.__dict__
        if "faces" in known and not self._has("found", indices):
            self._dirty = True
            for i, face in zip(indices, known["faces"], strict=True):
                self._put("found", i, np.array(face is not None))
                for field in _FACE_FIELDS if face is not None else ():
                    self._put(field, i, np.asarray(getattr(face, field)))
        for field in _TENSORS:
            if field in known and not self._has(field, indices):
                self._dirty = True
                for i, row in zip(indices, known[field].numpy(), strict=True):
                    self._put(field, i, row)

    def close(self) -> None:
        """Write what is new."""
        if not self._dirty:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        arrays = {}
        for field, rows in self._rows.items():
            if rows:
                arrays[f"{field}_at"] = np.array(list(rows))
                arrays[field] = np.stack(list(rows.values()))
        with atomic_path(self._file) as temporary:
            with open(temporary, "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
        self._dirty = False

    @property
    def _file(self) -> Path:
        return self._folder / f"{self._stem}-{self._chunk:05d}.npz"

    def _open(self, chunk: int) -> None:
        if chunk == self._chunk:
            return
        self.close()
        self._chunk, self._rows = chunk, {}
        if not self._file.is_file():
            return
        try:
            arrays = read_npz(self._file)
            for field in (n for n in arrays if not n.endswith("_at")):
                at = arrays[f"{field}_at"].tolist()
                self._rows[field] = dict(zip(at, arrays[field], strict=True))
        except (UserError, ValueError, KeyError, TypeError):
            self._rows = {}  # damaged: computed again and replaced

    def _has(self, field: str, indices: Sequence[int]) -> bool:
        rows = self._rows.get(field, {})
        return all(i in rows for i in indices)

    def _put(self, field: str, index: int, row: np.ndarray) -> None:
        self._rows.setdefault(field, {})[index] = row

    def _face(self, index: int) -> Face | None:
        if not bool(self._rows["found"][index]):
            return None
        landmarks, beta, rotation, position, score = (
            self._rows[field][index] for field in _FACE_FIELDS
        )
        return Face(landmarks, beta, rotation, position, float(score))
