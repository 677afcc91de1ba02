"""What a file says of its colours and covers; sound that is late or cannot be read; different rates side by side."""

from __future__ import annotations

import io
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.reformatter import Colorspace
from PIL import Image
from preparation_support import prepared, write_video

from dataset.preparation.frames import Pictures
from dnnlib.errors import UserError
from dnnlib.reading import shown
from dnnlib.reading.shown import shown_picture
from inference.views import compare
from metrics.clips import Failures, frame_pairs
from tracking.media import VideoReader, VideoWriter
from tracking.pictures import open_frames
from tracking.timeline import shown_at

COLOUR = (60, 170, 90)


def _written(
    path: Path, pix_fmt: str, codes: tuple[float, ...], size: int = 64, **tags: int
) -> Path:
    """A video of one YUV colour (8-bit codes), in yuv444p of 8 or 10 bits, with these tags."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = size
        stream.pix_fmt = pix_fmt
        stream.options = {"qp": "0", "preset": "ultrafast"}
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        frame = av.VideoFrame(size, size, pix_fmt)
        for plane, code in zip(frame.planes, codes, strict=True):
            deep = "10" in pix_fmt
            values = np.full(
                (size, size), round(code * (4 if deep else 1)), "<u2" if deep else "u1"
            )
            rows = np.zeros((size, plane.line_size), np.uint8)
            rows[:, : values[0].nbytes] = values.view(np.uint8).reshape(size, -1)
            plane.update(rows.tobytes())
        for name, value in tags.items():
            if name in ("colorspace", "color_range"):
                setattr(frame, name, value)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _yuv(rgb: tuple[float, ...], kr: float, kb: float, is_full: bool) -> tuple[float, ...]:
    """The codes of H.273 for RGB in 0..255."""
    r, g, b = (v / 255 for v in rgb)
    y = kr * r + (1 - kr - kb) * g + kb * b
    cb, cr = (b - y) / (2 * (1 - kb)), (r - y) / (2 * (1 - kr))
    if is_full:
        return 255 * y, 128 + 255 * cb, 128 + 255 * cr
    return 16 + 219 * y, 128 + 224 * cb, 128 + 224 * cr


BT601, BT709, BT2020 = (0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)


@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize(
    ("weights", "size", "tags"),
    [
        (BT601, 64, {"colorspace": 5}),
        (BT601, 64, {"colorspace": 6}),
        (BT709, 64, {"colorspace": 1}),
        (BT2020, 64, {"colorspace": 9}),
        (BT601, 64, {}),  # untold
        (BT709, 1280, {}),
        (BT601, 1280, {"colorspace": 5}),
    ],
)
def test_matrix_and_range_are_those_of_the_file(
    weights: tuple[float, float], size: int, tags: dict[str, int], is_full: bool, tmp_path: Path
) -> None:
    codes = _yuv(COLOUR, *weights, is_full)
    pix_fmt = "yuvj444p" if is_full else "yuv444p"
    path = _written(tmp_path / "v.mp4", pix_fmt, codes, size, **tags, color_range=1 + is_full)
    image = next(iter(VideoReader(path))).image
    # Codes of 8 bits: a rounding of each of three moves a colour by up to 2.
    np.testing.assert_allclose(image[10, 10], COLOUR, atol=3)


def _pq(light: np.ndarray) -> np.ndarray:
    power = (light / 10000) ** (2610 / 16384)
    return np.asarray(
        ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)
    )


def _hlg(scene: np.ndarray) -> np.ndarray:
    return np.where(
        scene <= 1 / 12,
        np.sqrt(3 * scene),
        0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073,
    )


@pytest.mark.parametrize(("transfer", "white"), [(16, 100.0), (18, 203.0)])
def test_hdr_comes_down_to_the_grey_of_sdr(transfer: int, white: float, tmp_path: Path) -> None:
    """A grey of SDR, put into PQ at 100 cd/m2 or HLG at its reference white, is seen as that grey again."""
    for grey in (30, 90, 160):
        light = np.array(white * (grey / 255) ** 2.4)
        scene = (light / 1000) ** (1 / 1.2)  # the inverse of HLG's system gamma, for grey
        code = 255 * float(_pq(light) if transfer == 16 else _hlg(scene))
        path = _written(
            tmp_path / f"{grey}.mp4", "yuv444p10le", _yuv((code,) * 3, *BT2020, False),
            colorspace=9, color_range=1, color_primaries=9, color_trc=transfer,
        )  # fmt: skip
        image = next(iter(VideoReader(path))).image[10, 10].astype(int)
        # Below half of white the shoulder does nothing; at 160 it takes a few per cent.
        assert image == pytest.approx([grey] * 3, abs=3 if grey < 100 else 12)
    brightest = _written(
        tmp_path / "top.mp4", "yuv444p10le", _yuv((255,) * 3, *BT2020, False),
        colorspace=9, color_range=1, color_primaries=9, color_trc=transfer,
    )  # fmt: skip
    assert next(iter(VideoReader(brightest))).image.min() >= 250


def test_wide_primaries_are_brought_to_srgb(tmp_path: Path) -> None:
    """Display P3's (225, 98, 70) is this orange of sRGB by the standard's matrices."""
    linear = (np.array([200, 120, 90]) / 255) ** 2.4
    to_p3 = np.linalg.inv(np.array(shown._TO_BT709[12]))
    p3 = tuple(255 * (to_p3 @ linear) ** (1 / 2.4))
    path = _written(
        tmp_path / "v.mp4", "yuv444p", _yuv(p3, *BT709, False),
        colorspace=1, color_range=1, color_primaries=12, color_trc=1,
    )  # fmt: skip
    np.testing.assert_allclose(next(iter(VideoReader(path))).image[10, 10], (200, 120, 90), atol=3)
    assert abs(p3[0] - 200) > 5  # it is another number in the file


def test_what_cannot_be_shown_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = _written(tmp_path / "v.mp4", "yuv444p", (100, 100, 100), colorspace=8, color_range=1)
    with pytest.raises(UserError, match=r"v\.mp4 has colours of a kind.*convert it to BT\.709"):
        VideoReader(path)
    frame = av.VideoFrame(64, 64, "yuv420p")
    with pytest.raises(UserError, match="too large with square"):
        shown_picture(frame, "v.mp4", Fraction(100_000, 1))


def test_an_angle_that_is_no_quarter_turn_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.set_display_rotation(30)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(_flat(50), "rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(UserError, match="at an angle that is no quarter turn"):
        VideoReader(path)


def _flat(level: int, size: int = 64) -> np.ndarray:
    return np.full((size, size, 3), level, np.uint8)


def test_what_is_written_says_its_colours(tmp_path: Path) -> None:
    for suffix in ("mp4", "mkv", "mov"):
        path = tmp_path / f"v.{suffix}"
        with VideoWriter(path, 25) as writer:
            writer.write(np.broadcast_to(np.array(COLOUR, np.uint8), (720, 1280, 3)))
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
        tags = (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)
        assert [int(t) for t in tags] == [Colorspace.ITU709, 1, 1, 1]
        np.testing.assert_allclose(next(iter(VideoReader(path))).image[9, 9], COLOUR, atol=3)


# ---- time --------------------------------------------------------------------------------------------------------


def _with_sound(path: Path, pieces: list[tuple[float, str, int]], start_s: float = 0.0) -> Path:
    """2 s of pictures from `start_s` on, and 0.2 s of a tone at each (time, layout, rate)."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for i in range(50):
            frame = av.VideoFrame.from_ndarray(_flat(40 + i), "rgb24")
            frame.pts, frame.time_base = round(1000 * (start_s + i / 25)), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for time_s, layout, rate in pieces:
            wave = 0.5 * np.sin(np.arange(round(0.2 * rate)) * 2 * np.pi * 500 / rate)
            samples = (32767 * wave[None]).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples, "s16", layout)
            frame.sample_rate, frame.pts = rate, round(time_s * rate)
            frame.time_base = Fraction(1, rate)
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def _onsets(path: Path) -> list[float]:
    """Where sound begins after at least 0.1 s of silence, seconds from the first picture."""
    with av.open(str(path)) as container:
        start = next(container.decode(video=0)).time or 0.0
    onsets: list[float] = []
    last = -1.0
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            for i in np.flatnonzero(np.abs(frame.to_ndarray()).max(0) > 0.1):
                now = frame.time - start + i / frame.sample_rate
                if now - last > 0.1:
                    onsets.append(now)
                last = now
    return onsets


