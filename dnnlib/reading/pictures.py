"""Pictures: one list of formats, one set of limits, one rule of how a picture is meant to be seen.

The rule of `read_picture`: turned as EXIF says, colours of an embedded profile brought to sRGB, CMYK and palettes
converted, transparent parts on white, 16-bit grey scaled by 65535 and floating-point grey by 1; of a moving picture the
first frame.
"""

from __future__ import annotations

import functools
import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from dnnlib.errors import UserError
from dnnlib.reading.files import check_file

# Formats that Pillow decodes in this process. Left out, above all: PostScript, for which it starts Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "PPM")
MAX_MEGAPIXELS = 100.0  # decoded: with the copies that a conversion needs about 1.5 GiB
MAX_FILE_MEGAPIXELS = 300.0  # of a JPEG that is decoded at reduced size
BACKGROUND = (255, 255, 255)  # seen through what is transparent
_ADVICE = "give a PNG, JPEG, WebP, BMP, TIFF, GIF or AVIF file"
_MAX_FLOAT = 2.0  # floating-point pictures hold 0..1, with a margin for overshoot
_FROM_16_BITS = ((np.arange(65536) * 255 + 32767) // 65535).astype(np.uint8)
_PILLOW_LIMIT = Image.MAX_IMAGE_PIXELS
_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")


def open_picture(
    source: str | os.PathLike[str] | bytes,  # a path, or the file's bytes
    name: str | None = None,  # for messages; None: the path
    *,
    upright: bool = False,  # turn it as EXIF says
    max_side: int | None = None,  # JPEG: decode at reduced size, this or more
    min_side: int = 1,  # pixels; refuse smaller pictures
    max_megapixels: float = math.inf,  # refuse larger ones; MAX_MEGAPIXELS at most
) -> Image.Image:
    """A decoded picture in the mode of its file; `read_picture` gives what people see.

    Raises:
        UserError: it is missing, empty, no picture of these formats, damaged, too small or too large.
    """
    name = _name(source, name)
    if isinstance(source, bytes):
        stream: Any = io.BytesIO(source)
    else:
        stream = check_file(source, _ADVICE)
    with _in_words(name), _opened(stream) as image:
        if min(image.size) < min_side:
            raise UserError(
                f"{name} has {image.width} x {image.height} pixels; use one of at least {min_side} x {min_side}"
            )
        _check_pixels(image.size, name, MAX_FILE_MEGAPIXELS)
        if max_side is not None:
            image.draft("RGB", (max_side, max_side))
        _check_pixels(image.size, name, min(max_megapixels, MAX_MEGAPIXELS))
        image.load()
        if upright:
            ImageOps.exif_transpose(image, in_place=True)  # here: TIFF keeps it in the open file
        return image


def read_picture(
    source: str | os.PathLike[str] | bytes,
    name: str | None = None,
    *,
    max_side: int | None = None,  # reduce to this longer side
    min_side: int = 1,
    max_megapixels: float = math.inf,
) -> np.ndarray:
    """A picture as people see it, uint8 sRGB [H, W, 3]; see the module for the rule.

    Raises:
        UserError: see `open_picture`; or a floating-point picture holds NaN, infinity or values beyond 0..1.
    """
    name = _name(source, name)
    image = open_picture(
        source,
        name,
        upright=True,
        max_side=max_side,
        min_side=min_side,
        max_megapixels=max_megapixels,
    )
    with _in_words(name):  # profiles and palettes may be damaged, too
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            image = Image.fromarray(_scaled(np.asarray(image), image.mode, name))
        image = _in_srgb(image)  # one name for all: at 100 megapixels every copy counts
        image = _on_background(image)
        if max_side is not None and max(image.size) > max_side:
            image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=3.0)
        return np.array(image)


def _name(source: str | os.PathLike[str] | bytes, name: str | None) -> str:
    return name or ("the picture" if isinstance(source, bytes) else os.fspath(source))


