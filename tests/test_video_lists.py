"""Clip lists, layouts, imported results: what is prepared, and whose face it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from preparation_support import moving, portrait, prepared, write_video

from conventions.cameras import from_deep3d
from conventions.spaces import BFM64
from dataset.preparation.finding import find_sources
from dataset.preparation.results import ImportedResults, measured
from dataset.preparation.sources import identity_of
from dataset.reader import open_dataset
from dnnlib.errors import UserError


@pytest.mark.parametrize(
    ("name", "identity"),
    [
        ("dev/id10001/1zcIwhmdeo4/00001.mp4", "voxceleb:id10001"),
        ("Clip+--O8EQQ1vxc+P0+C0+F3203-3354", "vfhq:--O8EQQ1vxc+P0"),
        ("Clip+--O8EQQ1vxc+P1+C4+F1-9.mp4", "vfhq:--O8EQQ1vxc+P1"),
        ("train/--Y9imYnfBw_0000_S0_E271_L504_T63_R792_B351.mp4", "talkinghead1kh:--Y9imYnfBw"),
        ("holiday/me.mp4", "holiday/me.mp4"),
    ],
)
def test_names_tell_who_is_seen(name: str, identity: str) -> None:
    assert identity_of(name, "auto") == identity
    assert identity_of(name, "file") == name


def test_celebvhq_names_and_folders_on_request() -> None:
    assert identity_of("M2Ohb0FAaJU_1.mp4", "celebvhq") == "celebvhq:M2Ohb0FAaJU"
    assert identity_of("anna/1.mp4", "folder") == identity_of("anna/2.mp4", "folder") == "anna"


def test_clips_of_one_person_share_identity_and_split(tmp_path: Path) -> None:
    content = write_video(tmp_path / "v.mp4", moving(4)).read_bytes()
    for name in ("id10001/a/1.mp4", "id10001/b/1.mp4", "id10002/a/1.mp4"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    prepared(tmp_path / "in", tmp_path / "out", val=0.3, test=0.3)
    clips = open_dataset(tmp_path / "out").clips
    assert list(clips["identity"]) == [0, 0, 2] and clips["split"][0] == clips["split"][1]


def test_csv_with_times_and_boxes(tmp_path: Path) -> None:
    frames = []
    for i in range(50):
        frame = np.full((200, 400, 3), 100, np.uint8)
        frame[20:180, 20:180] = portrait(160, shift=i % 12)
        frame[40:160, 260:380] = portrait(120, shift=i % 12, mirrored=True)
        frames.append(frame)
    write_video(tmp_path / "videos/v.mp4", frames)
    (tmp_path / "list.csv").write_text(
        "path,name,start_s,end_s,left,top,right,bottom,identity,split\n"
        "videos/v.mp4,right,0.4,0.8,250,30,390,170,bob,val\n"
        "videos/v.mp4,left,1.2,1.6,0,0,0.5,1,anna,\n"
        "videos/none.mp4,gone,,,,,,,carl,\n"
    )
    prepared(tmp_path / "list.csv", tmp_path / "out")
    data = open_dataset(tmp_path / "out")
    rows = {c["name"].decode(): c for c in data.clips}
    assert set(rows) == {"left", "right"} and rows["right"]["split"] == 1
    assert rows["right"]["n_frames"] == 10 and rows["left"]["n_frames"] == 10
    for name, low, high in (("right", 260, 380), ("left", 20, 180)):
        scale, x, _ = data.label("crop", int(rows[name]["first_frame"]))
        assert low < (32 - x) / scale < high  # the crop's centre, in the video's pixels
    # Frame 30 of the video is the first after 1.2 s.
    whole = prepared(tmp_path / "videos", tmp_path / "whole")
    assert whole.n_kept == 50
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert "does not exist" in next(v for v in report["videos"] if v["name"] == "gone")["problem"]


def test_lists_of_the_public_data_sets(tmp_path: Path) -> None:
    (tmp_path / "RD_annotion_time.txt").write_text(
        "Radio11.mp4 00:30-01:00 01:30-02:30\nRadio2.mp4 1:00:05-1:00:20\n"
    )
    found = find_sources(tmp_path / "RD_annotion_time.txt")
    assert [(s.name, s.start_s, s.end_s) for s in found] == [
        ("Radio11_0", 30.0, 60.0),
        ("Radio11_1", 90.0, 150.0),
        ("Radio2_0", 3605.0, 3620.0),
    ]
    assert found[0].identity == found[1].identity == "hdtf:Radio11"
    box = {"top": 0.1, "bottom": 0.7, "left": 0.2, "right": 0.6}
    clip = {"ytb_id": "M2Ohb0FAaJU", "duration": {"start_sec": 81.6, "end_sec": 86.2}, "bbox": box}
    (tmp_path / "celebvhq_info.json").write_text(json.dumps({"clips": {"M2Ohb0FAaJU_1": clip}}))
    (source,) = find_sources(tmp_path / "celebvhq_info.json")
    assert source.box == (0.2, 0.1, 0.6, 0.7) and source.start_s == 81.6
    (tmp_path / "train_video_tubes.txt").write_text(
        "--Y9imYnfBw_0000, 720, 1280, 0, 271, 504, 63, 792, 351\n"
    )
    (tube,) = find_sources(tmp_path / "train_video_tubes.txt")
    assert tube.box == (504, 63, 792, 351) and tube.box_size == (1280, 720)
    assert tube.end_s == pytest.approx(271 / 25) and tube.identity == "talkinghead1kh:--Y9imYnfBw"


def _voxceleb(rows: list[tuple[int, float, float, float, float]], digits: int) -> str:
    lines = [f"{f:06d}\t" + "\t".join(f"{v:.{digits}f}" for v in values) for f, *values in rows]
    head = ["Identity  : \tid10001", "Reference : \tabc_DEF-123", "Offset    : \t-2"]
    head += ["FV Conf   : \t16.140\t(1)", "ASD Conf  : \t5.142", "", "FRAME\tX\tY\tW\tH \t"]
    return "\n".join([*head, *lines]) + "\n"


@pytest.mark.parametrize("shares", [False, True])
def test_voxceleb_boxes_are_followed_in_time(tmp_path: Path, shares: bool) -> None:
    """Two people change places in the middle; the smaller one is described, as in VoxCeleb1 or in VoxCeleb2."""
    frames = []
    for i in range(50):
        frame = np.full((200, 400, 3), 100, np.uint8)
        big, small = portrait(160, shift=i % 12), portrait(120, shift=i % 12, mirrored=True)
        x_big, x_small = (20, 260) if i < 25 else (220, 20)
        frame[20:180, x_big : x_big + 160] = big
        frame[40:160, x_small : x_small + 120] = small
        frames.append(frame)
    folder = tmp_path / "in" / "id10001"
    write_video(folder / "abc_DEF-123.mp4", frames)
    unit = (400, 200) if shares else (1, 1)
    rows = [
        (i, x / unit[0], 40 / unit[1], 160 / unit[0], 120 / unit[1])  # beyond the picture's edge
        for i in range(10, 41)
        for x in ([250] if i < 25 else [10])
    ]
    (folder / "abc_DEF-123").mkdir()
    track = folder / "abc_DEF-123" / "00001.txt"
    track.write_text(_voxceleb(rows, 3 if shares else 0))
    (folder / "notes.txt").write_text("no track")
    prepared(tmp_path / "in", tmp_path / "out")
    data = open_dataset(tmp_path / "out")
    name = "id10001/abc_DEF-123/00001.txt"
    assert [(c["name"].decode(), c["n_frames"]) for c in data.clips] == [
        (name, 15),
        (f"{name}#1", 16),
    ]
    centres = [(32 - x) / scale for scale, x, _ in (data.label("crop", i) for i in range(31))]
    assert all(290 < c < 350 for c in centres[:15]) and all(50 < c < 110 for c in centres[15:])
    (source,) = find_sources(track)  # the file by itself
    assert source.identity == "voxceleb:id10001" and source.path == str(folder / "abc_DEF-123.mp4")
    assert (source.start_s, source.end_s) == pytest.approx((0.4, 1.64))
    assert source.box_at(0.99) == source.track[15][1] != source.box_at(0.9)


def test_voxceleb_files_without_their_video_or_with_a_broken_line(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "id10001" / "abc_DEF-123"
    write_video(folder / "00001.mp4", moving(5))  # cut already: the text says nothing new
    (folder / "00001.txt").write_text(_voxceleb([(0, 1, 1, 50, 50)], 0))
    assert [s.name for s in find_sources(tmp_path / "in")] == ["id10001/abc_DEF-123/00001.mp4"]
    (folder / "00002.txt").write_text(_voxceleb([], 0) + "000007 1 2 x 4\n")
    (folder / "00003.txt").write_text(_voxceleb([(0, 1, 1, 0, 50)], 0))
    (folder / "00004.txt").write_text(_voxceleb([], 0))
    prepared(tmp_path / "in", tmp_path / "out")
    report = json.loads((tmp_path / "out/report.json").read_text())
    problems = {v["name"][-9:]: v["problem"] for v in report["videos"]}
    assert problems["00001.mp4"] == ""
    assert "00002.txt, line 8: not of the form FRAME X Y W H" in problems["00002.txt"]
    assert "00003.txt, line 8: the frame or the box is out of range" in problems["00003.txt"]
    assert "has no boxes" in problems["00004.txt"]
    with pytest.raises(UserError, match="line 8: not of the form"):
        find_sources(folder / "00002.txt")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "file\nx.mp4\n", "no column path"),
        ("a.csv", "path,start\nx.mp4,1\n", "unknown column start"),
        ("a.csv", "path,start_s,end_s\nx.mp4,5,2\n", "line 2: the part from 5.0 to 2.0"),
        ("a.csv", "path,start_s\nx.mp4,soon\n", "start_s is 'soon'"),
        ("a.csv", "path,left,top,right,bottom\nx.mp4,5,0,2,9\n", "the box"),
        ("a.csv", "path,split\nx.mp4,holdout\n", "no split 'holdout'"),
        ("a.csv", "path\nx.mp4\nx.mp4\n", "names x.mp4 twice"),
        ("a.jsonl", "{no\n", "line 1 is damaged"),
        ("a.json", "{}", "celebvhq_info.json"),
        ("a.txt", "v.mp4 02:00-01:00\n", "is empty"),
    ],
)
def test_broken_lists_name_the_line(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words):
        find_sources(tmp_path / name)


# ---- results of other trackers -----------------------------------------------------------------------------------


def _deep3d(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "exp": rng.normal(size=(n, 64)),
        "angle": rng.normal(size=(n, 3)) * 0.1,
        "trans": rng.normal(size=(n, 3)) * 0.1,
        "id": rng.normal(size=(n, 80)),
    }


def test_deep3d_results_are_stored_as_they_are(tmp_path: Path) -> None:
    write_video(tmp_path / "in/v.mp4", moving(6))
    values = _deep3d(6)
    values["exp"][2] = np.nan  # a frame that the other tracker gave up
    for i in range(6):
        folder = tmp_path / "results" / "v"
        folder.mkdir(parents=True, exist_ok=True)
        scipy.io.savemat(folder / f"{i}.mat", {k: v[i : i + 1] for k, v in values.items()})
    prepared(tmp_path / "in", tmp_path / "out", results=str(tmp_path / "results"), max_fit=10)
    data = open_dataset(tmp_path / "out")
    assert data.space == BFM64 and len(data) == 5
    kept = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(
        np.stack([data.beta(i) for i in range(5)]), values["exp"][kept].astype(np.float32)
    )
    # Cameras are smoothed as those of any tracker: near the stored ones, but not equal.
    stored = from_deep3d(values["angle"][0], values["trans"][0])
    assert np.abs(data.camera(0)[:16] - stored[:16]).max() < 0.5
    betas, cameras = measured(values, Path("x"))
    assert betas.shape == (6, 64) and cameras is not None
    np.testing.assert_array_equal(cameras[0], stored)
    coefficients = np.zeros((2, 257))
    coefficients[:, 80:144] = values["exp"][:2]
    again, _ = measured({"coeff": coefficients}, Path("x"))
    np.testing.assert_array_equal(again, betas[:2])


def test_flame_parameters_are_an_opaque_space(tmp_path: Path) -> None:
    write_video(tmp_path / "in/a.mp4", moving(5))
    write_video(tmp_path / "in/b.mp4", moving(5))
    (tmp_path / "results").mkdir()
    expression = np.random.default_rng(1).normal(size=(5, 50)).astype(np.float32)
    jaw = np.full((5, 3), 0.25, np.float32)
    np.savez(tmp_path / "results/a.npz", expression=expression, jaw_pose=jaw)
    prepared(tmp_path / "in", tmp_path / "out", results=str(tmp_path / "results"))
    data = open_dataset(tmp_path / "out")
    assert data.space is not None and data.space.dim == 53 and data.space.tracker == "imported"
    np.testing.assert_array_equal(data.beta(3), [*expression[3], *jaw[3]])
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert "b.mp4 has no results" in report["videos"][1]["problem"]


def _rows(path: Path, n: int) -> None:
    """Results whose number 0 of row i is i."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, expression=np.arange(n, dtype=np.float32)[:, None] * np.ones((1, 50)))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_results_follow_the_number_in_the_video(tmp_path: Path, suffix: str) -> None:
    write_video(tmp_path / f"in/v{suffix}", moving(40))  # 25 a second
    _rows(tmp_path / "results/v.npz", 40)
    prepared(tmp_path / "in", tmp_path / "out", results=str(tmp_path / "results"), max_fps=10)
    data = open_dataset(tmp_path / "out")
    assert len(data) == 16
    for i in range(16):
        assert data.beta(i)[0] == round(float(data.row(i)["time_s"]) * 25)