@pytest.mark.parametrize(
    ("starts", "picture_s", "expected"),
    [
        ([0.0, 1.0], 0.0, [0.0, 1.0]),  # a gap
        ([1.2], 0.0, [1.2]),  # late
        ([0.0, 1.0], 0.5, [0.5]),  # pictures begin later: what is heard before is left out
    ],
)
def test_sound_keeps_its_place(
    starts: list[float], picture_s: float, expected: list[float], tmp_path: Path
) -> None:
    path = _with_sound(tmp_path / "in.mkv", [(t, "mono", 16000) for t in starts], picture_s)
    with VideoWriter(tmp_path / "out.mp4", 25, audio_from=path) as writer:
        for frame in VideoReader(path):
            writer.write(frame.image, frame.time_s)
    # AAC smears an onset over a part of its 1024 samples at 16 kHz.
    assert _onsets(tmp_path / "out.mp4") == pytest.approx(expected, abs=0.03)


def test_sound_that_cannot_be_decoded_gives_a_note(tmp_path: Path) -> None:
    path = _with_sound(tmp_path / "in.mkv", [(0.0, "mono", 16000)])
    content = path.read_bytes()
    assert content.count(b"A_PCM/INT/LIT") == 1
    path.write_bytes(content.replace(b"A_PCM/INT/LIT", b"A_XYZ/INT/LIT"))
    out = tmp_path / "out.mp4"
    with VideoWriter(out, 25, audio_from=path) as writer:
        writer.write(_flat(50))
    assert not VideoReader(out).has_audio
    assert writer.notes == [
        f"the sound of {path} cannot be decoded; the video is written without it"
    ]
    with VideoWriter(out, 25, audio_from=tmp_path / "none.mp4") as writer:
        writer.write(_flat(50))
    assert len(writer.notes) == 1 and "without sound" in writer.notes[0]


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_frames_keep_their_times(suffix: str, tmp_path: Path) -> None:
    """Each frame once, at its time; one stands still for 4 s in the middle, the last one for 1.5 s at the end."""
    times = [0.0, 0.04, 0.1, 0.13, 4.13, 4.17, 4.21]
    with VideoWriter(tmp_path / f"out.{suffix}", 12) as writer:
        for i, time_s in enumerate(times):
            writer.write(_flat(30 * i), time_s)
        writer.end_s = 5.71
    reader = VideoReader(tmp_path / f"out.{suffix}")
    frames = list(reader)
    assert [round(f.image.mean() / 30) for f in frames] == list(range(7))
    # Matroska counts milliseconds
    assert [f.time_s for f in frames] == pytest.approx(times, abs=1e-3)
    with av.open(str(reader.path)) as container:
        lengths = [container.duration / av.time_base]
        packets = [p for p in container.demux(video=0) if p.size]
    ends = [float((p.pts + p.duration) * p.time_base) for p in packets if p.duration]
    if suffix != "mkv":  # which states the length of the whole alone
        lengths += [max(ends), frames[-1].time_s + frames[-1].duration_s]
    assert [*lengths, reader.duration_s] == pytest.approx([5.71] * (len(lengths) + 1), abs=2e-3)


