"""Data sets are replaced whole, after every part was verified, or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from test_data_format import spec, write_shard

import dataset_tool
from dataset import joining
from dataset.eg3d import export_eg3d
from dataset.joining import finalise
from dataset.reader import open_dataset
from dataset.upkeep.rearrange import merge, resplit
from dataset.upkeep.validate import validate
from dataset.writer import SHARD_SUFFIXES, ShardWriter, shard_path
from dnnlib.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
INDEX = ("clips.npy", "frames.npy", "dataset.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for shard in (0, 1):
        write_shard(tmp_path / "heads", shard)
    finalise(tmp_path / "heads")
    return tmp_path / "heads"


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _spoil(folder: Path, kind: str) -> None:
    """A part as an unlucky writer or disk leaves it, beside the finished index."""
    if kind == "empty":
        with ShardWriter(folder, 2, spec()):
            pass
        for shard in (0, 1):  # all that is left are no frames
            for suffix in SHARD_SUFFIXES:
                shard_path(folder, shard, suffix).unlink()
        return
    write_shard(folder, 2)
    if kind == "short":
        rows = np.load(shard_path(folder, 2, ".frames.npy"))
        np.save(shard_path(folder, 2, ".frames.npy"), rows[:-1])
    elif kind == "zeros":
        path = shard_path(folder, 2)
        path.write_bytes(bytes(path.stat().st_size))
    elif kind == "half a zip":
        path = shard_path(folder, 2)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "no description":
        shard_path(folder, 2, ".json").write_text("")
    elif kind == "a stranger":
        (folder / "shards" / "1x.json").write_text("{}")


@pytest.mark.parametrize(
    "kind", ["empty", "short", "zeros", "half a zip", "no description", "a stranger"]
)
def test_join_keeps_a_finished_index_beside_a_bad_part(folder: Path, kind: str) -> None:
    _spoil(folder, kind)
    before = _contents(folder)
    done = CliRunner().invoke(dataset_tool.main, ["join", str(folder)])
    assert done.exit_code == 1 and done.output.count("\n") == 1, done.output
    assert "Error: " in done.output and _contents(folder) == before
    assert len(open_dataset(folder)) == 10


class _FullDisk:
    """`os.replace`, fsync and the like work; opening for writing fails from the n-th file on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, suffix: str, n: int) -> None:
        self.left = n
        real = Path.write_bytes
        real_save = np.save

        def write_bytes(path: Path, data: bytes) -> int:
            self.count(str(path), suffix)
            return real(path, data)

        def save(file: Any, *arguments: Any, **options: Any) -> None:
            self.count(str(getattr(file, "name", file)), suffix)
            real_save(file, *arguments, **options)

        monkeypatch.setattr(Path, "write_bytes", write_bytes)
        monkeypatch.setattr(np, "save", save)

    def count(self, name: str, suffix: str) -> None:
        if name.endswith(suffix):
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("there", [False, True])
def test_merge_on_a_full_disk_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    if there:
        (tmp_path / "new").mkdir()
    _FullDisk(monkeypatch, ".npy", 3)  # in the midst of the second shard
    with pytest.raises(UserError, match="the disk is full"):
        merge([folder], tmp_path / "new", clips_per_shard=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == (["heads", "new"] if there else ["heads"])
    assert not there or not any((tmp_path / "new").iterdir())
    monkeypatch.undo()
    assert merge([folder], tmp_path / "new") == 10 and validate(tmp_path / "new") == []


@pytest.mark.parametrize("name", ["new", "new.zip"])
def test_export_on_a_full_disk_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import zipfile

    _FullDisk(monkeypatch, ".png", 4)
    real = zipfile.ZipFile.writestr

    def writestr(archive: Any, info: Any, data: Any) -> None:
        if "img00000004" in info.filename:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(archive, info, data)

    monkeypatch.setattr(zipfile.ZipFile, "writestr", writestr)
    with pytest.raises(UserError, match="the disk is full"):
        export_eg3d(open_dataset(folder), tmp_path / name)
    assert os.listdir(tmp_path) == ["heads"]
    monkeypatch.undo()
    export_eg3d(open_dataset(folder), tmp_path / name)
    assert validate(tmp_path / name) == []


@pytest.mark.parametrize("make", [merge, export_eg3d], ids=["merge", "export"])
def test_damaged_pictures_are_not_copied(folder: Path, tmp_path: Path, make: Any) -> None:
    path = shard_path(folder, 1)
    path.write_bytes(bytes(path.stat().st_size))
    source = [folder] if make is merge else open_dataset(folder)
    with pytest.raises(UserError, match=r"00001\.zip"):
        make(source, tmp_path / "new")
    assert os.listdir(tmp_path) == ["heads"]


def test_join_that_fails_in_its_midst_keeps_the_old_index(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(folder, 2)
    before = {name: (folder / name).read_bytes() for name in INDEX}

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(joining, "dump_json", full)
    with pytest.raises(UserError, match="the disk is full"):
        finalise(folder)
    assert {name: (folder / name).read_bytes() for name in INDEX} == before
    assert not list(folder.rglob(".*.tmp-*"))


def test_split_on_a_full_disk_changes_no_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _contents(folder)
    _FullDisk(monkeypatch, ".npy", 1)
    with pytest.raises(UserError, match="the disk is full"):
        resplit(folder, val=0.3, test=0.3)
    assert _contents(folder) == before


def test_a_shard_that_fails_while_it_closes_keeps_the_old_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _contents(folder)
    _FullDisk(monkeypatch, ".npy", 1)
    with pytest.raises(UserError, match="the disk is full"):
        write_shard(folder, 1, clips=(1,))
    assert _contents(folder) == before


# ---- signals ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stopped_writer_leaves_no_half_shard(tmp_path: Path, workers: str) -> None:
    """The writer's own processes too; the same command goes on afterwards."""
    words = ["synth", str(tmp_path / "d"), "--identities", "40", "--frames-per-clip", "40"]
    process = subprocess.Popen(
        [
            sys.executable,
            "dataset_tool.py",
            *words,
            "--resolution",
            "16",
            "--labels",
            "painted",
            "--workers",
            workers,
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(6000):
        if len(list(tmp_path.rglob(".*.zip"))) == int(workers) or process.poll() is not None:
            break
        time.sleep(0.01)
    assert list(tmp_path.rglob(".*.tmp-*")) and process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in said, said
    assert not list(tmp_path.rglob(".*.tmp-*"))
