"""One reader of pictures with one rule, and no program that a picture could start."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from dataset.codecs import decode_depth, decode_image, encode_depth
from dataset.preparation.frames import open_source
from dataset.preparation.sources import Source
from dnnlib.errors import UserError
from dnnlib.reading import pictures
from dnnlib.reading.pictures import open_picture, read_picture
from metrics.clips import Failures, frame_pairs, list_sources, source_of
from tracking.media import load_photo
from tracking.pictures import open_pictures


def gradient(width: int = 96, height: int = 80) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 2, y * 2, np.full_like(x, 90)], -1).astype(np.uint8)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def _s15(x: float) -> bytes:
    return struct.pack(">i", round(x * 65536))


def display_p3(gamma: float = 2.2) -> bytes:
    """An ICC profile with the primaries of Display P3, as phones embed them."""

    def xyz(*v: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(_s15, v))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"Display P3\0"
    tags = [
        (b"desc", b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + b"\0" * 78),
        (b"cprt", b"text\0\0\0\0none\0"),
        (b"wtpt", xyz(0.9642, 1, 0.8249)),
        (b"rXYZ", xyz(0.5151, 0.2412, -0.0011)),
        (b"gXYZ", xyz(0.2920, 0.6922, 0.0419)),
        (b"bXYZ", xyz(0.1571, 0.0666, 0.7841)),
        *((name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")),
    ]
    place, table, data = 132 + 12 * len(tags), b"", b""
    for name, body in tags:
        body += b"\0" * (-len(body) % 4)
        table += name + struct.pack(">II", place + len(data), len(body))
        data += body
    body = struct.pack(">I", len(tags)) + table + data
    head = struct.pack(
        ">I4sI4s4s4s", 128 + len(body), b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ "
    )
    head += (
        b"\x07\xe6\0\1\0\1\0\0\0\0\0\0acspAPPL" + bytes(24) + _s15(0.9642) + _s15(1) + _s15(0.8249)
    )
    return head.ljust(128, b"\0") + body


def _save(path: Path, image: Image.Image, **options: object) -> np.ndarray:
    image.save(path, **options)  # type: ignore[arg-type]
    return gradient()


def _turned(path: Path) -> np.ndarray:
    return _save(path / "a.png", Image.fromarray(np.rot90(gradient()).copy()), exif=_exif(6))


def _turned_tiff(path: Path) -> np.ndarray:
    return _save(path / "a.tif", Image.fromarray(np.rot90(gradient()).copy()), exif=_exif(6))


def _mirrored(path: Path) -> np.ndarray:
    return _save(path / "a.png", Image.fromarray(gradient()[:, ::-1].copy()), exif=_exif(2))


def _deep(path: Path) -> np.ndarray:
    grey = gradient()[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(path / "a.png")
    return np.repeat(grey[..., None], 3, 2)


def _deep_big_endian(path: Path) -> np.ndarray:
    grey = gradient()[..., 0]
    content = (grey.astype(np.uint16) * 257).astype(">u2").tobytes()
    Image.frombytes("I;16B", (96, 80), content).save(path / "a.tif")
    return np.repeat(grey[..., None], 3, 2)


def _float(path: Path) -> np.ndarray:
    grey = gradient()[..., 0]
    Image.fromarray(grey.astype(np.float32) / 255).save(path / "a.tif")
    return np.repeat(grey[..., None], 3, 2)


def _clear(path: Path) -> np.ndarray:
    image = gradient()
    alpha = np.where(np.arange(96) < 48, 255, 0).astype(np.uint8)
    rgba = np.concatenate([image, np.broadcast_to(alpha, (80, 96))[..., None]], 2)
    Image.fromarray(rgba).save(path / "a.png")
    image[:, 48:] = 255
    return image


def _half_clear(path: Path) -> np.ndarray:
    rgba = np.zeros((80, 96, 4), np.uint8)
    rgba[..., 3] = 51  # black, a fifth of it
    Image.fromarray(rgba).save(path / "a.png")
    return np.full((80, 96, 3), 204, np.uint8)


def _key_colour(path: Path) -> np.ndarray:
    image = gradient()
    image[:10] = (1, 2, 3)
    Image.fromarray(image).save(path / "a.png", transparency=(1, 2, 3))
    image[:10] = 255
    return image


def _clear_palette(path: Path) -> np.ndarray:
    image = Image.new("P", (96, 80), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.paste(1, (0, 0, 48, 80))
    image.save(path / "a.gif", transparency=0)
    expected = np.full((80, 96, 3), 255, np.uint8)
    expected[:, :48] = (40, 50, 60)
    return expected


@pytest.mark.parametrize(
    "make",
    [
        *(_turned, _turned_tiff, _mirrored, _deep, _deep_big_endian, _float),
        *(_clear, _half_clear, _key_colour, _clear_palette),
    ],
)
def test_every_reader_gives_what_people_see(
    tmp_path: Path, make: Callable[[Path], np.ndarray]
) -> None:
    expected = make(tmp_path)
    (path,) = tmp_path.iterdir()
    np.testing.assert_array_equal(read_picture(path), expected)
    np.testing.assert_array_equal(load_photo(path), expected)
    np.testing.assert_array_equal(decode_image(path.read_bytes()), expected)
    if path.suffix == ".gif":
        return  # a video to the rest
    np.testing.assert_array_equal(next(open_pictures(path).frames()), expected)
    np.testing.assert_array_equal(source_of(list_sources(tmp_path), "a"), expected)
    if path.suffix == ".png":
        with open_source(Source("x", str(tmp_path), "images"), 4096, 0) as prepared:
            np.testing.assert_array_equal(next(prepared.frames).image, expected)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_colours_of_a_profile_are_brought_to_srgb(tmp_path: Path, suffix: str) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    wide = display_p3(gamma=1.8)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(wide))
    expected = gradient() // 3 + 60  # inside of both gamuts
    stored = ImageCms.profileToProfile(Image.fromarray(expected), srgb, profile, outputMode="RGB")
    assert stored is not None
    options = {"quality": 98} if suffix in ("jpg", "webp") else {}
    stored.save(tmp_path / f"a.{suffix}", icc_profile=wide, **options)
    found = read_picture(tmp_path / f"a.{suffix}").astype(int)
    # Two roundings, and JPEG or WebP at high quality; unconverted it is off by 17.
    assert np.abs(found - expected).mean() < 1.5
    assert np.abs(np.asarray(stored, int) - expected).mean() > 4
    alpha = stored.copy()
    alpha.putalpha(255)
    alpha.save(tmp_path / "b.png", icc_profile=wide)
    assert np.abs(read_picture(tmp_path / "b.png").astype(int) - expected).mean() < 1.5


# Linear Display P3 -> linear sRGB, both D65 (from their primaries, CSS Color 4).
P3_TO_SRGB = np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]])


def _p3_in_srgb(image: np.ndarray, gamma: float) -> np.ndarray:
    """By arithmetic: uint8 of Display P3 with a plain gamma -> sRGB 0..255; beyond the gamut clipped."""
    linear = np.clip((image / 255) ** gamma @ P3_TO_SRGB.T, 0, 1)
    return 255 * np.where(linear < 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_every_reader_brings_wide_colours_to_srgb(tmp_path: Path, suffix: str) -> None:
    stored = gradient()
    stored[:16], stored[16:32] = (255, 0, 0), (200, 90, 70)  # a red beyond sRGB, and one within
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(stored).save(path, icc_profile=display_p3())
    found = load_photo(path)
    # Rounding of what is stored, and LittleCMS in 16 bits: worst seen 0.6.
    np.testing.assert_allclose(found, _p3_in_srgb(stored, 2.2), atol=1.5)
    assert tuple(found[0, 0]) == (255, 0, 0) and found[20, 0, 0] > 210  # as it is stored: 200
    np.testing.assert_array_equal(decode_image(path.read_bytes()), found)
    np.testing.assert_array_equal(next(open_pictures(path).frames()), found)
    np.testing.assert_array_equal(source_of(list_sources(tmp_path), "a"), found)
    (pair,) = frame_pairs(path, path, Failures(), "a")
    np.testing.assert_array_equal(pair.ref, found)
    with open_source(Source("x", str(tmp_path), "images"), 4096, 0) as prepared:
        np.testing.assert_array_equal(next(prepared.frames).image, found)


def test_profiles_of_grey_and_of_transparent_pictures(tmp_path: Path) -> None:
    stored = np.full((80, 96, 4), (200, 90, 70, 255), np.uint8)
    stored[:, 48:, 3] = 0
    Image.fromarray(stored).save(tmp_path / "a.png", icc_profile=display_p3())
    found = read_picture(tmp_path / "a.png")
    np.testing.assert_allclose(found[0, 0], _p3_in_srgb(stored[0, 0, :3], 2.2), atol=3)
    assert (found[:, 48:] == 255).all()  # white is white, whatever the profile
    paletted = Image.fromarray(stored[..., :3]).quantize(4)
    paletted.save(tmp_path / "p.png", icc_profile=display_p3())
    np.testing.assert_allclose(read_picture(tmp_path / "p.png")[0, 0], found[0, 0], atol=1)
    # A profile of colours in a grey picture fits nothing and is passed over, as browsers do.
    Image.new("L", (96, 80), 77).save(tmp_path / "g.png", icc_profile=display_p3())
    assert (read_picture(tmp_path / "g.png") == 77).all()


def test_a_profile_that_is_none_is_passed_over(tmp_path: Path) -> None:
    for i, profile in enumerate(
        (b"nonsense", display_p3()[:200], display_p3().replace(b"RGB ", b"GRAY"))
    ):
        Image.fromarray(gradient()).save(tmp_path / f"{i}.png", icc_profile=profile)
        np.testing.assert_array_equal(read_picture(tmp_path / f"{i}.png"), gradient())
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(gradient()).save(tmp_path / "s.png", icc_profile=srgb)
    np.testing.assert_array_equal(read_picture(tmp_path / "s.png"), gradient())  # to the bit


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "LA", "YCbCr"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(gradient()).convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    image.save(path)
    np.testing.assert_array_equal(read_picture(path), np.asarray(image.convert("RGB")))


def test_postscript_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ghostscript of ours on the path: it must not be called, whatever the picture's name says."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # looked for anew
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n"
    (tmp_path / "photo.jpg").write_text(text)
    for read in (read_picture, load_photo, lambda p: next(open_pictures(p).frames())):
        with pytest.raises(UserError, match=r"photo\.jpg cannot be read as a picture"):
            read(tmp_path / "photo.jpg")
    with pytest.raises(UserError):
        decode_image(text.encode())
    assert not (tmp_path / "started").exists()


def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    Image.new("1", (10_100, 10_000)).save(tmp_path / "bomb.png")
    with pytest.raises(UserError, match="10100 x 10000, too many pixels"):
        read_picture(tmp_path / "bomb.png")
    with pytest.raises(UserError, match="too many pixels"):
        load_photo(tmp_path / "bomb.png")
    assert Image.MAX_IMAGE_PIXELS is not None  # Pillow's own limit stays for others


def test_a_large_jpeg_is_decoded_at_reduced_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MAX_MEGAPIXELS", 0.5)
    Image.new("RGB", (1600, 1200), (200, 30, 30)).save(tmp_path / "a.jpg")
    assert read_picture(tmp_path / "a.jpg", max_side=400).shape == (300, 400, 3)
    with pytest.raises(UserError, match="too many pixels"):
        read_picture(tmp_path / "a.jpg")


@pytest.mark.parametrize("value", [np.nan, np.inf, 255.0])
def test_floating_point_pictures_hold_0_to_1(tmp_path: Path, value: float) -> None:
    Image.fromarray(np.full((8, 8), value, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif (holds NaN|is a floating-point picture)"):
        read_picture(tmp_path / "a.tif")


def test_a_picture_keeps_its_mode_when_it_is_only_opened(tmp_path: Path) -> None:
    depth = np.linspace(2.1, 3.9, 64, dtype=np.float32).reshape(8, 8)
    assert open_picture(encode_depth(depth)).mode == "I;16"
    assert np.abs(decode_depth(encode_depth(depth)) - depth).max() < 1 / 32768
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="16-bit"):
        decode_depth((tmp_path / "a.png").read_bytes())
