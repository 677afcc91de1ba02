"""Videos that are unusual but whole: turned by a flag, very long, or of a head that is seen from the side."""

from __future__ import annotations

import json
import struct
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preparation_support import QUICK, moving, prepared, write_video

from conventions.cameras import camera_label
from dataset.preparation.frames import open_source
from dataset.preparation.options import VideoOptions
from dataset.preparation.sources import Source
from dataset.preparation.tools import Toolbox
from dataset.preparation.video import Job, prepare_video
from dataset.reader import open_dataset
from dataset.synthesis.heads import SyntheticHeads
from dataset.synthesis.motion import units_to_beta
from dnnlib.errors import UserError
from tracking import media

LONG = 10_000  # frames
SIDE = 112  # pixels


def _record(dest: Path) -> dict[str, Any]:
    (record,) = json.loads((dest / "report.json").read_text(encoding="utf-8"))["videos"]
    return dict(record)


# ---- rotation flags ----------------------------------------------------------------------------------------------


def _with_flag(path: Path, clockwise_deg: int) -> None:
    """Write a display rotation into an MP4's track header (ISO 14496-12, 8.3.2), as phones do."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4
    assert (
        content[at] == 0
    )  # version with 32-bit times: the matrix follows 40 bytes of other fields
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[clockwise_deg]
    one = 1 << 16
    matrix = (cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30)
    content[at + 40 : at + 76] = struct.pack(">9i", *matrix)
    path.write_bytes(content)


@pytest.mark.parametrize("clockwise_deg", [90, 180, 270])
def test_a_rotation_flag_gives_the_upright_data_set(
    clockwise_deg: int, tmp_path: Path, cli: Any
) -> None:
    upright = [np.pad(f, ((0, 48), (0, 0), (0, 0)), "edge") for f in moving(6)]  # 160 x 208
    write_video(tmp_path / "upright" / "v.mp4", upright)
    stored = [np.ascontiguousarray(np.rot90(f, clockwise_deg // 90)) for f in upright]
    _with_flag(write_video(tmp_path / "turned" / "v.mp4", stored), clockwise_deg)
    prepared(tmp_path / "upright", tmp_path / "expected")
    options = [f"--set={k}={str(v).lower()}" for k, v in QUICK.items()]
    places = ("--source", tmp_path / "turned", "--dest", tmp_path / "out", "--workers", "0")
    result = cli("dataset_tool.py", "video", *places, *options)
    assert result.returncode == 0, result.stderr
    record = _record(tmp_path / "out")
    assert (record["width"], record["height"], record["kept"]) == (160, 208, 6)
    data, expected = open_dataset(tmp_path / "out"), open_dataset(tmp_path / "expected")
    for i in range(6):
        # The encoder saw other blocks: the face may lie half a pixel of the 64 elsewhere.
        np.testing.assert_allclose(
            data.label("landmarks", i), expected.label("landmarks", i), atol=0.01
        )
        difference = data.image(i).astype(int) - expected.image(i).astype(int)
        assert np.abs(difference).mean() < 6  # noise of two codings; a turned face differs by 40


# ---- 10,000 frames -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 s of a face, 112 x 112 pixels."""
    frames = moving(12, SIDE)
    folder = tmp_path_factory.mktemp("long")
    return write_video(folder / "long.mp4", [frames[i // 25 % 12] for i in range(LONG)])


@pytest.fixture
def pictures_alive(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many decoded pictures somebody still holds; they are what fills a memory."""
    references: list[weakref.ref[np.ndarray]] = []
    decoded = media.shown_picture

    def counted(*arguments: Any) -> np.ndarray:
        image = decoded(*arguments)
        references.append(weakref.ref(image))
        return image

    monkeypatch.setattr(media, "shown_picture", counted)
    return lambda: sum(reference() is not None for reference in references)


def test_ten_thousand_frames_are_a_stream(
    long_video: Path, pictures_alive: Callable[[], int]
) -> None:
    alive = []
    with open_source(Source("long.mp4", str(long_video)), 4096, 0) as pictures:
        assert pictures.expected == LONG
        for n_read, frame in enumerate(pictures.frames, 1):
            assert frame.index == n_read - 1
            if n_read % 1000 == 0:
                alive.append(pictures_alive())
    assert n_read == LONG and len(alive) == 10
    assert max(alive) <= 3  # this one, the one before, the first


def test_ten_thousand_frames_are_prepared_as_a_stream(
    long_video: Path, tmp_path: Path, pictures_alive: Callable[[], int]
) -> None:
    """All frames are decoded; every fiftieth is tracked, which keeps this short."""
    options = VideoOptions(**{**QUICK, "max_fps": 0.5})
    job, alive = Job(0, Source("long.mp4", str(long_video)), 0), []
    record = prepare_video(
        job, tmp_path, options, Toolbox(options), lambda _: alive.append(pictures_alive())
    )
    assert record["kept"] == record["frames"] == LONG // 50 and record["problem"] == ""
    assert len(alive) == 4  # one look every 50 frames
    # Two stages look ahead by five frames each, a clip begins with four, and a few are in hand.
    assert max(alive) <= 24


def test_ten_thousand_frames_without_a_face_are_one_sentence(tmp_path: Path, cli: Any) -> None:
    blank = [np.full((48, 48, 3), 60 + 10 * i, np.uint8) for i in range(12)]
    write_video(tmp_path / "in" / "wall.mp4", [blank[i // 25 % 12] for i in range(LONG)])
    write_video(tmp_path / "in" / "good.mp4", moving(5))
    options = [f"--set={k}={str(v).lower()}" for k, v in {**QUICK, "max_fps": 1}.items()]
    options.append("--set=min_frames=1")
    places = ("--source", tmp_path / "in", "--dest", tmp_path / "out", "--workers", "0")
    result = cli("dataset_tool.py", "video", *places, *options)
    assert result.returncode == 0, result.stderr
    videos = json.loads((tmp_path / "out" / "report.json").read_text())["videos"]
    records = {v["name"]: v for v in videos}
    assert records["wall.mp4"]["rejected"] == {"no_face": LONG // 25}
    problem = records["wall.mp4"]["problem"]
    assert problem == "wall.mp4 shows no face; give videos of faces from the front"
    assert records["good.mp4"]["kept"] == 1


# ---- seen from the side ------------------------------------------------------------------------------------------


def _head(path: Path, yaws_deg: Iterable[float]) -> Path:
    """A synthetic head, 160 x 160 pixels, as seen from these sides one after the other."""
    heads = SyntheticHeads(seed=3, cache_size=1)
    labels = [camera_label(np.deg2rad(yaw), 0.0) for yaw in yaws_deg]
    return write_video(
        path, [np.asarray(heads.render(1, units_to_beta(), label, 160).image) for label in labels]
    )


def test_profile_only_is_one_sentence_and_stops_no_other_clip(tmp_path: Path) -> None:
    _head(tmp_path / "in" / "profile.mp4", np.linspace(80, 110, 8))
    write_video(tmp_path / "in" / "good.mp4", moving(5))
    prepared(tmp_path / "in", tmp_path / "out")
    videos = json.loads((tmp_path / "out" / "report.json").read_text())["videos"]
    records = {v["name"]: v for v in videos}
    assert records["profile.mp4"]["rejected"] == {"no_face": 8}
    problem = records["profile.mp4"]["problem"]
    assert problem == "profile.mp4 shows no face; give videos of faces from the front"
    assert records["good.mp4"]["kept"] == 5


def test_a_head_that_turns_away_is_kept_while_it_is_seen(tmp_path: Path) -> None:
    _head(tmp_path / "in" / "turns.mp4", np.linspace(0, 110, 23))  # by 5 degrees a frame
    prepared(tmp_path / "in", tmp_path / "out", max_yaw_deg=30)
    record = _record(tmp_path / "out")
    rejected = dict(record["rejected"])
    # A tracker's yaw is some degrees off, and smoothing looks five frames ahead.
    assert 5 <= record["kept"] <= 9 and rejected["turned_away"] >= 2
    assert rejected.pop("no_face") >= 6  # from 80 degrees on at the latest
    assert record["kept"] + record["rejected"]["no_face"] + rejected["turned_away"] <= 23
    with pytest.raises(UserError, match="no video gave a clip"):
        prepared(tmp_path / "in", tmp_path / "none", max_yaw_deg=0)
    problem = _record(tmp_path / "none")["problem"]
    assert problem.startswith("turns.mp4 gave no clip of 4 frames")
