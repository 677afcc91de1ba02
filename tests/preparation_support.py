"""Small videos of a face, made of the astronaut's portrait (public domain, part of scikit-image)."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import skimage.data
from PIL import Image

from dataset.preparation.options import VideoOptions
from dataset.preparation.run import Summary, prepare

FACE_WINDOW = (130, 10, 350, 230)  # left, top, right, bottom of the portrait's head in the photo


def portrait(size: int = 160, shift: int = 0, mirrored: bool = False) -> np.ndarray:
    """The head, uint8 [size, size, 3]; `shift` moves it by pixels of the photo."""
    left, top, right, bottom = FACE_WINDOW
    photo = Image.fromarray(skimage.data.astronaut()).crop(
        (left + shift, top, right + shift, bottom)
    )
    image = np.asarray(photo.resize((size, size), Image.Resampling.BILINEAR))
    return np.ascontiguousarray(image[:, ::-1]) if mirrored else image


def moving(n_frames: int = 10, size: int = 160, mirrored: bool = False) -> list[np.ndarray]:
    """Frames of a head that moves slowly to the side."""
    return [portrait(size, shift=i % 12, mirrored=mirrored) for i in range(n_frames)]


def write_video(
    path: Path,
    frames: list[np.ndarray],
    fps: int = 25,
    times: list[float] | None = None,
    **options: Any,
) -> Path:
    """H.264 in whatever container the name says. times: of the frames, seconds, for variable frame rates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=options.pop("format", None)) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "12", "preset": "ultrafast"}
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[i] * 1000), Fraction(1, 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


QUICK: dict[str, Any] = {
    "resolution": 64,
    "min_frames": 4,
    "check_identity": False,
    "landmarks": True,
}


def prepared(source: Path, dest: Path, workers: int = 0, **options: Any) -> Summary:
    """Prepare with quick options, in this process unless told otherwise."""
    part = options.pop("part", (0, 1))
    engine = options.pop("engine", "local")
    chosen = VideoOptions(**{**QUICK, **options})
    return prepare(source, dest, chosen, workers=workers, part=part, engine=engine)


def tree(folder: Path) -> dict[str, bytes]:
    """Relative path -> bytes of every file."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
