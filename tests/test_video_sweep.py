"""Containers and codecs that PyAV writes x rotation x mirror x aspect x rate x sound: seen upright, heard in time.

Rotations, mirrors, aspects, rates and layouts of sound go round, so that each meets each; a full product of them with
all codecs would say no more and take an hour.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from sweep_support import FLASH_S, FORMATS, RATES, SECONDS, Kind, upright, write

from dataset.preparation.frames import open_source
from dataset.preparation.sources import Source
from metrics.clips import Failures, frame_pairs
from tracking.media import VideoReader, VideoWriter
from tracking.pictures import open_pictures

ASPECTS = (Fraction(1), Fraction(2), Fraction(1, 2))
LAYOUTS = ("stereo", "mono", "5.1")
TURNS = [(deg, mirrored) for deg in (0, 90, 180, 270) for mirrored in (False, True)]
_TURNING = ("mp4", "mov")  # containers that PyAV writes a display matrix into
_NO_ASPECT = ("flv", "gif", "ts", "wmv", "nut")
_NO_ASPECT_BUT_H264 = ("mkv", "webm")  # PyAV writes none into these; H.264 says it itself
_CONSTANT = ("avi", "gif")  # no time stamps
_COARSE_CLOCK = ("mpeg4", "mpeg2video", "flv", "wmv2")  # encoders of constant rates


def _kinds() -> list[Kind]:
    """For each format one file of every turn that it holds, the other properties going round."""
    kinds = []
    for number, given in enumerate(FORMATS):
        suffix, codec, *_, sound, _ = given
        turns = TURNS if suffix in _TURNING else TURNS[:1] * 3
        for i, (degrees, mirrored) in enumerate(turns):
            is_square = suffix in _NO_ASPECT or (
                suffix in _NO_ASPECT_BUT_H264 and codec != "libx264"
            )
            aspect = Fraction(1) if is_square else ASPECTS[(i + number) % 3]
            rates = list(RATES)
            if suffix in _CONSTANT or codec in _COARSE_CLOCK:
                rates = rates[:3]
            rate = "25" if suffix == "gif" else rates[(i + i // 4 + number) % len(rates)]
            layout = LAYOUTS[(i // 2 + number) % 3]
            if sound in ("mp2", "libmp3lame", "wmav2") and layout == "5.1":
                layout = "mono"  # at most two channels
            kinds.append(
                Kind(*given, degrees, mirrored, aspect, RATES[rate], layout)  # type: ignore[arg-type]
            )
    return kinds


KINDS = _kinds()


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def _flash_s(path: Path) -> tuple[float, float]:
    """(first bright picture, end of the last one), seconds from the first."""
    frames = list(VideoReader(path))
    levels = np.array([f.image.mean() for f in frames])
    first = int(np.argmax(levels > levels[0] + 20))
    return frames[first].time_s, frames[-1].time_s + frames[-1].duration_s


def _beep_s(path: Path) -> float:
    """Onset of the sound, seconds from the first picture: where its level passes half of the highest."""
    levels, times = [], []
    with av.open(str(path)) as container:
        start = next(container.decode(video=0)).time or 0.0
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            wave = np.abs(frame.to_ndarray()).max(0)
            levels.append(wave)
            times.append(frame.time - start + np.arange(len(wave)) / frame.sample_rate)
    level, time = np.concatenate(levels), np.concatenate(times)
    return float(time[np.argmax(level > level.max() / 2)])


@pytest.mark.parametrize("kind", KINDS, ids=[k.name for k in KINDS])
def test_seen_upright_and_heard_in_time(kind: Kind, tmp_path: Path) -> None:
    path = write(tmp_path, kind)
    frames = list(VideoReader(path))
    assert len(frames) == len(kind.times_s)
    # FLV, Matroska and ASF count milliseconds, GIF hundredths of a second.
    times = [f.time_s for f in frames]
    np.testing.assert_allclose(times, kind.times_s, atol=6e-3 if kind.suffix == "gif" else 2e-3)
    flashes = [FLASH_S - 1e-6 <= t < FLASH_S + 0.1 for t in kind.times_s]
    for i in (0, flashes.index(True), len(frames) - 1):
        assert frames[i].image.shape == upright(False).shape
        assert _psnr(frames[i].image, upright(flashes[i])) > kind.psnr - 4 * (kind.aspect != 1)
    out = tmp_path / "out.mp4"
    with VideoWriter(out, VideoReader(path).fps, audio_from=path) as writer:
        for frame in frames:
            writer.write(frame.image, frame.time_s)
    half_frame = 0.5 / max(25.0, len(kind.times_s) / SECONDS)
    flash_s, end_s = _flash_s(out)
    assert flash_s == pytest.approx(kind.times_s[flashes.index(True)], abs=half_frame)
    assert end_s == pytest.approx(SECONDS, abs=0.05)  # a frame of 25 or 30 a second
    assert writer.notes == []
    if kind.sound:
        assert _beep_s(out) == pytest.approx(FLASH_S, abs=half_frame)


@pytest.mark.parametrize("kind", KINDS, ids=[k.name for k in KINDS])
def test_all_commands_see_the_same_pixels(kind: Kind, tmp_path: Path) -> None:
    """The frames that calc_metrics.py compares, dataset_tool.py prepares and gen_videos.py shows and tracks."""
    path = write(tmp_path, kind)
    seen = [f.image for f in VideoReader(path)]  # what is tracked
    shown = list(open_pictures(path).frames())  # what `compare` shows
    pairs = list(frame_pairs(path, path, Failures(), "clip"))
    with open_source(Source(path.name, str(path)), 4096, 0) as pictures:
        prepared = [f.image for f in pictures.frames]
    assert len(seen) == len(shown) == len(pairs) == len(prepared) == len(kind.times_s)
    for a, b, pair, d in zip(seen, shown, pairs, prepared, strict=True):
        for other in (b, pair.pred, pair.ref, d):
            np.testing.assert_array_equal(other, a)
