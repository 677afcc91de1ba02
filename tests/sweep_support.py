"""Videos of every container and codec that PyAV writes, with a flash and a beep at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

WIDTH, HEIGHT = 96, 64  # of the upright picture with square pixels
SECONDS, FLASH_S = 1.2, 0.6
SOUND_RATE = 48000

# container, codec, pixel format, PSNR (dB) that it keeps at least: those that lose most are old and coarse
FORMATS: list[tuple[str, str, str, str, float]] = [
    ("mp4", "libx264", "yuv420p", "aac", 32),
    ("mov", "libx264", "yuv444p", "aac", 32),
    ("mkv", "libx264", "yuv420p", "flac", 32),
    ("ts", "libx264", "yuv420p", "mp2", 32),
    ("flv", "libx264", "yuv420p", "aac", 32),
    ("mp4", "mpeg4", "yuv420p", "aac", 28),
    # AVI with MP3 is left out: as PyAV writes it, the file itself holds its first frame for two.
    ("avi", "mpeg4", "yuv420p", "pcm_s16le", 28),
    ("ts", "mpeg2video", "yuv420p", "mp2", 28),
    ("mov", "prores_ks", "yuv422p10le", "pcm_s16le", 32),
    ("mov", "mjpeg", "yuvj420p", "pcm_s16le", 28),
    ("avi", "mjpeg", "yuvj420p", "pcm_s16le", 28),
    ("mkv", "ffv1", "yuv444p", "libopus", 36),
    ("nut", "ffv1", "yuv420p", "flac", 32),
    ("webm", "libvpx", "yuv420p", "libopus", 28),
    ("webm", "libvpx-vp9", "yuv420p", "libopus", 28),
    ("mp4", "libsvtav1", "yuv420p", "aac", 28),
    ("flv", "flv", "yuv420p", "libmp3lame", 28),
    ("wmv", "wmv2", "yuv420p", "wmav2", 28),
    ("gif", "gif", "rgb8", "", 14),  # 256 fixed colours
]
_OPTIONS = {
    "libx264": {"crf": "10", "preset": "ultrafast"},
    "libvpx": {"crf": "4", "b": "4M", "deadline": "realtime", "cpu-used": "8"},
    "libvpx-vp9": {"crf": "10", "b": "0", "deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"crf": "12", "preset": "12", "svtav1-params": "lp=1:enable-tf=0"},
    "mpeg4": {"qscale": "2"},
}


@dataclass(frozen=True)
class Kind:
    """One file of the sweep."""

    suffix: str
    codec: str
    pix_fmt: str
    sound: str  # codec; "": none
    psnr: float  # dB
    rotation_deg: int = 0  # counter-clockwise, as the display matrix says
    is_mirrored: bool = False
    aspect: Fraction = Fraction(1)
    times_s: tuple[float, ...] = field(default=())
    layout: str = "stereo"

    @property
    def name(self) -> str:
        turn = f"{self.rotation_deg}{'m' if self.is_mirrored else ''}"
        aspect = f"{self.aspect.numerator}x{self.aspect.denominator}"
        rate = f"{len(self.times_s)}n{round(1000 * self.times_s[1])}"
        return f"{self.codec}-{turn}-{aspect}-{rate}-{self.layout}.{self.suffix}"


def regular(fps: float) -> tuple[float, ...]:
    return tuple(i / fps for i in range(round(SECONDS * fps)))


RATES = {
    "25": regular(25),
    "29.97": regular(30000 / 1001),
    "60": regular(60),
    "variable": tuple(np.concatenate([np.arange(6) / 10, FLASH_S + np.arange(18) / 30])),
}


def upright(is_flash: bool) -> np.ndarray:
    """A picture without symmetry, smooth enough for every codec, uint8 [HEIGHT, WIDTH, 3]; brighter in the flash."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([60 + x, 60 + 1.5 * y, 160 - 0.5 * x], -1)
    image[: HEIGHT // 4, : WIDTH // 4] += 50
    return np.clip(image + 60 * is_flash, 0, 255).astype(np.uint8)


def stored(image: np.ndarray, kind: Kind) -> np.ndarray:
    """What the file holds so that `image` is shown: the display matrix turns, then mirrors."""
    if kind.is_mirrored:
        image = image[:, ::-1]
    image = np.rot90(image, -(kind.rotation_deg // 90))
    wide = kind.aspect.numerator // kind.aspect.denominator
    high = kind.aspect.denominator // kind.aspect.numerator
    # Each pixel of the file is shown as several: their mean.
    height, width = image.shape[0] // max(high, 1), image.shape[1] // max(wide, 1)
    blocks = image.reshape(height, image.shape[0] // height, width, image.shape[1] // width, 3)
    return np.ascontiguousarray(blocks.mean((1, 3)).astype(np.uint8))


def write(folder: Path, kind: Kind) -> Path:
    path = folder / kind.name
    with av.open(str(path), "w") as container:
        rate = Fraction(round((len(kind.times_s) - 1) * 1000 / kind.times_s[-1]), 1000)
        picture = stored(upright(False), kind)
        stream = container.add_stream(kind.codec, rate=rate.limit_denominator(1001))
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = kind.pix_fmt
        stream.options = dict(_OPTIONS.get(kind.codec, {"qscale": "2"}))
        if kind.aspect != 1:
            stream.codec_context.sample_aspect_ratio = kind.aspect
        if kind.rotation_deg or kind.is_mirrored:
            stream.set_display_rotation(kind.rotation_deg, hflip=kind.is_mirrored)
        if kind.codec == "libsvtav1":
            stream.codec_context.gop_size = 1  # else it blends the flash with the frames around it
        base = _time_base(kind)
        stream.codec_context.time_base = base
        sound = None
        if kind.sound:
            sound = container.add_stream(kind.sound, rate=SOUND_RATE, layout=kind.layout)
            if kind.sound == "wmav2":
                sound.bit_rate = 128_000  # it has no default that it takes
        for time_s in kind.times_s:
            is_flash = FLASH_S - 1e-6 <= time_s < FLASH_S + 0.1
            frame = av.VideoFrame.from_ndarray(stored(upright(is_flash), kind), "rgb24")
            frame = frame.reformat(format=kind.pix_fmt)
            frame.pts, frame.time_base = round(time_s / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            _write_beep(container, sound, kind.layout)
    return path


def _time_base(kind: Kind) -> Fraction:
    if kind.codec in ("mpeg4", "mpeg2video", "flv", "wmv2") or kind.suffix in ("avi", "gif"):
        steps = {round(b - a, 4) for a, b in zip(kind.times_s, kind.times_s[1:], strict=False)}
        if len(steps) <= 2:  # rounded
            fps = (len(kind.times_s) - 1) / kind.times_s[-1]
            return Fraction(1001, 30000) if 29.9 < fps < 29.99 else Fraction(1, round(fps))
    return Fraction(1, 1000)


def _write_beep(container: Any, stream: Any, layout: str) -> None:
    t = np.arange(round(SECONDS * SOUND_RATE)) / SOUND_RATE
    wave = 0.5 * np.sin(2 * np.pi * 1000 * t) * ((t >= FLASH_S) & (t < FLASH_S + 0.1))
    n = av.AudioLayout(layout).nb_channels
    frame = av.AudioFrame.from_ndarray(
        np.repeat(wave[None], n, 0).astype(np.float32), "fltp", layout
    )
    frame.sample_rate, frame.pts = SOUND_RATE, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
