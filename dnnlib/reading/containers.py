"""Videos and sound: one `open_container` that takes paths and nothing else.

FFmpeg takes a name with a colon for an address (`http://...`, `tcp:...`, also `12:30.mp4`), and some of its formats are
lists of further addresses and files. Here a name is a file, whatever it looks like; nothing but files is opened for it,
and only formats that hold their own pictures are read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import av
from av.stream import Disposition

from dnnlib.errors import UserError
from dnnlib.reading.files import check_file

# Demuxers by FFmpeg's names. Left out: playlists (hls, dash, concat, sdp), numbered pictures, devices, and what
# nobody has filmed with for decades.
FORMATS = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg"),
    *("mpegvideo", "m4v", "h264", "hevc", "flv", "asf", "ogg", "gif", "apng", "mxf", "dv", "ivf"),
    *("nut", "yuv4mpegpipe", "png_pipe", "jpeg_pipe", "webp_pipe", "wav", "mp3", "aac", "flac"),
)
MAX_MEGAPIXELS = 40.0  # of a frame: 8192 x 4320 and some more
_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(FORMATS),
    "max_pixels": str(int(MAX_MEGAPIXELS * 1e6)),
}
# What PyAV raises about a file: FFmpeg's errors, and Python's own where the file's numbers make no sense (a rate of
# 1/0, a stream without decoder, a text that is no UTF-8).
BROKEN_MEDIA = (
    av.FFmpegError,
    OSError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    TypeError,
    RuntimeError,
    MemoryError,
    NotImplementedError,
)


def open_container(
    path: str | os.PathLike[str],
    mode: Literal["r", "w"] = "r",
    what: str = "a video",  # for messages
    options: Mapping[str, str] | None = None,  # of a container that is written
) -> Any:
    """PyAV's container of a local file; close it.

    Raises:
        UserError: to read: no such file, a folder, a device, not readable, damaged, or of another format.
    """
    url = f"file:{os.fspath(path)}"
    if mode == "w":
        return av.open(url, "w", options=dict(options or {}))
    check_file(path, f"give the path of {what}")
    with readable(path, what):
        return av.open(url, "r", options=dict(_OPTIONS), metadata_errors="replace")


def picture_stream(container: Any, path: str | os.PathLike[str]) -> Any:
    """The stream of a container that is its video: no cover, no thumbnail; the default one where several are.

    Raises:
        UserError: there is none, or none that can be decoded.
    """
    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [s for s in container.streams.video if not s.disposition & covers]
    if not streams:
        cover = ", only a cover" if container.streams.video else ""
        raise UserError(f"{Path(path)} has no video stream{cover}; give a video with pictures")
    known = [s for s in streams if s.codec_context is not None]
    if not known:
        raise UserError(
            f"{Path(path)} has pictures of a kind that cannot be decoded here; convert it to H.264"
        )
    return next((s for s in known if s.disposition & Disposition.default), known[0])


@contextmanager
def readable(path: str | os.PathLike[str], what: str = "a video") -> Iterator[None]:
    """Turns what PyAV raises about a file into one sentence.

    Raises:
        UserError: in place of every exception of BROKEN_MEDIA.
    """
    try:
        yield
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(
            f"{Path(path)} may not be read (permission denied); allow reading it"
        ) from error
    except BROKEN_MEDIA as error:
        raise UserError(
            f"{Path(path)} cannot be read as {what}; convert it to MP4 or give another"
        ) from error
