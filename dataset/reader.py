"""Opening a dataset: this project's folder, or an EG3D folder or zip.

    dataset = open_dataset("heads")
    dataset.image(7), dataset.camera(7), dataset.beta(7)

Opening reads a few kilobytes however many frames there are (EG3D's own format apart, whose labels are one JSON).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np

from conventions.spaces import ExpressionSpace, check_same_space
from dataset.eg3d import read_eg3d
from dataset.frames import FrameDataset, ShardStore
from dataset.spec import CLIP_DTYPE, FORMAT_NAME, DatasetSpec, frame_dtype
from dnnlib.errors import UserError
from dnnlib.reading.arrays import open_npy
from dnnlib.reading.text import read_json


def open_dataset(
    path: str | os.PathLike[str],
    space: ExpressionSpace | None = None,  # refuse a dataset whose beta lives in another space
    eg3d_clips: Literal["auto", "image", "folder"] = "auto",  # see eg3d.read_eg3d
) -> FrameDataset:
    """Open a dataset of this project (a folder) or of EG3D (a folder or zip with dataset.json).

    Raises:
        UserError: there is nothing, it is unfinished or damaged, or its expression space is another.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(
            f"the dataset {path} does not exist; give the folder or zip that dataset_tool.py wrote"
        )
    if path.is_dir() and _is_ours(path):
        dataset = _open_folder(path)
    else:
        dataset = read_eg3d(path, eg3d_clips)
    if space is not None:
        if dataset.space is None:
            raise UserError(
                f"{path} has no expression parameters but {space.name!r} is needed; run dataset_tool.py"
            )
        check_same_space(dataset.space, space, f"the dataset {path}")
    return dataset


def _is_ours(path: Path) -> bool:
    # frames.npy first: an EG3D dataset.json can be hundreds of megabytes and needs no look then.
    if (path / "frames.npy").is_file():
        return True
    return any((path / "shards").glob("[0-9]*.*")) if (path / "shards").is_dir() else False


def _open_folder(path: Path) -> FrameDataset:
    description = path / "dataset.json"
    if not description.is_file():
        raise UserError(
            f"{path} is not finished (it has no dataset.json); join its shards with dataset_tool.py join"
        )
    advice = "join its shards again with dataset_tool.py join"
    values = read_json(description, advice)
    clips = np.array(open_npy(path / "clips.npy", advice))
    frames = open_npy(path / "frames.npy", advice)
    if values.get("format") != FORMAT_NAME:
        raise UserError(
            f"{description} does not describe a dataset of this project; write the dataset again"
        )
    spec = DatasetSpec.from_dict(values, str(description))
    counts = (values.get("n_clips"), values.get("n_frames"))
    if (
        clips.dtype != CLIP_DTYPE
        or frames.dtype != frame_dtype(spec)
        or counts != (len(clips), len(frames))
    ):
        raise UserError(
            f"{path}: dataset.json does not fit its index files; join the shards with dataset_tool.py join"
        )
    return FrameDataset(path, spec, clips, frames, ShardStore(path / "shards"))
