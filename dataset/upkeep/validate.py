"""What `dataset_tool.py` does with a finished dataset: describe, check, export."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from dataset.frames import FrameDataset
from dataset.reader import open_dataset
from dataset.spec import SPLITS
from dataset.upkeep.checks import duplicate_problems, face_leak_problems, fit_problems
from dataset.verify import verify_members
from dnnlib.errors import UserError

_MAX_PROBLEMS = 20  # of one kind, in a report
_CHUNK = 65536
_ROTATION_TOLERANCE = 1e-2  # labels of other tools are rounded


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A dataset's main figures, as JSON values.

    Raises:
        UserError: see `open_dataset`.
    """
    dataset = open_dataset(path)
    clips = dataset.clips
    splits = {}
    for split in SPLITS:
        numbers = dataset.clips_of(split)
        splits[split] = {
            "clips": len(numbers),
            "identities": len(np.unique(clips["identity"][numbers])),
            "frames": int(clips["n_frames"][numbers].sum()),
        }
    return {
        "path": str(path),
        "resolution": dataset.resolution,
        "image_codec": dataset.spec.image_codec,
        "channels": list(dataset.channels),
        "expression": None
        if dataset.space is None
        else f"{dataset.space.name} ({dataset.space.dim})",
        "crop": dataset.spec.crop,
        "tracker": dataset.spec.tracker,
        "extra_labels": dataset.spec.extra_labels,
        "clips": len(clips),
        "frames": len(dataset),
        "frames_per_clip": [int(clips["n_frames"].min()), int(clips["n_frames"].max())]
        if len(clips)
        else [0, 0],
        "splits": splits,
        "source": dataset.spec.source,
    }


def validate(
    path: str | os.PathLike[str],
    decode_every: int = 1,  # decode each n-th frame; 0 = none
) -> list[str]:
    """Everything that is wrong with a dataset, one sentence each; an empty list is a good dataset.

    Raises:
        UserError: it cannot even be opened.
    """
    dataset = open_dataset(path)
    problems: list[str] = []
    problems += _capped(_clip_problems(dataset))
    problems += _capped(_label_problems(dataset))
    problems += _capped(_shard_problems(dataset))
    problems += _capped(fit_problems(dataset))
    problems += _capped(face_leak_problems(dataset))
    if decode_every > 0:
        problems += _capped(_picture_problems(dataset, decode_every))
        problems += _capped(duplicate_problems(dataset, decode_every))
    return problems


def _clip_problems(dataset: FrameDataset) -> Iterator[str]:
    clips = dataset.clips
    expected = np.cumsum(clips["n_frames"]) - clips["n_frames"]
    for i in np.flatnonzero(clips["first_frame"] != expected):
        yield f"clip {i} starts at frame {clips['first_frame'][i]} instead of {expected[i]}"
    if int(clips["n_frames"].sum()) != len(dataset):
        yield f"the clips hold {int(clips['n_frames'].sum())} frames but there are {len(dataset)}"
    for i in np.flatnonzero(clips["split"] >= len(SPLITS)):
        yield f"clip {i} is in an unknown split {clips['split'][i]}"
    names, counts = np.unique(clips["name"], return_counts=True)
    for name in names[counts > 1]:
        yield f"the clip name {name.decode(errors='replace')!r} occurs more than once"
    leaks: dict[int, set[int]] = {}
    for identity, split in zip(clips["identity"], clips["split"], strict=True):
        leaks.setdefault(int(identity), set()).add(int(split))
    for identity, splits in leaks.items():
        if identity >= 0 and len(splits) > 1:
            yield f"identity {identity} is in more than one split, so tests would see people of the training"


def _label_problems(dataset: FrameDataset) -> Iterator[str]:
    for start in range(0, len(dataset), _CHUNK):
        rows = np.array(dataset.frames[start : start + _CHUNK])
        labels = [
            "camera",
            *(["beta"] if dataset.space is not None else []),
            *dataset.spec.extra_labels,
        ]
        for name in labels:
            for i in np.flatnonzero(~np.isfinite(rows[name]).all(axis=1)):
                yield f"frame {start + i} has NaN or infinity in its {name}"
        yield from _camera_problems(rows["camera"], start)


def _camera_problems(cameras: npt.NDArray[np.float32], start: int) -> Iterator[str]:
    pose = cameras[:, :16].reshape(-1, 4, 4).astype(np.float64)
    rotation = pose[:, :3, :3]
    off = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    rigid = (off < _ROTATION_TOLERANCE) & (np.linalg.det(rotation) > 0)
    rigid &= np.abs(pose[:, 3] - [0, 0, 0, 1]).max(axis=1) < 1e-5
    for i in np.flatnonzero(~rigid):
        yield f"frame {start + i} has a camera whose pose is not a rotation and a translation"
    for i in np.flatnonzero((cameras[:, 16] <= 0) | (cameras[:, 20] <= 0)):
        yield f"frame {start + i} has a camera whose focal length is not positive"


def _shard_problems(dataset: FrameDataset) -> Iterator[str]:
    folder = dataset.path / "shards"
    if not folder.is_dir():  # an EG3D dataset: its zip was read when it was opened
        return
    shards = set()
    for start in range(0, len(dataset), _CHUNK):
        shards |= set(np.unique(dataset.frames["shard"][start : start + _CHUNK]).tolist())
    for shard in sorted(shards):
        path = folder / f"{shard:05d}.zip"
        try:
            verify_members(path)
        except UserError as error:
            yield str(error)


def _picture_problems(dataset: FrameDataset, every: int) -> Iterator[str]:
    for i in range(0, len(dataset), every):
        for channel in dataset.channels:
            try:
                getattr(dataset, channel)(i)
            except UserError as error:
                yield str(error)


def _capped(problems: Iterator[str]) -> list[str]:
    listed: list[str] = []
    for problem in problems:
        if len(listed) == _MAX_PROBLEMS:
            listed.append("... and more of this kind")
            break
        listed.append(problem)
    return listed
