"""A part that is not what it claims must not become a data set: zeros, lost rows, changed bytes, NaN."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_data_format import spec, write_shard

from dataset.eg3d import export_eg3d
from dataset.joining import finalise
from dataset.reader import open_dataset
from dataset.verify import verify_dataset, verify_part
from dataset.writer import ShardWriter, shard_path
from dnnlib.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for shard in (0, 1):
        write_shard(tmp_path / "heads", shard)
    finalise(tmp_path / "heads")
    return tmp_path / "heads"


def _zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _change_byte(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x40
    path.write_bytes(content)


def test_good_parts_pass(folder: Path, tmp_path: Path) -> None:
    for shard in (0, 1):
        found, n_clips, n_frames = verify_part(folder, shard)
        assert (found, n_clips, n_frames) == (spec(), 2, 5)
    verify_dataset(open_dataset(folder))
    for name in ("copy.zip", "copy"):
        export_eg3d(open_dataset(folder), tmp_path / name)
        verify_dataset(open_dataset(tmp_path / name))


def test_a_part_without_frames_is_a_part(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 0, spec()):
        pass
    assert verify_part(tmp_path, 0)[1:] == (0, 0)


@pytest.mark.parametrize("suffix", [".zip", ".frames.npy", ".clips.npy", ".json"])
def test_zeros_of_the_right_size_are_refused(folder: Path, suffix: str) -> None:
    _zeros(shard_path(folder, 1, suffix))
    with pytest.raises(UserError, match=f"00001{suffix}"):
        verify_part(folder, 1)
    verify_part(folder, 0)


@pytest.mark.parametrize("suffix", [".zip", ".frames.npy", ".clips.npy", ".json"])
def test_a_missing_file_is_named(folder: Path, suffix: str) -> None:
    shard_path(folder, 1, suffix).unlink()
    with pytest.raises(UserError, match=f"00001{suffix}"):
        verify_part(folder, 1)


def test_a_changed_byte_of_a_picture_is_found(folder: Path) -> None:
    data = open_dataset(folder)
    row = data.row(7)  # the third frame of shard 1
    _change_byte(shard_path(folder, 1), int(row["depth_offset"]) + int(row["depth_size"]) // 2)
    verify_part(folder, 1, contents=False)  # places and sizes are right
    with pytest.raises(UserError, match=r"depth of frame 2 .* checksum"):
        verify_part(folder, 1)
    with pytest.raises(UserError, match=r"00001\.zip: the depth of frame 2"):
        verify_dataset(data)


def test_a_changed_label_is_found(folder: Path) -> None:
    """One bit of a camera is still a number: only the checksum of the rows can tell."""
    path = shard_path(folder, 0, ".frames.npy")
    _change_byte(path, path.stat().st_size - 40)
    with pytest.raises(UserError, match=r"00000\.frames\.npy .* checksum"):
        verify_part(folder, 0)


@pytest.mark.parametrize(("label", "value"), [("camera", np.nan), ("beta", np.inf)])
def test_labels_that_are_no_numbers_are_found(folder: Path, label: str, value: float) -> None:
    for path in (shard_path(folder, 0, ".frames.npy"), folder / "frames.npy"):
        rows = np.load(path, mmap_mode="r+")
        rows[label][3, 1] = value
        rows.flush()
    marker = shard_path(
        folder, 0, ".json"
    )  # a part of an older version, without checksum of its rows
    summary = json.loads(marker.read_text())
    del summary["frames_sha256"]
    marker.write_text(json.dumps(summary))
    for check in (lambda: verify_part(folder, 0), lambda: verify_dataset(open_dataset(folder))):
        with pytest.raises(UserError, match=f"frame 3 has NaN or infinity in its {label}"):
            check()


def test_parts_of_another_shard_or_count_are_found(folder: Path) -> None:
    for suffix in (".zip", ".frames.npy", ".clips.npy", ".json"):
        shutil.copy(shard_path(folder, 1, suffix), shard_path(folder, 2, suffix))
    with pytest.raises(UserError, match=r"frame 0 belongs to shard 1"):
        verify_part(folder, 2)
    marker = shard_path(folder, 0, ".json")
    marker.write_text(marker.read_text().replace('"n_frames": 5', '"n_frames": 4'))
    with pytest.raises(UserError, match=r"00000\.frames\.npy does not fit"):
        verify_part(folder, 0)


def test_clips_that_do_not_add_up_are_found(folder: Path) -> None:
    clips = np.load(folder / "clips.npy")
    clips["n_frames"][0] += 1
    np.save(folder / "clips.npy", clips)
    with pytest.raises(UserError, match="do not add up"):
        verify_dataset(open_dataset(folder))
