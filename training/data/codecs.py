"""One channel of one frame as bytes, and back: colour images, depth, masks."""

from __future__ import annotations

import io
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from dnnlib.errors import UserError
from dnnlib.reading.pictures import open_picture, read_picture

ImageCodec = Literal["png", "webp", "jpg"]

# Depth is stored as 16-bit PNG: value = round((depth - DEPTH_MIN) * DEPTH_SCALE), depth being the ray distance in
# world units. The camera orbits at 2.7 and the head fits a box of side 1, so 2..4 holds every surface.
DEPTH_MIN = 2.0
DEPTH_MAX = 4.0
DEPTH_SCALE = 32768.0

LOSSY_QUALITY = 95  # webp and jpg; png is lossless


def encode_image(image: npt.NDArray[np.uint8], codec: ImageCodec) -> bytes:
    """Encode uint8 RGB [H, W, 3] as `codec`; the same pixels give the same bytes."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    buffer = io.BytesIO()
    if codec == "png":
        picture.save(buffer, format="PNG", compress_level=6)
    elif codec == "webp":
        picture.save(buffer, format="WEBP", quality=LOSSY_QUALITY, method=4)
    elif codec == "jpg":
        picture.save(buffer, format="JPEG", quality=LOSSY_QUALITY, subsampling=0)
    else:
        raise ValueError(f"unknown image codec {codec!r}")
    return buffer.getvalue()


def decode_image(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode to uint8 RGB [H, W, 3], as every picture is read (`read_picture`). Raises UserError when damaged."""
    return read_picture(data)


def encode_depth(depth: npt.NDArray[np.floating]) -> bytes:
    """Encode ray distances [H, W], world units, as 16-bit PNG; values outside 2..4 (also infinity) are clipped."""
    value = np.clip(np.rint((depth.astype(np.float64) - DEPTH_MIN) * DEPTH_SCALE), 0, 65535)
    buffer = io.BytesIO()
    Image.fromarray(value.astype(np.uint16)).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def decode_depth(data: bytes) -> npt.NDArray[np.float32]:
    """Decode to float32 ray distances [H, W], world units. Raises UserError when damaged or not of 16 bits."""
    picture = open_picture(data)
    if not picture.mode.startswith("I"):
        raise UserError(
            f"the depth is stored as {picture.mode}, not as 16-bit grey; write it again"
        )
    value = np.array(picture, dtype=np.uint16)
    return (value.astype(np.float32) / np.float32(DEPTH_SCALE) + np.float32(DEPTH_MIN)).astype(
        np.float32
    )


def encode_mask(mask: npt.NDArray[np.generic]) -> bytes:
    """Encode a mask [H, W] as 8-bit PNG: uint8 0..255 as it is, bool or float 0..1 scaled by 255."""
    if mask.dtype != np.uint8:
        mask = np.rint(np.clip(mask.astype(np.float32), 0.0, 1.0) * 255.0).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(cast("npt.NDArray[np.uint8]", mask)).save(
        buffer, format="PNG", compress_level=6
    )
    return buffer.getvalue()


def decode_mask(data: bytes) -> npt.NDArray[np.float32]:
    """Decode to float32 [H, W] in 0..1. Raises UserError when damaged."""
    value = np.array(open_picture(data).convert("L"), dtype=np.uint8)
    return value.astype(np.float32) / np.float32(255.0)