@pytest.mark.parametrize("start_s", [0.4, 7.2])  # 7.2: the reader seeks
@pytest.mark.parametrize("max_fps", [0, 10])
def test_results_of_a_part_count_its_own_frames(
    tmp_path: Path, start_s: float, max_fps: float
) -> None:
    write_video(tmp_path / "v.mp4", moving(220))
    (tmp_path / "list.csv").write_text(
        f"path,name,start_s,end_s\nv.mp4,p,{start_s},{start_s + 0.8}"
    )
    _rows(tmp_path / "results/p.npz", 20)
    prepared(
        tmp_path / "list.csv", tmp_path / "out", results=str(tmp_path / "results"), max_fps=max_fps
    )
    data = open_dataset(tmp_path / "out")
    assert len(data) == (8 if max_fps else 20)
    for i in range(len(data)):
        assert data.beta(i)[0] == round(float(data.row(i)["time_s"]) * 25)


def test_results_are_found_by_the_whole_name_and_compared_in_length(tmp_path: Path) -> None:
    for name in ("in/anna/1.mp4", "in/eve/1.mp4", "in/long.mp4"):
        write_video(tmp_path / name, moving(4))
    _rows(tmp_path / "results/1.npz", 4)
    _rows(tmp_path / "results/anna/1.npz", 4)
    _rows(tmp_path / "results/long.npz", 3)
    prepared(tmp_path / "in", tmp_path / "out", results=str(tmp_path / "results"))
    report = json.loads((tmp_path / "out/report.json").read_text())["videos"]
    problems = {v["name"]: v["problem"] for v in report}
    assert problems["anna/1.mp4"] == ""
    assert "has no results" in problems["eve/1.mp4"] and "add eve/1.npz" in problems["eve/1.mp4"]
    assert "has 3 rows for the 4 frames" in problems["long.mp4"]
    (tmp_path / "in/list.csv").write_text("path,start_s,end_s\nlong.mp4,0.04,0.16")
    with pytest.raises(UserError, match="no video gave a clip"):
        prepared(tmp_path / "in/list.csv", tmp_path / "part", results=str(tmp_path / "results"))
    report = json.loads((tmp_path / "part/report.json").read_text())["videos"]
    assert "long.mp4@0.04 has no results" in report[0]["problem"]


def test_results_that_cannot_be_imported(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    with pytest.raises(UserError, match="does not exist"):
        ImportedResults(folder)
    folder.mkdir()
    with pytest.raises(UserError, match=r"holds no \.npz"):
        ImportedResults(folder)
    np.savez(folder / "a.npz", pose=np.zeros((3, 3)))
    with pytest.raises(UserError, match="holds pose but neither"):
        ImportedResults(folder)
    np.savez(folder / "a.npz", expression=np.array([{"an": "object"}], dtype=object))
    with pytest.raises(UserError, match="holds objects"):
        ImportedResults(folder)
    (folder / "b.pkl").write_bytes(b"x")
    with pytest.raises(UserError, match="is a pickle"):
        ImportedResults(folder)
