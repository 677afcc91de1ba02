"""Photos of every kind, videos in and out, smoothing."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from dnnlib.errors import UserError
from tracking.media import VideoReader, VideoWriter, load_photo
from tracking.pose import rotation_from_vector
from tracking.smoothing import StreamingSmoother, Window, smooth, vector_from_rotation


def _gradient(width: int = 96, height: int = 80) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 2, y * 2, np.full_like(x, 90)], -1).astype(np.uint8)


def test_photo_modes(tmp_path: Path) -> None:
    image = Image.fromarray(_gradient())
    image.save(tmp_path / "rgb.png")
    np.testing.assert_array_equal(load_photo(tmp_path / "rgb.png"), _gradient())
    image.convert("L").save(tmp_path / "grey.png")
    image.convert("CMYK").save(tmp_path / "cmyk.jpg")
    image.convert("P").save(tmp_path / "palette.png")
    for name in ("grey.png", "cmyk.jpg", "palette.png"):
        assert load_photo(tmp_path / name).shape == (80, 96, 3)
    wide = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(wide).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(
        load_photo(tmp_path / "deep.png")[..., 0], np.asarray(image.convert("L"))
    )
    clear = Image.new("RGBA", (80, 80), (10, 20, 30, 0))
    clear.save(tmp_path / "clear.png")
    assert (load_photo(tmp_path / "clear.png") == 255).all()


def test_photo_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees clockwise to see it upright
    Image.fromarray(_gradient()).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(load_photo(tmp_path / "turned.png"), np.rot90(_gradient(), -1))


def test_bad_photos_get_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello")
    Image.fromarray(_gradient()).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    Image.new("RGB", (40, 200)).save(tmp_path / "tiny.png")
    for name, words in {
        "none.jpg": "does not exist",
        "empty.jpg": "is empty",
        "text.jpg": "cannot be read as a picture",
        "half.png": "is damaged",
        "tiny.png": "at least 64 x 64",
    }.items():
        with pytest.raises(UserError, match=words) as caught:
            load_photo(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_huge_photo_is_reduced(tmp_path: Path) -> None:
    Image.new("L", (9000, 100), 50).save(tmp_path / "wide.png")
    assert load_photo(tmp_path / "wide.png").shape[1] == 4096


def _write_sound(path: Path, seconds: float) -> None:
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        sound = out.add_stream("aac", rate=44100, layout="mono")
        for _ in range(round(seconds * 25)):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        t = np.arange(round(seconds * 44100)) / 44100
        wave = (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.rate = 44100
        frame.pts = 0
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))


def test_video_round_trip_with_sound_and_odd_size(tmp_path: Path) -> None:
    _write_sound(tmp_path / "driver.mp4", 1.0)
    levels = np.linspace(20, 230, 12).astype(np.uint8)
    with VideoWriter(tmp_path / "out.mp4", 30000 / 1001, audio_from=tmp_path / "driver.mp4") as w:
        for level in levels:
            w.write(np.full((65, 97, 3), level, np.uint8))
    assert [p.name for p in tmp_path.iterdir() if "tmp" in p.name] == []
    with VideoReader(tmp_path / "out.mp4") as reader:
        assert reader.fps == pytest.approx(30000 / 1001, rel=1e-6)
        assert (
            reader.has_audio and reader.n_frames == 12 and (reader.height, reader.width) == (66, 98)
        )
        frames = list(reader)
        assert [f.index for f in frames] == list(range(12))
        np.testing.assert_allclose(
            [f.time_s for f in frames], np.arange(12) * 1001 / 30000, atol=1e-3
        )
        # H.264 at high quality, limited-range YUV: within 3 grey levels
        np.testing.assert_allclose([f.image.mean() for f in frames], levels, atol=3)
        assert len(list(reader)) == 12  # a second iteration starts from the beginning
    with av.open(str(tmp_path / "out.mp4")) as container:
        sound = container.streams.audio[0]
        assert float(sound.duration * sound.time_base) == pytest.approx(0.4, abs=0.07)


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    out.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stop"), VideoWriter(out, 25) as writer:
        writer.write(np.zeros((64, 64, 3), np.uint8))
        raise RuntimeError("stop")
    with pytest.raises(UserError, match="no frames"), VideoWriter(out, 25):
        pass
    assert out.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UserError, match=r"\.mp4"):
        VideoWriter(tmp_path / "out.txt", 25)


def test_bad_videos_get_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("hello" * 50)
    with av.open(str(tmp_path / "sound.m4a"), "w") as out:
        stream = out.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.rate = 44100
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    for name, words in {
        "none.mp4": "does not exist",
        "empty.mp4": "is empty",
        "text.mp4": "cannot be read",
        "sound.m4a": "no video stream",
    }.items():
        with pytest.raises(UserError, match=words) as caught:
            VideoReader(tmp_path / name)
        assert name in str(caught.value)


def test_smoothing_takes_jitter_and_adds_no_lag() -> None:
    rng = np.random.default_rng(0)
    t = np.arange(300)
    truth = np.sin(2 * np.pi * t / 60)[:, None]
    noisy = truth + rng.normal(0, 0.02, truth.shape)
    out = smooth(noisy, Window(1.5, 5))

    def jitter(x: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.diff(x, 2, axis=0) ** 2)))

    assert jitter(out - truth) < 0.2 * jitter(noisy - truth)
    assert np.abs(out - truth)[5:-5].mean() < np.abs(noisy - truth).mean()
    lags = np.arange(-5, 6)
    scores = [np.dot(truth[10:-10, 0], np.roll(out, -k)[10:-10, 0]) for k in lags]
    assert lags[int(np.argmax(scores))] == 0
    # Sub-frame: the peak of a parabola through the three best correlations.
    a, b, c = scores[4:7]
    assert abs(0.5 * (a - c) / (a - 2 * b + c)) < 0.1


def test_smoothing_keeps_lines_bridges_gaps_and_is_bounded() -> None:
    line = np.arange(40.0)[:, None] * 0.5
    gappy = line.copy()
    gappy[10:13] = np.nan
    np.testing.assert_allclose(smooth(gappy, Window(1.5, 5)), line, atol=1e-9)
    smoother: StreamingSmoother[int] = StreamingSmoother(Window(1.0, 3))
    given = [p for i in range(50) for _, p in smoother.push(np.zeros(1), i)]
    assert given == list(range(47))
    assert len(smoother._entries) <= 7
    assert [p for _, p in smoother.flush()] == [47, 48, 49]


def test_long_gap_holds_and_leading_gap_is_unknown() -> None:
    values = np.full((30, 1), np.nan)
    values[8:10] = 3.0
    out = smooth(values, Window(1.0, 3))
    assert np.isnan(out[:5]).all()  # nothing is known yet within the look-ahead
    np.testing.assert_allclose(out[5:], 3.0, atol=1e-9)


def test_rotations_are_smoothed_on_the_sphere() -> None:
    vectors = np.random.default_rng(0).normal(0, 0.5, (20, 3))
    np.testing.assert_allclose(
        vector_from_rotation(rotation_from_vector(vectors)), vectors, atol=1e-9
    )
    # Constant angular speed through a half turn comes out unchanged.
    turn = rotation_from_vector(np.linspace(0, np.pi, 40)[:, None] * [0.0, 1.0, 0.0])
    np.testing.assert_allclose(
        smooth(turn.reshape(40, 9), Window(1.5, 5), rotation=True), turn.reshape(40, 9), atol=1e-9
    )