def test_a_picture_that_stands_still_stays_with_its_sound(tmp_path: Path) -> None:
    """Screen recordings: no new picture for seconds, sound all the while; both end together."""
    starts = [0.0, 3.0, 7.9]
    path = _with_sound(tmp_path / "in.mkv", [(t, "mono", 16000) for t in starts])
    out = tmp_path / "out.mp4"
    with VideoWriter(out, 25, audio_from=path) as writer:
        for i, time_s in enumerate((0.0, 3.0, 3.04, 7.9)):
            writer.write(_flat(60 * i), time_s)
        writer.end_s = 8.1
    frames = list(VideoReader(out))
    assert [f.time_s for f in frames] == pytest.approx([0.0, 3.0, 3.04, 7.9], abs=1e-3)
    # half a frame of 25 a second, and a part of AAC's 1024 samples at 16 kHz
    assert _onsets(out) == pytest.approx(starts, abs=0.03)
    assert VideoReader(out).duration_s == pytest.approx(8.1, abs=1e-3)


def _counting(path: Path, fps: int, seconds: float = 1.0) -> Path:
    """Grey that grows by 200 a second."""
    return write_video(path, [_flat(20 + 200 * i // fps) for i in range(round(fps * seconds))], fps)


def test_compare_plays_different_rates_side_by_side(tmp_path: Path) -> None:
    slow, fast = _counting(tmp_path / "slow.mp4", 10), _counting(tmp_path / "fast.mp4", 25)
    compare([("a", slow), ("b", fast)], tmp_path / "out.mp4", panel_px=64)
    frames = list(VideoReader(tmp_path / "out.mp4"))
    assert len(frames) == 25
    for frame in frames:
        left, right = frame.image[50, 30].mean(), frame.image[50, 110].mean()
        assert right == pytest.approx(20 + 200 * frame.time_s, abs=6)
        # the slow one shows what began up to a tenth of a second ago
        assert left - 6 < right < left + 20 + 6


def test_a_slower_driver_of_a_grid_shows_what_it_shows_then() -> None:
    slow, fast = np.arange(11) / 10, np.arange(26) / 25  # times of the frames, and the end
    shown_by_slow = shown_at(slow, fast[:-1])
    assert shown_by_slow[[0, 2, 3, 5, 24]].tolist() == [0, 0, 1, 2, 9]
    assert shown_at(fast, fast[:-1]).tolist() == list(range(25))
    # Matroska's milliseconds do not push a frame to the next one's time
    assert shown_at(np.round(np.arange(31) / 30, 3), np.arange(30) / 30).tolist() == list(range(30))


def test_metrics_pair_different_rates_by_time(tmp_path: Path) -> None:
    ref, pred = _counting(tmp_path / "ref.mp4", 25), _counting(tmp_path / "pred.mp4", 50)
    failures = Failures()
    pairs = list(frame_pairs(pred, ref, failures, "clip"))
    assert len(pairs) == 25 and failures.lines() == []
    for pair in pairs:
        assert pair.pred.mean() == pytest.approx(pair.ref.mean(), abs=4)
    # as many frames at another rate: a method that wrote its results at 30 frames per second
    other = write_video(tmp_path / "other.mp4", [_flat(20 + 8 * i) for i in range(25)], 30)
    pairs = list(frame_pairs(other, ref, failures, "clip"))
    assert len(pairs) == 25
    assert all(p.pred.mean() == pytest.approx(p.ref.mean(), abs=3) for p in pairs)


def test_a_video_breaks_off_only_where_time_and_frames_are_missing() -> None:
    def note(**promised: Any) -> str:
        return Pictures(iter(()), 64, 64, 25.0, **promised).note_of_missing(50, 2.0)

    assert note() == "" and note(expected_s=2.1) == ""
    assert note(expected_s=6.0) == "the video breaks off after 2.0 of 6.0 s"
    assert note(expected_s=6.0, expected=50) == ""  # a last frame that is shown for long
    assert note(expected_s=2.0, expected=100) == ""  # an edit list leaves half of the frames out


def _with_cover(path: Path, codec: str, has_video: bool) -> Path:
    """Sound with a red cover, before green video or without any."""
    cover = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 30, 30)).save(cover, "JPEG")
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuvj420p"
        picture.disposition = Disposition.attached_pic
        sound = container.add_stream(codec, rate=44100, layout="mono")
        if has_video:
            video = container.add_stream("libx264", rate=25)
            video.width, video.height, video.pix_fmt = 96, 80, "yuv420p"
        container.start_encoding()
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = picture, 0, 0, True
        container.mux(packet)
        for i in range(10):
            silence = np.zeros((1, 1024), np.int16)
            heard = av.AudioFrame.from_ndarray(silence, format="s16", layout="mono")
            heard.sample_rate, heard.pts = 44100, 1024 * i
            container.mux(sound.encode(heard))
            if has_video:
                green = np.full((80, 96, 3), (20, 200, 40), np.uint8)
                container.mux(video.encode(av.VideoFrame.from_ndarray(green, format="rgb24")))
        container.mux(sound.encode(None))
        if has_video:
            container.mux(video.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "aac"), ("a.mp3", "libmp3lame"), ("a.flac", "flac")]
)
def test_music_with_a_cover_is_no_video(name: str, codec: str, tmp_path: Path) -> None:
    path = _with_cover(tmp_path / "in" / name, codec, has_video=False)
    for read in (VideoReader, open_frames):
        with pytest.raises(UserError, match=f"{name} has no video stream, only a cover"):
            read(path)
    path = path.rename(path.with_suffix(".mp4"))  # so that a folder's listing takes it for a video
    with pytest.raises(UserError, match="no video gave a clip"):
        prepared(path.parent, tmp_path / "out")
    (record,) = json.loads((tmp_path / "out" / "report.json").read_text())["videos"]
    assert "only a cover" in record["problem"]


