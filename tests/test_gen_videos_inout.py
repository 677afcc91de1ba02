"""What drives and what is written: kinds of drivers, kinds of files, several at once, motion templates, Ctrl-C."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from animate_support import FakeClip, picture
from PIL import Image
from test_gen_videos import FPS, FakeTracker, _fake_tracker, files, read, run  # noqa: F401

from conventions.spaces import ARKIT52, BFM64
from dnnlib import UserError
from inference.options import SHIPPED
from inference.output import write_video
from inference.template import Template, load_template, save_template
from tracking.media import VideoReader

NET = ("--network", "net.safetensors")
PAIR = ("-s", "photo.png", "-d", "clip.mp4", *NET)


def pictures(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(p)) for p in sorted(folder.glob("*.png"))]


# ---- out ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".webm", ".webp", ".gif"])
def test_kinds_of_moving_pictures(files: Path, tmp_path: Path, suffix: str) -> None:  # noqa: F811
    out = tmp_path / f"out{suffix}"
    result = run(files, "animate", *PAIR, "-o", out)
    assert result.exit_code == 0, result.output
    if suffix == ".webm":
        rate, count, sound, size = read(out)
        assert count == 12 and size == (96, 96) and rate == pytest.approx(float(FPS), abs=0.01)
        assert sound == pytest.approx(12 / float(FPS), abs=0.06)  # one or two packets of 20 ms
        return
    with Image.open(out) as moving:
        assert moving.n_frames == 12 and moving.size == (96, 96)  # type: ignore[attr-defined]
        total = 0.0
        for i in range(12):
            moving.seek(i)
            moving.load()
            total += moving.info["duration"]
    # WebP counts milliseconds, GIF hundredths; FFmpeg tells the last frame's length of neither
    assert total / 1000 == pytest.approx(12 / float(FPS), abs=0.06)


def test_a_folder_of_pictures_and_one_still(files: Path, tmp_path: Path) -> None:  # noqa: F811
    folder, still = tmp_path / "frames", tmp_path / "still.png"
    for out in (folder, still):
        result = run(files, "animate", *PAIR, "-o", out)
        assert result.exit_code == 0, result.output
    names = sorted(p.name for p in folder.iterdir())
    assert names == [*(f"{i:06d}.png" for i in range(12)), "times.json"]
    times = json.loads((folder / "times.json").read_text())["times_s"]
    assert times == pytest.approx([i / float(FPS) for i in range(13)], abs=1e-3)
    assert np.array_equal(np.asarray(Image.open(still)), pictures(folder)[0])
    again = run(files, "animate", *PAIR, "-o", folder)
    assert again.exit_code == 1 and "exists already" in again.output


def test_transparent_frames_keep_their_alpha(tmp_path: Path) -> None:
    image = np.full((32, 32, 4), 200, np.uint8)
    image[:, :16, 3] = 0
    write_video(tmp_path / "a.webm", [image] * 3, 25.0)
    with av.open(str(tmp_path / "a.webm")) as container:
        decoder = av.CodecContext.create("libvpx-vp9", "r")
        frames = [f for p in container.demux(video=0) for f in decoder.decode(p)]
    alpha = frames[0].to_ndarray(format="rgba")[..., 3]
    assert alpha[:, :12].max() < 20 and alpha[:, 20:].min() > 180
    write_video(tmp_path / "a.webp", [image, image[:, ::-1].copy()], 25.0)
    with Image.open(tmp_path / "a.webp") as moving:
        assert moving.n_frames == 2  # type: ignore[attr-defined]
        shown = np.asarray(moving.convert("RGBA"))
    assert shown[:, :12, 3].max() < 20 and shown[:, 20:, 3].min() > 180
    write_video(tmp_path / "frames", [image], 25.0)
    assert np.array_equal(pictures(tmp_path / "frames")[0], image)
    with pytest.raises(
        UserError, match="a.mp4 cannot be transparent; end the name in .webm, .webp or .png"
    ):
        write_video(tmp_path / "a.mp4", [image], 25.0)
    assert not (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize("name", ["out.mp4", "out.webm", "out"])
def test_stopped_in_the_middle_it_keeps_what_it_made(tmp_path: Path, name: str) -> None:
    def frames() -> Iterator[np.ndarray]:
        yield from (picture(i) for i in range(7))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / name, frames(), 25.0, n_frames=100, time_of=lambda i: i / 25)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    count = len(pictures(tmp_path / name)) if name == "out" else read(tmp_path / name)[1]
    assert count == 7


def test_stopped_before_the_first_frame_it_keeps_the_old_file(tmp_path: Path) -> None:
    def frames() -> Iterator[np.ndarray]:
        raise KeyboardInterrupt
        yield

    (tmp_path / "out.mp4").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "out.mp4", frames(), 25.0)
    assert (tmp_path / "out.mp4").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


# ---- in -----------------------------------------------------------------------------------------------------------


def test_kinds_of_drivers(files: Path, tmp_path: Path) -> None:  # noqa: F811
    frames = tmp_path / "frames"
    frames.mkdir()
    stills = [Image.fromarray(picture(i, 64)) for i in range(3)]
    for i, still in enumerate(stills):
        still.save(frames / f"{i}.png")
    stills[0].save(tmp_path / "a.gif", save_all=True, append_images=stills[1:], duration=40)
    motion = {"format": "export3d-motion", "version": 1, "fps": 25, "seconds": 0.2, "units": {}}
    (tmp_path / "m.json").write_text(json.dumps(motion))
    for driver, count in {"frames": 3, "frames/1.png": 1, "a.gif": 3, "m.json": 5}.items():
        out = tmp_path / f"{Path(driver).stem}-out"
        result = run(files, "animate", "-s", "photo.png", "-d", tmp_path / driver, *NET, "-o", out)
        assert result.exit_code == 0, result.output
        assert len(pictures(out)) == count, driver


def test_a_motion_by_hand_leaves_the_share_of_the_photo_that_it_says(files: Path) -> None:  # noqa: F811
    from inference.motion import load_motion
    from inference.photo import Photo
    from inference.steering import Steer, Steering

    path = files / "half.json"
    path.write_text(
        json.dumps({"format": "export3d-motion", "version": 1, "fps": 25, "seconds": 0.4,
                    "source": [[0, 0.5]], "units": {"jawOpen": [[0, 0.25]]}})
    )  # fmt: skip
    motion = Template.of_motion(load_motion(path), ARKIT52, "half", "net")
    own = np.full(52, 0.4, np.float32)
    source = Photo("p", picture(1), own, motion.cameras[0])
    expected = load_motion(path).beta(0.1, own, ARKIT52)
    assert Steering(ARKIT52, motion, Steer()).beta(2, source, source.camera) == pytest.approx(
        expected, abs=1e-6
    )


# ---- several ------------------------------------------------------------------------------------------------------


def test_a_folder_of_sources_and_drivers_that_are_tracked_once(
    files: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    people = tmp_path / "people"
    people.mkdir()
    for name in ("a.png", "a.webp", "b.png"):
        Image.fromarray(picture(1, 96)).save(people / name)
    shutil.copy(files / "black.png", people / "nobody.png")
    tracked: list[str] = []
    follow = FakeTracker.track_video

    def counted(self: FakeTracker, reader: Any, *more: Any) -> Any:
        tracked.append(reader.path.name)
        return follow(self, reader, *more)

    monkeypatch.setattr(FakeTracker, "track_video", counted)
    out = tmp_path / "out"
    words = ["-s", people, "-d", "clip.mp4", "-d", "mute.mp4", *NET, "--max-frames", "2"]
    result = run(files, "animate", *words, "-o", out)
    assert tracked == ["clip.mp4", "mute.mp4"]
    made = sorted(p.name for p in out.iterdir())
    assert made == [
        "a-clip-2.mp4",
        "a-clip.mp4",
        "a-mute-2.mp4",
        "a-mute.mp4",
        "b-clip.mp4",
        "b-mute.mp4",
    ]
    assert all(read(out / name)[1] == 2 for name in made)
    assert result.exit_code == 1
    assert "1 of 4 sources were left out: no face was found" in result.output.splitlines()[-1]
    refused = run(files, "animate", *words, "-o", tmp_path / "out.mp4")
    assert refused.exit_code == 1 and "give a name without .mp4, for a folder" in refused.output


def test_the_shipped_network_is_the_default() -> None:
    import gen_videos

    choosing = [c for c in gen_videos.main.commands.values() if c.name != "demo"]
    options = [p for c in choosing for p in c.params if p.name == "network_path"]
    assert len(options) >= 6 and all(o.default == SHIPPED and not o.required for o in options)
    assert SHIPPED.is_file()


# ---- templates ----------------------------------------------------------------------------------------------------


def test_a_template_drives_as_its_clip_does(files: Path, tmp_path: Path) -> None:  # noqa: F811
    template = tmp_path / "motion.safetensors"
    result = run(files, "track", "-d", "clip.mp4", "-o", template)
    assert result.exit_code == 0, result.output
    assert "the motion of 12 frames" in result.output
    assert template.stat().st_size < 12 * 1000 + 8000  # numbers, no picture
    for driver, name in (("clip.mp4", "clip"), (template, "motion")):
        words = ["-s", "photo.png", "-d", driver, *NET, "--relative", "--max-frames", "9"]
        result = run(files, "animate", *words, "-o", tmp_path / name)
        assert result.exit_code == 0, result.output
    for a, b in zip(pictures(tmp_path / "clip"), pictures(tmp_path / "motion"), strict=True):
        assert np.array_equal(a, b)
    times = [json.loads((tmp_path / n / "times.json").read_text()) for n in ("clip", "motion")]
    assert times[0] == times[1]
    for command in ("grid", "novel-view"):
        out = tmp_path / f"{command}.mp4"
        words = ["-s", "photo.png", "-d", template, *NET, "--panel-px", "32", "-o", out]
        result = run(files, command, *words)
        assert result.exit_code == 0, result.output
        assert sum(1 for _ in VideoReader(out)) == 12


def test_templates_that_do_not_fit_are_refused(files: Path, tmp_path: Path) -> None:  # noqa: F811
    clip = FakeClip(4)
    good = Template.of_clip(clip, ARKIT52, {"name": ARKIT52.tracker, "hash": "ours"})
    path = tmp_path / "m.safetensors"
    save_template(path, good)
    again = load_template(path)
    assert np.array_equal(again.betas, clip.betas) and np.array_equal(again.cameras, clip.cameras)
    assert np.array_equal(again.times_s, clip.times_s) and again.space == ARKIT52
    bent = Template("m", 25.0, clip.times_s[:-1], clip.betas, clip.cameras, ARKIT52)
    space = Template("m", 25.0, clip.times_s, np.zeros((4, 64), np.float32), clip.cameras, BFM64)
    motion = {"format": "export3d-motion", "version": 1, "fps": 25, "seconds": 0.2, "units": {},
              "directions": {"v1": [[0, 1]]}}  # fmt: skip
    (tmp_path / "d.json").write_text(json.dumps(motion))
    (tmp_path / "p.safetensors").write_bytes(b"\x80\x04\x95pickle")
    save_template(tmp_path / "bent.safetensors", bent)
    save_template(tmp_path / "space.safetensors", space)
    for name, says in {
        "bent.safetensors": "numbers do not belong together",
        "space.safetensors": "have different expression spaces",
        "p.safetensors": "p.safetensors",
        "d.json": "which only gen_videos.py demo --motion does",
    }.items():
        words = ["-s", "photo.png", "-d", tmp_path / name, *NET, "-o", tmp_path / "out.mp4"]
        result = run(files, "animate", *words)
        assert result.exit_code == 1 and says in result.output, result.output
        assert len(result.output.strip().splitlines()) == 1
    words = ["-s", "photo.png", "-d", "net.safetensors", *NET, "-o", tmp_path / "out.mp4"]
    result = run(files, "animate", *words)
    assert result.exit_code == 1 and "kind 'model'" in result.output, result.output
    assert not (tmp_path / "out.mp4").exists()
