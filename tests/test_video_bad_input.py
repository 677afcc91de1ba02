"""Every kind of bad input ends in one sentence of the report and stops no other clip."""

from __future__ import annotations

import errno
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from preparation_support import moving, portrait, prepared, tree, write_video

from dataset.reader import open_dataset
from dataset.upkeep.validate import validate
from dnnlib.errors import UserError
from dnnlib.reading.archives import read_member


def _records(dest: Path) -> dict[str, Any]:
    report = json.loads((dest / "report.json").read_text(encoding="utf-8"))
    return {v["name"]: v for v in report["videos"]}


def _sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def _bad_folder(folder: Path) -> dict[str, str]:
    """Fills the folder; name -> words of the expected sentence."""
    good = write_video(folder / "good.mp4", moving(8))
    content = good.read_bytes()
    (folder / "truncated.mp4").write_bytes(content[: len(content) // 2])
    (folder / "zero.mp4").touch()
    (folder / "text.mp4").write_text("this is no video")
    _sound_only(folder / "sound.mp4")
    write_video(folder / "one frame.mp4", moving(1))
    write_video(folder / "no face.mp4", [np.full((96, 96, 3), 90 + i, np.uint8) for i in range(8)])
    write_video(folder / "tiny.mp4", [portrait(16)] * 8)
    (folder / "images").mkdir()
    (folder / "images" / "0.png").write_bytes(b"no image")
    return {
        "truncated.mp4": "cannot be read as a video",
        "zero.mp4": "is empty",
        "text.mp4": "cannot be read as a video",
        "sound.mp4": "has no video stream",
        "one frame.mp4": "gave no clip of 4 frames",
        "no face.mp4": "shows no face",
        "tiny.mp4": "16 x 16 pixels",
        "images": "cannot be read as a picture",
    }


def test_each_bad_video_gets_a_sentence_and_the_good_one_is_kept(tmp_path: Path) -> None:
    expected = _bad_folder(tmp_path / "in")
    summary = prepared(tmp_path / "in", tmp_path / "out")
    assert summary.complete and summary.n_rejected == len(expected)
    records = _records(tmp_path / "out")
    for name, words in expected.items():
        problem = records[name]["problem"]
        assert words in problem, f"{name}: {problem!r}"
        assert name in problem and "\n" not in problem and records[name]["status"] == "rejected"
    assert records["good.mp4"]["kept"] == 8 and records["good.mp4"]["problem"] == ""
    assert validate(tmp_path / "out") == []
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "shows no face" in page and "good.mp4" in page
    # The rejected ones count as done: the same command has nothing left to do.
    before = tree(tmp_path / "out")
    again = prepared(tmp_path / "in", tmp_path / "out")
    assert again.n_done_before == len(expected) + 1 and tree(tmp_path / "out") == before


def test_a_video_that_breaks_off_keeps_what_is_there(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mkv", moving(40), format="matroska").read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.mkv").write_bytes(whole[: int(len(whole) * 0.6)])
    prepared(tmp_path / "in", tmp_path / "out")
    assert 4 <= _records(tmp_path / "out")["broken.mkv"]["kept"] < 40


def test_names_with_spaces_quotes_markup_and_unicode(tmp_path: Path) -> None:
    names = ["with space.mp4", 'it\'s "quoted".mp4', "名前 ü.mp4", "<b>&.mp4", "a:b.mp4", "%d.mp4"]
    content = write_video(tmp_path / "v.mp4", moving(5)).read_bytes()
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / "in" / name).write_bytes(content)
    prepared(tmp_path / "in", tmp_path / "out")
    assert {n for n, r in _records(tmp_path / "out").items() if r["kept"] == 5} == set(names)
    stored = [c["name"].decode() for c in open_dataset(tmp_path / "out").clips]
    assert sorted(stored) == sorted(names)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<b>&.mp4" not in page and "&lt;b&gt;&amp;.mp4" in page


def test_a_video_of_another_suffix_is_found_by_its_content(tmp_path: Path) -> None:
    write_video(tmp_path / "in" / "film.dat", moving(5), format="mp4")
    (tmp_path / "in" / "README.md").write_text("words")
    prepared(tmp_path / "in", tmp_path / "out")
    assert set(_records(tmp_path / "out")) == {"film.dat"}


def test_two_faces_follow_the_larger_and_say_so(tmp_path: Path) -> None:
    frames = []
    for i in range(6):
        frame = np.full((240, 400, 3), 100, np.uint8)
        frame[20:220, 10:210] = portrait(200, shift=i)
        frame[60:190, 250:380] = portrait(130, shift=i)
        frames.append(frame)
    write_video(tmp_path / "in" / "two.mp4", frames)
    prepared(tmp_path / "in", tmp_path / "out")
    record = _records(tmp_path / "out")["two.mp4"]
    assert record["kept"] == 6 and any("2 faces" in note for note in record["notes"])
    centre = (32 - open_dataset(tmp_path / "out").label("crop", 0)[1:]) / open_dataset(
        tmp_path / "out"
    ).label("crop", 0)[0]
    assert centre[0] < 210  # the large one is at the left


@pytest.mark.parametrize("check_identity", [False, True])
def test_a_bystander_does_not_take_the_place_of_a_face_that_is_hidden(
    tmp_path: Path, check_identity: bool
) -> None:
    """A face is hidden for half a second beside another, which is turned so that it looks like the same person."""
    frames = []
    for i in range(40):
        frame = np.full((240, 400, 3), 100, np.uint8)
        if not 12 <= i < 25:
            frame[20:220, 10:210] = portrait(200, shift=i % 8)
        frame[60:190, 250:380] = portrait(130, shift=i % 8, mirrored=True)
        frames.append(frame)
    write_video(tmp_path / "in" / "two.mp4", frames)
    prepared(tmp_path / "in", tmp_path / "out", max_gap=20, check_identity=check_identity)
    record = _records(tmp_path / "out")["two.mp4"]
    data = open_dataset(tmp_path / "out")
    crops = [data.label("crop", i) for i in range(len(data.frames))]
    middles = [(32 - crop[1]) / crop[0] for crop in crops]
    assert record["kept"] == 27 and max(middles) < 210  # the driver's, before and after
    assert "13 frames show only others; they are left out" in record["notes"]


def test_a_huge_picture_is_reduced(tmp_path: Path) -> None:
    """8K, as five images: a video of that size would take the encoder a minute."""
    (tmp_path / "in" / "huge").mkdir(parents=True)
    canvas = Image.new("RGB", (7680, 4320), (90, 90, 90))
    canvas.paste(Image.fromarray(portrait(2400)), (2000, 900))
    for i in range(4):
        canvas.save(tmp_path / "in" / "huge" / f"{i}.jpg", quality=80)
    prepared(tmp_path / "in", tmp_path / "out", max_side=2048)
    record = _records(tmp_path / "out")["huge"]
    assert record["kept"] == 4 and record["width"] == 2048


def test_archives(tmp_path: Path) -> None:
    good = write_video(tmp_path / "v.mp4", moving(5)).read_bytes()
    picture = io.BytesIO()
    Image.fromarray(portrait()).save(picture, "PNG")
    folder = tmp_path / "in"
    folder.mkdir()
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("sub/good.mp4", good)
        archive.writestr("../outside.mp4", good)
        archive.writestr("/absolute.mp4", good)
        for i in range(5):
            archive.writestr(f"sequence/{i}.png", picture.getvalue())
    with tarfile.open(folder / "b.tar", "w") as tar:
        link = tarfile.TarInfo("link.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        member = tarfile.TarInfo("inner.mp4")
        member.size = len(good)
        tar.addfile(member, io.BytesIO(good))
    damaged = bytearray((folder / "a.zip").read_bytes())
    damaged[200:260] = bytes(60)  # inside the first member
    (folder / "c.zip").write_bytes(damaged)
    (folder / "d.zip").write_bytes(b"PK no zip")
    prepared(folder, tmp_path / "out")
    records = _records(tmp_path / "out")
    kept = {n for n, r in records.items() if r["kept"]}
    assert kept == {"a.zip/sub/good.mp4", "a.zip/sequence/", "b.tar/inner.mp4", "c.zip/sequence/"}
    assert "points outside" in records["a.zip/../outside.mp4"]["problem"]
    assert "points outside" in records["a.zip//absolute.mp4"]["problem"]
    assert "is a link" in records["b.tar/link.mp4"]["problem"]
    assert "is damaged" in records["c.zip/sub/good.mp4"]["problem"]
    assert "not a readable zip" in records["d.zip"]["problem"]
    assert not (tmp_path / "outside.mp4").exists() and not Path("/absolute.mp4").exists()


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a/../../b.png", "..\\a.png", "C:/a.png"])
def test_members_that_point_outside_are_refused(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(UserError, match="points outside"):
        read_member(tmp_path / "a.zip", name)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the refusal is played."""
    write_video(tmp_path / "in" / "a.mp4", moving(5))
    write_video(tmp_path / "in" / "b.mp4", moving(5))
    true_open = av.open

    def refusing(file: str, *arguments: Any, **options: Any) -> Any:
        if file.endswith("a.mp4"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), file)
        return true_open(file, *arguments, **options)

    monkeypatch.setattr(av, "open", refusing)
    prepared(tmp_path / "in", tmp_path / "out")
    records = _records(tmp_path / "out")
    assert "permission denied" in records["a.mp4"]["problem"] and records["b.mp4"]["kept"] == 5


def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / "in" / name, moving(5))
    prepared(tmp_path / "in", tmp_path / "whole")
    true_write = zipfile.ZipFile.writestr
    calls = []

    def full(self: zipfile.ZipFile, *arguments: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) > 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        true_write(self, *arguments, **options)

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(UserError, match="disk is full"):
        prepared(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out/videos/00000.json").exists()
    assert not (tmp_path / "out/videos/00001.json").exists()  # nothing is noted against b.mp4
    monkeypatch.undo()
    assert prepared(tmp_path / "in", tmp_path / "out").n_done_before == 1
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_nothing_to_prepare(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        prepared(tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no videos"):
        prepared(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "zero.mp4").touch()
    with pytest.raises(UserError, match="no video gave a clip"):
        prepared(tmp_path / "in", tmp_path / "out2")
    assert "is empty" in (tmp_path / "out2" / "report.html").read_text()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file"):
        prepared(tmp_path / "in", tmp_path / "file" / "out")
