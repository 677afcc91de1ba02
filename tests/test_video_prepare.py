"""From videos to a data set: what is stored, shots, times, boxes, identities, several processes, kills, privacy."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preparation_support import QUICK, moving, prepared, tree, write_video

from conventions.landmarks import LANDMARKS_70
from dataset.preparation.judge import fit_error
from dataset.preparation.options import VideoOptions
from dataset.preparation.sources import Source
from dataset.preparation.video import Job
from dataset.reader import open_dataset
from dataset.upkeep.validate import validate
from dnnlib.errors import UserError
from dnnlib.files import temporary_beside
from tracking.tracker import Tracker

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three short videos, 12, 10 and 8 frames."""
    folder = tmp_path_factory.mktemp("videos")
    for i, n in enumerate((12, 10, 8)):
        size = 176 if i == 2 else 160  # no picture occurs twice
        write_video(folder / f"{i}.mp4", moving(n, size, mirrored=i == 1))
    return folder


@pytest.fixture(scope="module")
def whole(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their data set, made in one go in this process."""
    dest = tmp_path_factory.mktemp("whole") / "data"
    prepared(videos, dest)
    return dest


def _report(dest: Path) -> dict[str, Any]:
    return dict(json.loads((dest / "report.json").read_text(encoding="utf-8")))


def test_what_is_stored_is_what_the_demo_would_see(videos: Path, whole: Path) -> None:
    data = open_dataset(whole)
    assert len(data) == 30 and validate(whole) == []
    expected = list(Tracker().track_video(videos / "0.mp4", 64))
    for i, frame in enumerate(expected):
        np.testing.assert_array_equal(data.camera(i), frame.camera)
        np.testing.assert_array_equal(data.beta(i), frame.beta)
        points = data.label("landmarks", i).reshape(70, 2) * 64
        np.testing.assert_allclose(points, frame.landmarks[list(LANDMARKS_70), :2], atol=1e-4)
        scale, x, y = data.label("crop", i)
        np.testing.assert_allclose(
            [scale, x, y], frame.transform.matrix[[0, 0, 1], [0, 2, 2]], rtol=1e-5
        )
        # JPEG of quality 95: noise of a few levels
        assert np.abs(data.image(i).transpose(1, 2, 0).astype(int) - frame.crop).mean() < 4
        assert fit_error(data.camera(i), frame.landmarks, 64) < 0.04
        assert np.abs(data.label("gaze", i)).max() < 0.5
    np.testing.assert_allclose(
        [data.row(i)["time_s"] for i in range(12)], np.arange(12) / 25, atol=1e-3
    )
    assert data.spec.crop == Tracker().crop_record and data.spec.tracker == Tracker().record


def test_mirrored_video_has_mirrored_gaze_and_pose(whole: Path) -> None:
    data = open_dataset(whole)
    a, b = data.label("gaze", 0), data.label("gaze", 12)
    # x of the one eye is minus x of the other; two trackings of 64-pixel crops differ by a few hundredths
    np.testing.assert_allclose(a[[0, 2]], -b[[2, 0]], atol=0.08)


def test_report(whole: Path) -> None:
    report = _report(whole)
    assert report["summary"]["frames_kept"] == 30 and report["summary"]["videos_rejected"] == 0
    raw, smoothed = report["summary"]["jitter_px_raw"], report["summary"]["jitter_px_smoothed"]
    assert 0 <= smoothed < raw
    assert (whole / "videos" / "00000.jpg").read_bytes()[:2] == b"\xff\xd8"


def test_two_processes_give_the_same_bytes(videos: Path, whole: Path, tmp_path: Path) -> None:
    prepared(videos, tmp_path / "two", workers=2)
    assert tree(tmp_path / "two") == tree(whole)


def test_parts_of_a_job_array_give_the_same_bytes(
    videos: Path, whole: Path, tmp_path: Path
) -> None:
    first = prepared(videos, tmp_path / "parts", part=(1, 2))
    assert not first.complete and first.n_sources == 1
    assert prepared(videos, tmp_path / "parts", part=(0, 2)).complete
    assert tree(tmp_path / "parts") == tree(whole)


def test_other_options_are_refused_and_new_videos_are_appended(
    videos: Path, whole: Path, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in ("1.mp4", "2.mp4"):
        (source / name).write_bytes((videos / name).read_bytes())
    prepared(source, tmp_path / "out")
    with pytest.raises(UserError, match="other options"):
        prepared(source, tmp_path / "out", resolution=96)
    (source / "0.mp4").write_bytes((videos / "0.mp4").read_bytes())
    summary = prepared(source, tmp_path / "out")
    assert summary.n_done_before == 2 and len(open_dataset(tmp_path / "out")) == 30
    names = [c["name"].decode() for c in open_dataset(tmp_path / "out").clips]
    assert names == ["1.mp4", "2.mp4", "0.mp4"]


def test_shots_are_split_at_cuts_and_long_gaps(tmp_path: Path) -> None:
    blank = [np.full((160, 160, 3), 60, np.uint8)] * 12
    away = [np.roll(f, 70, axis=1) for f in moving(6)]  # a face elsewhere: another shot
    write_video(tmp_path / "in/v.mp4", moving(6) + blank + moving(6, mirrored=True) + away)
    prepared(tmp_path / "in", tmp_path / "out")
    (video,) = _report(tmp_path / "out")["videos"]
    assert [c["frames"] for c in video["clips"]][:2] == [6, 6]
    assert video["rejected"]["no_face"] >= 12 and video["shots"] >= 3
    names = [c["name"] for c in video["clips"]]
    assert names[:2] == ["v.mp4", "v.mp4#1"]


def test_frames_without_a_face_are_left_out_and_times_stay(tmp_path: Path) -> None:
    frames = moving(10)
    frames[4] = frames[5] = np.full((160, 160, 3), 120, np.uint8)
    write_video(tmp_path / "in/v.mp4", frames)
    prepared(tmp_path / "in", tmp_path / "out", min_frames=1)
    times = [
        round(25 * float(r["time_s"])) for r in np.array(open_dataset(tmp_path / "out").frames)
    ]
    assert times == [0, 1, 2, 3, 6, 7, 8, 9]


def test_variable_frame_rate_and_stride(tmp_path: Path) -> None:
    times = [0, 0.04, 0.2, 0.24, 0.28, 0.5, 0.54, 0.58, 1.0, 1.04]
    write_video(tmp_path / "in/v.mp4", moving(10), times=times)
    prepared(tmp_path / "in", tmp_path / "out")
    frames = np.array(open_dataset(tmp_path / "out").frames)
    np.testing.assert_allclose(frames["time_s"], times, atol=2e-3)  # milliseconds in the file
    prepared(tmp_path / "in", tmp_path / "slow", max_fps=10, min_frames=2)
    slow = np.array(open_dataset(tmp_path / "slow").frames)["time_s"]
    assert (np.diff(slow) > 0.09).all() and len(slow) < 8
    prepared(tmp_path / "in", tmp_path / "third", every=3, min_frames=2)
    third = np.array(open_dataset(tmp_path / "third").frames)["time_s"]
    np.testing.assert_allclose(third, times[::3], atol=2e-3)


def test_matte_png_and_limits(tmp_path: Path) -> None:
    write_video(tmp_path / "in/v.mp4", moving(5))
    prepared(tmp_path / "in", tmp_path / "out", matte=True, codec="png")
    data = open_dataset(tmp_path / "out")
    mask = data.mask(0)
    assert mask[20:44, 20:44].mean() > 0.9  # the face is the person
    assert 0.2 < mask.mean() < 0.98 and data.encoded(0)[:4] == b"\x89PNG"
    with pytest.raises(UserError, match="no video gave a clip"):
        prepared(tmp_path / "in", tmp_path / "big", min_face_px=500)
    assert _report(tmp_path / "big")["summary"]["frames_rejected"] == {"small_face": 5}


def test_a_change_of_person_is_found(tmp_path: Path, shared_data: Path) -> None:
    """Two people at the same place: the embedding tells them apart where the tracker follows on."""
    clips = sorted((shared_data / "clips").glob("*dreamtalk*angry*"))[:2]
    from tracking.media import VideoReader

    both = [f.image for clip in clips for f in list(VideoReader(clip))[:6]]
    write_video(tmp_path / "in/v.mp4", both)
    prepared(tmp_path / "in", tmp_path / "out", check_identity=True)
    (video,) = _report(tmp_path / "out")["videos"]
    assert [c["person"] for c in video["clips"]] == [0, 1]
    assert len({c["identity"] for c in video["clips"]}) == 2
    assert len({c["split"] for c in video["clips"]}) == 1


# ---- workers, kills, networks ------------------------------------------------------------------------------------

KILLER = """
import os, signal
import numpy as np
from conventions.spaces import ExpressionSpace
class Tracker:
    space = ExpressionSpace("mine2", 2, "mine", "1", ("a", "b"))
    hash, smooth = "1", False
    def begin(self, video):
        if video.startswith("poison"):
            os.kill(os.getpid(), signal.SIGKILL)
    def measure(self, frame, parameters):
        return np.array([frame.index, frame.time_s], np.float32), None
def make():
    return Tracker()
"""


def _script(videos: Path, dest: Path, *more: str) -> list[str]:
    options = [f"--set={k}={str(v).lower()}" for k, v in QUICK.items()]
    script = str(ROOT / "dataset_tool.py")
    return [
        sys.executable,
        script,
        "video",
        "--source",
        str(videos),
        "--dest",
        str(dest),
        *options,
        *more,
    ]


def test_a_worker_that_dies_takes_only_its_video(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("poison.mp4", "good.mp4"):
        (tmp_path / "in" / name).write_bytes((videos / "2.mp4").read_bytes())
    (tmp_path / "killer.py").write_text(KILLER)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = _script(
        tmp_path / "in", tmp_path / "out", "--tracker", "killer:make", "--workers", "1"
    )
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    problems = {v["name"]: v["problem"] for v in _report(tmp_path / "out")["videos"]}
    assert "SIGKILL" in problems["poison.mp4"] and problems["good.mp4"] == ""
    data = open_dataset(tmp_path / "out")
    assert data.space is not None and data.space.name == "mine2"
    np.testing.assert_array_equal([data.beta(i)[0] for i in range(8)], np.arange(8))


@pytest.mark.slow
def test_killed_at_random_moments_the_same_command_ends_in_the_same_bytes(
    videos: Path, whole: Path, tmp_path: Path
) -> None:
    """Ten SIGKILLs of the whole group of processes, from the first import to the joining of shards."""
    moments = random.Random(4)
    source = tmp_path / "in"
    source.mkdir()
    for i in range(10):
        (source / f"{i:02d}.mp4").write_bytes((videos / f"{i % 3}.mp4").read_bytes())
    prepared(source, tmp_path / "unbroken")
    expected = tree(tmp_path / "unbroken")
    kills = 0
    start = time.monotonic()
    full_s: float | None = None
    while kills < 10:
        process = subprocess.Popen(
            _script(source, tmp_path / "out", "--workers", "2"),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            # Until a new record appears or a while after it: so every kill meets another state.
            _wait_for_work(process, tmp_path / "out", moments.uniform(0, 0.5))
        finally:
            if process.poll() is None:
                kills += 1
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode == 0:  # it was quicker: begin again with one video less done
            records = sorted((tmp_path / "out" / "videos").glob("[0-9]*.json"))
            for record in records[: moments.randrange(3, 10)]:
                record.unlink()
        assert time.monotonic() - start < 900, full_s
    prepared(source, tmp_path / "out")
    assert sorted(tree(tmp_path / "out")) == sorted(expected)
    assert tree(tmp_path / "out") == expected


def test_what_a_kill_left_under_temporary_names_is_gone_at_the_end(
    videos: Path, whole: Path, tmp_path: Path
) -> None:
    """A kill between a writer's first byte and the file's own name, at each of the places that are written."""
    out = tmp_path / "out"
    for name in ("videos/list.json", "videos/00001.jpg", "shards/00001.frames.npy", "report.html"):
        left = temporary_beside(out / name)
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_bytes(b"half")
    own = out / "videos" / ".notes.tmp-of-mine"  # not a name of ours
    own.write_text("kept")
    prepared(videos, out)
    left_now = tree(out)
    assert left_now.pop("videos/.notes.tmp-of-mine") == b"kept"
    assert left_now == tree(whole)


def _wait_for_work(process: subprocess.Popen[bytes], dest: Path, then_s: float) -> None:
    def written() -> int:
        return len(list(dest.glob("videos/*"))) + len(list(dest.glob("shards/*")))

    before = written()
    while process.poll() is None and written() == before:
        time.sleep(0.02)
    end = time.monotonic() + then_s
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)


WATCHER = """
import os, sys
def watch(event, arguments):
    if event.startswith("socket.") and event.split(".")[1] in (
        "connect", "getaddrinfo", "gethostbyname", "sendto", "sendmsg", "bind"):
        address = arguments[1] if len(arguments) > 1 else arguments[0]
        if isinstance(address, (str, bytes)) and event in ("socket.connect", "socket.bind"):
            return  # a name in the file system: processes of this machine
        with open(os.environ["WATCH_FILE"], "a") as file:
            file.write(f"{event} {address!r}\\n")
        raise OSError("no network in this test")
sys.addaudithook(watch)
with open(os.environ["WATCH_FILE"], "a") as file:
    file.write("watching\\n")
"""


def test_no_connection_is_opened(videos: Path, tmp_path: Path) -> None:
    """In the parent and in the workers every attempt is noted and refused."""
    (tmp_path / "sitecustomize.py").write_text(WATCHER)
    log = tmp_path / "attempts"
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "WATCH_FILE": str(log),
        "OMP_NUM_THREADS": "1",
    }
    command = _script(videos / "2.mp4", tmp_path / "out", "--workers", "1", "--matte")
    command += ["--set=check_identity=true"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = log.read_text().splitlines()
    assert lines.count("watching") >= 2  # the parent and a worker
    assert set(lines) == {"watching"}


def test_ray_engine_without_ray_says_what_to_do(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="pip install ray"):
        prepared(videos, tmp_path / "out", engine="ray", workers=2)


@pytest.mark.slow
def test_ray_engine_on_a_local_cluster(videos: Path, whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the package ray")
    command = _script(videos, tmp_path / "out", "--engine", "ray", "--workers", "2")
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "out") == tree(whole)


def test_command_line(videos: Path, tmp_path: Path, cli: Any) -> None:
    for arguments, words in (
        (["--set", "resolutoin=3"], "did you mean resolution"),
        (["--resolution", "8"], "not in the range 32<=x<=2048"),
        (["--set", "resolution=8"], "use a number from 32"),
        (["--shard", "x"], "i/n"),
        (["--shard", "3/2"], "does not exist"),
        (["--codec", "gif"], "codec"),
        (["--tracker", "nothing"], "no tracker 'nothing'"),
        (["--tracker", "deep3d"], "weights"),
    ):
        result = cli(
            "dataset_tool.py", "video", "--source", videos, "--dest", tmp_path / "o", *arguments
        )
        assert result.returncode in (1, 2) and words in result.stderr, (arguments, result.stderr)
        assert "Traceback" not in result.stderr
    assert VideoOptions().split_of("anna") == VideoOptions().split_of("anna")
    assert Job(0, Source("a", "a"), 0).source.identity == ""
