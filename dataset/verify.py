"""Whether a data set's parts are what they claim: types, counts, checksums. Asked before parts become a whole.

    verify_part("heads", 3)               # a shard with its own rows, as `finalise` joins it
    verify_dataset(open_dataset("heads"))  # everything that a copy of a data set takes over

A file of the right size is not enough: a disk that lost its cache gives zeros.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dataset.spec import CLIP_DTYPE, SPLITS, DatasetSpec, frame_dtype
from dnnlib.errors import UserError
from dnnlib.files import sha256_file
from dnnlib.reading.archives import member_bytes, open_zip
from dnnlib.reading.arrays import open_npy
from dnnlib.reading.files import open_file
from dnnlib.reading.text import read_json

if TYPE_CHECKING:
    from dataset.frames import FrameDataset

PART_KEYS = ("n_clips", "n_frames", "frames_sha256")  # of a shard's JSON, beside its specification
_CHUNK = 65536  # rows at a time
_LOCAL_HEADER_BYTES = 30  # of a zip member, before its name
_CURE = "write this shard again, or restore it"


def verify_part(
    dest: str | os.PathLike[str],
    shard_id: int,
    contents: bool = True,  # also read every picture and compare its checksum; False: places and sizes only
) -> tuple[DatasetSpec, int, int]:
    """Check a complete shard of `dest`; returns its specification and its numbers of clips and frames.

    Raises:
        UserError: its rows or its zip are missing, damaged or empty of content, or do not belong together.
    """
    stem = Path(dest) / "shards" / f"{shard_id:05d}"
    summary = read_part(dest, shard_id)
    spec = DatasetSpec.from_dict(summary, f"{stem}.json")
    clips = _rows(Path(f"{stem}.clips.npy"), CLIP_DTYPE, summary["n_clips"])
    frames = _rows(Path(f"{stem}.frames.npy"), frame_dtype(spec), summary["n_frames"])
    digest = summary.get("frames_sha256")  # shards written before it was recorded have none
    if digest is not None and sha256_file(f"{stem}.frames.npy") != digest:
        raise UserError(
            f"{stem}.frames.npy does not have the checksum that its shard recorded; {_CURE}"
        )
    _verify_order(clips, frames, str(stem))
    for start in range(0, len(frames), _CHUNK):
        rows = frames[start : start + _CHUNK]
        if len(strange := np.flatnonzero(rows["shard"] != shard_id)):
            raise UserError(
                f"{stem}.frames.npy: frame {start + strange[0]} belongs to shard "
                f"{rows['shard'][strange[0]]}; {_CURE}"
            )
        check_finite(rows, spec, start, f"{stem}.frames.npy")
    n_members = len(frames) * len(spec.channels)
    verify_pictures(Path(f"{stem}.zip"), frames, spec, contents, n_members)
    return spec, len(clips), len(frames)


def read_part(dest: str | os.PathLike[str], shard_id: int) -> dict[str, Any]:
    """The JSON of a complete shard: its specification and PART_KEYS, with counts that are counts.

    Raises:
        UserError: it is missing or damaged.
    """
    path = Path(dest) / "shards" / f"{shard_id:05d}.json"
    summary = read_json(path, _CURE)
    counts = [summary.get("n_clips"), summary.get("n_frames")]
    if not all(type(n) is int and n >= 0 for n in counts):
        raise UserError(f"{path} has {counts} for its numbers of clips and frames; {_CURE}")
    return summary


def verify_dataset(dataset: FrameDataset) -> None:
    """Check an open data set: its index, its labels, and every stored picture against the checksum of its zip.

    Of an EG3D folder only the index is checked: its files have no checksums, and who copies them decodes them.

    Raises:
        UserError: something is damaged; names the file, and the frame where there is one.
    """
    what = str(dataset.path)
    _verify_order(dataset.clips, dataset.frames, what)
    verify_labels(dataset)
    if not (dataset.path / "shards").is_dir():  # EG3D's
        if dataset.path.is_file():
            verify_members(dataset.path)
        return
    for shard, rows in _by_shard(dataset.frames):
        verify_pictures(
            dataset.path / "shards" / f"{shard:05d}.zip", rows, dataset.spec, contents=True
        )


def verify_labels(dataset: FrameDataset) -> None:
    """Look at the labels of all frames once, through a map of its own: a million frames take about a second.

    Raises:
        UserError: a label or a time holds NaN or infinity; names the file and the frame.
    """
    frames = dataset.frames
    what = str(dataset.path)
    if isinstance(frames, np.memmap):
        what = str(frames.filename)
        frames = open_npy(what)  # its pages are given back at the end
    for start in range(0, len(frames), _CHUNK):
        check_finite(frames[start : start + _CHUNK], dataset.spec, start, what)


def check_finite(rows: npt.NDArray[np.void], spec: DatasetSpec, first: int, what: str) -> None:
    """Refuse rows with NaN or infinity in a label or a time; `first` is the number of the first row.

    Raises:
        UserError: names `what`, the frame and the label.
    """
    names = ["time_s", "confidence", "camera", *(["beta"] if spec.expression else [])]
    for name in (*names, *spec.extra_labels):
        good = np.isfinite(rows[name]).reshape(len(rows), -1).all(axis=1)
        if not good.all():
            raise UserError(
                f"{what}: frame {first + int(np.argmin(good))} has NaN or infinity in its {name}; "
                "leave the frame out, or make the labels again"
            )


def verify_pictures(
    path: Path,  # a zip of this project, members stored as they are
    frames: npt.NDArray[np.void],  # its rows
    spec: DatasetSpec,
    contents: bool = True,
    n_members: int | None = None,  # refuse another number
) -> None:
    """Every place that a row names must be that of a member, and its bytes must have the member's checksum.

    Raises:
        UserError: names the zip and the frame, counted within `frames`.
    """
    members = _members(path)
    if n_members is not None and len(members) != n_members:
        raise UserError(f"{path} holds {len(members)} files instead of {n_members}; {_CURE}")
    with open_file(path, _CURE, buffering=0) as file:
        for i, row in enumerate(_one_by_one(frames)):
            for channel in spec.channels:
                offset, size = int(row[f"{channel}_offset"]), int(row[f"{channel}_size"])
                known = members.get(offset)
                if known is None or known[0] != size or size == 0:
                    raise UserError(
                        f"{path} has no {channel} where frame {i} looks for it; {_CURE}"
                    )
                if not contents:
                    continue
                try:
                    data = os.pread(file.fileno(), size, offset)
                except OSError as error:
                    raise UserError(f"{path} cannot be read ({error.strerror}); {_CURE}") from error
                if zlib.crc32(data) != known[1]:
                    raise UserError(
                        f"{path}: the {channel} of frame {i} does not have its checksum; {_CURE}"
                    )


def _one_by_one(frames: npt.NDArray[np.void]) -> Iterator[np.void]:
    for start in range(0, len(frames), _CHUNK):
        yield from np.array(frames[start : start + _CHUNK])


def _members(path: Path) -> dict[int, tuple[int, int]]:
    """Byte where a member's data begin -> (size, CRC-32), from the zip's directory."""
    with open_zip(path, _CURE) as archive:
        infos = archive.infolist()
    return {
        i.header_offset + _LOCAL_HEADER_BYTES + len(i.orig_filename.encode()): (i.file_size, i.CRC)
        for i in infos
        if i.compress_type == zipfile.ZIP_STORED
    }


def verify_members(path: Path) -> None:
    """Read every member of a zip against its checksum.

    Raises:
        UserError: names the member that is damaged.
    """
    with open_zip(path, "restore it") as archive:
        for name in archive.namelist():
            try:
                member_bytes(archive, name)
            except UserError as error:
                raise UserError(
                    f"{path}: {name} does not have its checksum; restore the file"
                ) from error


def _rows(path: Path, dtype: np.dtype[np.void], count: int) -> npt.NDArray[np.void]:
    rows = open_npy(path, _CURE)
    if rows.dtype != dtype or rows.shape != (count,):
        raise UserError(f"{path} does not fit the description of its shard; {_CURE}")
    return rows


def _verify_order(clips: npt.NDArray[np.void], frames: npt.NDArray[np.void], what: str) -> None:
    """Clips follow each other without gaps, and every frame says to which it belongs."""
    counts = clips["n_frames"].astype(np.int64)
    first = np.cumsum(counts) - counts
    if (counts < 1).any() or (clips["first_frame"] != first).any() or counts.sum() != len(frames):
        raise UserError(f"{what}: the clips do not add up to its {len(frames)} frames; {_CURE}")
    if (clips["split"] >= len(SPLITS)).any() or not np.isfinite(clips["fps"]).all():
        raise UserError(f"{what}: a clip has an unknown split or no frame rate; {_CURE}")
    for start in range(0, len(frames), _CHUNK):
        rows = frames[start : start + _CHUNK]
        places = np.arange(start, start + len(rows))
        clip = np.searchsorted(first, places, side="right") - 1
        wrong = (rows["clip"] != clip) | (rows["index"] != places - first[clip])
        if wrong.any():
            raise UserError(
                f"{what}: frame {start + int(np.argmax(wrong))} does not belong to the clip that holds it; {_CURE}"
            )


def _by_shard(frames: npt.NDArray[np.void]) -> Iterator[tuple[int, npt.NDArray[np.void]]]:
    """Runs of rows of one shard. A data set's frames are joined shard by shard."""
    start = 0
    while start < len(frames):
        end = start
        shard = int(frames["shard"][start])
        while end < len(frames):
            chunk = frames["shard"][end : end + _CHUNK]
            other = np.flatnonzero(chunk != shard)
            end += int(other[0]) if len(other) else len(chunk)
            if len(other):
                break
        yield shard, frames[start:end]
        start = end
