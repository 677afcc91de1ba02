"""What lies in a folder or an archive: each real file once, nothing hidden, the same everywhere."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from preparation_support import moving, write_video

import dataset_tool
from conventions.cameras import camera_label
from dataset.preparation.finding import find_sources
from dataset.preparation.frames import open_source
from dataset.preparation.sources import Source
from dataset.reader import open_dataset
from dnnlib.errors import UserError
from dnnlib.listing import files_below, is_hidden, listed
from dnnlib.reading.archives import archive_names
from metrics.clips import list_clips
from tracking.pictures import open_pictures

# What a Mac, a Synology and a Windows disk lay beside 0.png.
LITTER = ("._0.png", "__MACOSX/._0.png", "@eaDir/0.png/thumb.png", "$RECYCLE.BIN/0.png", ".x/0.png")


def _picture(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _write(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _names(root: Path, every_name: bool = False) -> list[str]:
    return [p.relative_to(root).as_posix() for p in files_below(root, every_name)]


@pytest.mark.parametrize("name", [*LITTER, "a/.b", "a/__MACOSX/b/c", "./._a"])
def test_hidden_names(name: str) -> None:
    assert is_hidden(name)


@pytest.mark.parametrize("name", ["a", "./a.b", "a/b.c", "../a", "MACOSX/a", "a./b"])
def test_names_to_be_seen(name: str) -> None:
    assert not is_hidden(name)


def test_links_to_folders_above_and_beside(tmp_path: Path) -> None:
    _write(tmp_path / "a/x.mp4")
    _write(tmp_path / "b/y.mp4")
    (tmp_path / "a/up").symlink_to("..")
    (tmp_path / "a/again").symlink_to(tmp_path)
    (tmp_path / "b/a").symlink_to(tmp_path / "a")
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "gone").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert _names(tmp_path) == ["a/x.mp4", "b/y.mp4"]


def test_links_up_and_into_the_kernel_are_passed_over(tmp_path: Path) -> None:
    _write(tmp_path / "beside/y.mp4")
    _write(tmp_path / "in/a/x.mp4")
    (tmp_path / "in/a/up").symlink_to("../..")
    (tmp_path / "in/all").symlink_to("/")
    (tmp_path / "in/kernel").symlink_to("/proc")
    assert _names(tmp_path / "in") == ["a/x.mp4"]


@pytest.mark.parametrize("words", [["info", "/"], ["validate", "/"], ["info", "/../."]])
def test_the_root_of_all_files_is_no_dataset(words: list[str]) -> None:
    result = CliRunner().invoke(dataset_tool.main, words)
    assert result.exit_code == 1 and result.output.count("Error: ") == 1, result.output
    assert "holds all files of this machine; give a folder in it" in result.output


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux' /proc")
@pytest.mark.parametrize("name", ["/proc", "/proc/self", "/proc/self/mem", "/dev/stdin", "/dev"])
def test_what_the_kernel_shows_as_files_is_no_dataset(name: str) -> None:
    result = CliRunner().invoke(dataset_tool.main, ["info", name])
    assert isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code == 1 and result.output.count("Error: ") == 1, result.output


def test_a_file_of_several_names_comes_once(tmp_path: Path) -> None:
    _write(tmp_path / "z.mp4")
    (tmp_path / "a.mp4").symlink_to("z.mp4")  # sorts before: the real name still goes first
    (tmp_path / "c").mkdir()
    os.link(tmp_path / "z.mp4", tmp_path / "c/hard.mp4")
    assert _names(tmp_path) == ["z.mp4"]
    assert sorted(_names(tmp_path, every_name=True)) == ["a.mp4", "c/hard.mp4", "z.mp4"]


def test_what_lies_outside_is_found_through_links(tmp_path: Path) -> None:
    _write(tmp_path / "disk/far/x.mp4")
    _write(tmp_path / "disk/y.mp4")
    root = tmp_path / "in"
    root.mkdir()
    (root / "far").symlink_to(tmp_path / "disk/far")
    (root / "y.mp4").symlink_to(tmp_path / "disk/y.mp4")
    (root / "z.mp4").symlink_to(tmp_path / "disk/y.mp4")
    assert sorted(_names(root)) == ["far/x.mp4", "y.mp4"]


def test_sources_of_a_folder_with_links_and_litter(tmp_path: Path) -> None:
    video = write_video(tmp_path / "in/anna/v.mp4", moving(2))
    (tmp_path / "in/anna/up").symlink_to("..")
    (tmp_path / "in/v2.mp4").symlink_to(video)
    for name in ("0.png", *LITTER):
        _write(tmp_path / "in/photos" / name, _picture())
    (tmp_path / "in/same").symlink_to("photos")
    found = find_sources(tmp_path / "in")
    assert [(s.name, s.kind) for s in found] == [("anna/v.mp4", "video"), ("photos", "images")]
    with open_source(found[1], 4096, 0.0) as pictures:
        assert len(list(pictures.frames)) == 1


@pytest.mark.parametrize("kind", ["pictures.zip", "pictures.tar", "pictures.tgz"])
@pytest.mark.parametrize("prefix", ["", "people/anna/", "./"])
def test_litter_in_archives_is_passed_over(tmp_path: Path, kind: str, prefix: str) -> None:
    path = tmp_path / kind
    members = {prefix + name: _picture() for name in ("0.png", "1.png")}
    members |= {prefix + name: b"attributes" for name in LITTER}
    if kind.endswith("zip"):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz" if kind.endswith("gz") else "w") as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    assert archive_names(path) == [prefix + "0.png", prefix + "1.png"]
    (source,) = find_sources(path)
    with open_source(source, 4096, 0.0) as pictures:
        assert len(list(pictures.frames)) == 2


@pytest.mark.parametrize("packed", [False, True])
def test_litter_in_eg3d_data_is_passed_over(tmp_path: Path, packed: bool) -> None:
    label = camera_label(0.1, 0.0).tolist()
    files = {"0/0.png": _picture(), **{f"0/{n}": b"attributes" for n in LITTER}}
    files["dataset.json"] = json.dumps({"labels": [["0/0.png", label]]}).encode()
    if packed:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        for name, content in files.items():
            _write(tmp_path / "set.zip" / name, content)
    data = open_dataset(tmp_path / "set.zip")
    assert len(data.frames) == 1 and data.image(0).shape == (3, 64, 64)


def test_litter_shifts_no_pairs(tmp_path: Path) -> None:
    for name in ("0.png", *LITTER, "1.png"):
        _write(tmp_path / "ref/clip" / name, _picture())
    assert [p.name for p in open_pictures(tmp_path / "ref/clip").files] == ["0.png", "1.png"]
    (tmp_path / "ref/__MACOSX").mkdir()
    assert list(list_clips(tmp_path / "ref")) == ["clip"]


def test_parts_and_links_of_one_video_show_one_person(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", moving(2))
    (tmp_path / "w.mp4").symlink_to("v.mp4")
    rows = [
        "path,start_s,end_s,identity",
        "v.mp4,0,1,",
        "v.mp4,5,6,",
        "w.mp4,2,3,",
        "v.mp4,8,9,eve",
    ]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    people = {s.name: s.identity for s in find_sources(tmp_path / "list.csv")}
    assert people.pop("v.mp4@8") == "eve"  # what the list says counts
    assert len(set(people.values())) == 1


def test_what_is_no_file_is_called_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(UserError, match="a pipe, not a file"):
        open_pictures(tmp_path / "pipe.mp4")
    with pytest.raises(UserError, match="cannot be read"):
        listed(tmp_path / "nowhere")
    (tmp_path / "folder.mp4").mkdir()
    source = Source("folder.mp4", str(tmp_path / "folder.mp4"))
    with pytest.raises(UserError, match="is a folder"), open_source(source, 4096, 0.0):
        pass