def test_a_video_is_shown_and_not_its_cover(tmp_path: Path) -> None:
    path = _with_cover(tmp_path / "a.mp4", "aac", has_video=True)
    reader = VideoReader(path)
    assert (reader.width, reader.height) == (96, 80)
    for frame in reader:
        assert np.abs(frame.image.astype(int) - (20, 200, 40)).max() < 4  # H.264 in 4:2:0
    assert reader.has_audio and len(list(reader)) == 10


def test_a_cover_is_no_video(tmp_path: Path) -> None:
    """An MP4 whose only picture is its cover, and one with a cover beside its video."""
    from dnnlib.reading import containers

    class _Stream:
        def __init__(self, disposition: int, codec_context: Any = 1) -> None:
            self.disposition = containers.Disposition(disposition)
            self.codec_context = codec_context

    class _Container:
        def __init__(self, *streams: _Stream) -> None:
            self.streams = type("Streams", (), {"video": streams})

    cover, video = _Stream(containers.Disposition.attached_pic.value), _Stream(0)
    default = _Stream(containers.Disposition.default.value)
    assert containers.picture_stream(_Container(cover, video), "v.mp4") is video
    assert containers.picture_stream(_Container(cover, video, default), "v.mp4") is default
    with pytest.raises(UserError, match="no video stream, only a cover"):
        containers.picture_stream(_Container(cover), "v.mp4")
    with pytest.raises(UserError, match="cannot be decoded here"):
        containers.picture_stream(_Container(_Stream(0, None)), "v.mp4")