@contextmanager
def _in_words(name: str) -> Iterator[None]:
    """Pillow's readers raise whatever a damaged file leads them to."""
    try:
        yield
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{name} cannot be read as a picture; {_ADVICE}") from error
    except Exception as error:
        raise UserError(
            f"{name} cannot be read because it is damaged; save it anew or give another picture"
        ) from error


def _opened(stream: Any) -> Image.Image:
    # Sizes are judged in `_check_pixels`, in words; Pillow's own limit would only warn, and knows no reduced decoding.
    # Should another thread set the limit back just now, Pillow refuses what is too large: no harm.
    try:
        Image.MAX_IMAGE_PIXELS = None
        return Image.open(stream, formats=FORMATS)
    finally:
        Image.MAX_IMAGE_PIXELS = _PILLOW_LIMIT


def _check_pixels(size: tuple[int, int], name: str, limit: float) -> None:
    width, height = size
    if width * height > limit * 1e6:
        raise UserError(
            f"{name} has {width} x {height}, too many pixels; reduce it below {limit:.0f} megapixels"
        )


def _scaled(values: np.ndarray, mode: str, name: str) -> np.ndarray:
    """Grey of 16 bits or floating point -> uint8 [H, W], rounded."""
    if mode == "F":
        if not np.isfinite(values).all():
            raise UserError(f"{name} holds NaN or infinity; write the picture again")
        if values.size and values.max() > _MAX_FLOAT:
            raise UserError(
                f"{name} is a floating-point picture with values up to {values.max():g}; scale them to 0..1"
            )
        scaled = np.clip(values, 0, 1)
        scaled *= np.float32(255)
        scaled += np.float32(0.5)
        return scaled.astype(np.uint8)
    whole = values if values.dtype.kind == "u" else np.clip(values, 0, 65535)
    return np.take(_FROM_16_BITS, whole.astype(np.uint16, copy=False))


def _in_srgb(image: Image.Image) -> Image.Image:
    """Colours of the embedded profile -> sRGB. A profile that is none, or fits other channels, is passed over."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    if image.mode in ("P", "PA"):
        has_alpha = image.mode == "PA" or "transparency" in image.info
        image = image.convert("RGBA" if has_alpha else "RGB")
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    colour = image.convert({"RGBA": "RGB", "LA": "L"}.get(image.mode, image.mode))  # a copy
    transform = _to_srgb(bytes(profile), colour.mode)
    if transform is None:
        return image
    if colour.mode == "RGB":
        ImageCms.applyTransform(colour, transform, inPlace=True)
        converted = colour
    else:
        converted = cast(Image.Image, ImageCms.applyTransform(colour, transform))
    if alpha is not None:
        converted.putalpha(alpha)
    elif "transparency" in image.info and image.mode == "RGB":
        keyed = image.convert("RGBA").getchannel("A")  # one colour of the file stands for nothing
        converted.putalpha(keyed)
    return converted


def colours_in_srgb(image: np.ndarray, profile: bytes) -> np.ndarray:
    """uint8 RGB [H, W, 3] with the colours of an ICC profile -> sRGB; a profile that is none is passed over."""
    transform = _to_srgb(profile, "RGB")
    if transform is None:
        return image
    converted = cast(Image.Image, ImageCms.applyTransform(Image.fromarray(image), transform))
    return np.array(converted)


@functools.lru_cache(maxsize=8)
def _to_srgb(profile: bytes, mode: str) -> Any:
    """Pillow's transform; None where the profile is sRGB itself, damaged, or does not fit the mode."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except Exception:  # LittleCMS says no in several ways; viewers then show the numbers as sRGB
        return None


def _on_background(image: Image.Image) -> Image.Image:
    if image.mode not in _TRANSPARENT and "transparency" not in image.info:
        return image if image.mode == "RGB" else image.convert("RGB")
    rgba = image.convert("RGBA")
    ground = Image.new("RGB", rgba.size, BACKGROUND)
    ground.paste(rgba, mask=rgba.getchannel("A"))
    return ground
