"""Shards into a whole data set, and what is removed of one."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from dataset.spec import CLIP_DTYPE, DatasetSpec, frame_dtype
from dataset.verify import PART_KEYS, read_part, verify_part
from dataset.writer import LEFT_OUT_KEY, dump_json, shard_path
from dnnlib.errors import UserError
from dnnlib.files import atomic_paths, remove_temporary
from dnnlib.reading.arrays import open_npy

_JOIN_CHUNK = 65536  # frames copied at a time by `finalise`


def finalise(dest: str | os.PathLike[str], n_shards: int | None = None) -> DatasetSpec:
    """Join the shards' rows into clips.npy, frames.npy and dataset.json; memory does not grow with the dataset.

    May be called again when shards were added. Order and bytes depend on the shards only, not on when or by whom
    they were written. An old index is replaced only after every shard has been verified and the new one is whole.

    Args:
        dest: folder of the dataset.
        n_shards: refuse unless the complete shards are exactly 0..n_shards-1; None takes those that are there.

    Raises:
        UserError: there is no complete shard, one is missing or damaged, or two disagree in their specification.
    """
    dest = Path(dest)
    shard_ids = _shard_ids(dest)
    if not shard_ids:
        raise UserError(f"{dest} has no complete shard; write shards with dataset_tool.py first")
    if n_shards is not None and shard_ids != list(range(n_shards)):
        missing = sorted(set(range(n_shards)) - set(shard_ids))
        raise UserError(
            f"{dest} has {len(shard_ids)} complete shards, not {n_shards} (missing: {missing[:5]}); "
            "let every writer end, then join again"
        )
    summaries = [read_part(dest, i) for i in shard_ids]
    spec = _common_spec(dest, shard_ids, summaries)
    n_clips, n_frames = (sum(s[key] for s in summaries) for key in ("n_clips", "n_frames"))
    if n_frames == 0:
        raise UserError(f"{dest} holds no frames; check what the writers were given")
    for shard_id in shard_ids:
        verify_part(dest, shard_id)
    names = ("clips.npy", "frames.npy", "dataset.json")
    with atomic_paths(*(dest / n for n in names), marker=True) as (clips, frames, description):
        before = {"first_frame": [s["n_frames"] for s in summaries]}
        _join(clips, dest, shard_ids, ".clips.npy", CLIP_DTYPE, n_clips, before)
        before = {"clip": [s["n_clips"] for s in summaries]}
        _join(frames, dest, shard_ids, ".frames.npy", frame_dtype(spec), n_frames, before)
        dump_json(description, {**spec.to_dict(), "n_clips": n_clips, "n_frames": n_frames})
    return spec


def _shard_ids(dest: Path) -> list[int]:
    """Numbers of the complete shards, ascending.

    Raises:
        UserError: another file has a name that begins like theirs.
    """
    found = []
    for path in (dest / "shards").glob("[0-9]*.json"):
        if (
            not re.fullmatch(r"[0-9]{5,10}", path.stem)
            or shard_path(dest, int(path.stem), ".json") != path
        ):
            raise UserError(f"{path} has no name of a shard, such as 00000.json; remove it")
        found.append(int(path.stem))
    return sorted(found)


def _common_spec(dest: Path, shard_ids: list[int], summaries: list[dict[str, Any]]) -> DatasetSpec:
    first = {k: v for k, v in summaries[0].items() if k not in (*PART_KEYS, LEFT_OUT_KEY)}
    for shard_id, summary in zip(shard_ids, summaries, strict=True):
        if differing := sorted(k for k in first if summary.get(k) != first[k]):
            raise UserError(
                f"{dest}: shard {shard_id} differs from shard {shard_ids[0]} in {', '.join(differing)}; "
                "write all shards with the same settings"
            )
    return DatasetSpec.from_dict(first, str(shard_path(dest, shard_ids[0], ".json")))


def _join(
    out: Path,
    dest: Path,
    shard_ids: list[int],
    suffix: str,
    dtype: np.dtype[np.void],
    total: int,
    shifts: dict[str, list[int]],
) -> None:
    """Write `out` from the shards' rows; field f is shifted by the sum of shifts[f] of earlier shards."""
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (total,),
    }
    sums = {name: np.cumsum([0, *sizes]) for name, sizes in shifts.items()}
    with open(out, "wb") as file:
        np.lib.format.write_array_header_2_0(file, header)
        for number, shard_id in enumerate(shard_ids):
            rows = open_npy(shard_path(dest, shard_id, suffix), "write the shard again")
            for start in range(0, len(rows), _JOIN_CHUNK):
                chunk = np.array(rows[start : start + _JOIN_CHUNK])
                for name, before in sums.items():
                    chunk[name] += before[number]
                chunk.tofile(file)


def remove_leftovers(path: str | os.PathLike[str]) -> int:
    """Delete what killed writers left in a dataset; call it while no writer runs. Returns the count."""
    return sum(remove_temporary(Path(path) / part) for part in ("", "shards", "videos"))
