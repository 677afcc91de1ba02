"""How moving pictures are encoded, by the suffix of their file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image


@dataclass(frozen=True)
class Encoding:
    """One kind of file."""

    codec: str
    pixels: str  # FFmpeg's pixel format
    options: dict[str, str] = field(default_factory=dict)  # of the encoder
    sound: str | None = None  # codec of the sound; None: the kind has none
    transparent: str | None = None  # pixel format of frames with four channels; None: it takes none
    muxer: dict[str, str] = field(default_factory=dict)  # options of the container

    def start(self, stream: Any, channels: int) -> None:
        """Tell a new stream what it will be given: RGB (3 channels) or RGBA (4)."""
        stream.pix_fmt = self.transparent if channels == 4 else self.pixels
        stream.options = dict(self.options)
        context = stream.codec_context
        if self.pixels == "yuv420p":
            context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
            context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709

    def frame(self, image: np.ndarray) -> Any:
        """A picture uint8 [H, W, 3 or 4] of even sides -> what the encoder takes."""
        if self.pixels == "pal8":
            return _in_256_colours(image)
        transparent = image.shape[2] == 4
        source = av.VideoFrame.from_ndarray(
            np.ascontiguousarray(image), format="rgba" if transparent else "rgb24"
        )
        return source.reformat(
            format=self.transparent if transparent else self.pixels,
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            dst_color_trc=ColorTrc.BT709,
            dst_color_primaries=ColorPrimaries.BT709,
        )


# Without frames that are predicted from later ones, so that decoding and showing have one order: only then does MP4
# hold how long each frame is shown, and the last one to its end.
_H264 = Encoding("libx264", "yuv420p", {"crf": "17", "preset": "medium", "bf": "0"}, "aac")
ENCODINGS = {
    **dict.fromkeys((".mp4", ".mkv", ".mov", ".m4v"), _H264),
    ".webm": Encoding(
        "libvpx-vp9",
        "yuv420p",
        {"crf": "22", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
        "libopus",
        "yuva420p",
    ),
    ".webp": Encoding(
        "libwebp_anim", "yuv420p", {"quality": "85"}, None, "yuva420p", muxer={"loop": "0"}
    ),
    ".gif": Encoding("gif", "pal8", muxer={"loop": "0"}),
}


def encoding_of(path: Path) -> Encoding | None:
    """How a file of this name is encoded; None: it is no moving picture."""
    return ENCODINGS.get(path.suffix.lower())


def _in_256_colours(image: np.ndarray) -> Any:
    found = Image.fromarray(image[..., :3]).quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
    colours = np.array(found.getpalette("RGB"), np.uint8).reshape(-1, 3)
    palette = np.zeros((256, 4), np.uint8)  # alpha, red, green, blue
    palette[:, 0] = 255
    palette[: len(colours), 1:] = colours
    indexed: Any = (np.asarray(found), palette)  # as PyAV takes it, whatever its types say
    return av.VideoFrame.from_ndarray(indexed, format="pal8")
