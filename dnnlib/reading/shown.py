"""How a frame of a video is meant to be seen: square pixels, turned, colours in BT.709 with 8 bits.

What the file says counts: colour matrix, range, primaries and transfer, an ICC profile, the pixels' aspect, the display
matrix with its mirrors. Untold, colours are what players take them for: BT.709 for HD, BT.601 for smaller pictures.
High dynamic range comes down to SDR: HLG with its reference white (75 %) as white, PQ by its absolute brightness with
100 cd/m2 as white, both with the shoulder of BT.2390 for what is brighter.
"""

from __future__ import annotations

import functools
import os
import struct
from fractions import Fraction
from typing import Any

import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from dnnlib.errors import UserError
from dnnlib.reading.containers import MAX_MEGAPIXELS
from dnnlib.reading.pictures import colours_in_srgb

_UNTOLD = 2  # of H.273: matrix, primaries and transfer alike
_MATRICES = (0, 1, _UNTOLD, 3, 4, 5, 6, 7, 9)  # those that swscale computes; 0: RGB
_TO_BT709 = {  # linear RGB of these primaries -> of BT.709 (white D65; DCI's white is taken for it)
    int(ColorPrimaries.BT2020): (
        (1.660491, -0.587641, -0.072850),
        (-0.124550, 1.132900, -0.008349),
        (-0.018151, -0.100579, 1.118730),
    ),
    **dict.fromkeys(
        (int(ColorPrimaries.SMPTE431), int(ColorPrimaries.SMPTE432)),
        (
            (1.224940, -0.224940, 0.0),
            (-0.042057, 1.042057, 0.0),
            (-0.019638, -0.078636, 1.098274),
        ),
    ),
}
_GAMMA = 2.4  # of an SDR display (BT.1886)
_SDR_WHITE = 100.0  # cd/m2
_HLG_WHITE, _HLG_PEAK = 203.0, 1000.0  # cd/m2 (BT.2408)
_PQ_PEAK = 1000.0  # where the file does not say
_HLG_WEIGHTS = np.array([0.2627, 0.6780, 0.0593], np.float32)  # luminance of BT.2020


def shown_picture(
    frame: Any,  # av.VideoFrame
    path: str | os.PathLike[str],  # for messages
    aspect: Fraction | None = None,  # width of a pixel by its height, as the stream says
    max_side: int | None = None,  # larger pictures are reduced to this longer side
) -> np.ndarray:
    """uint8 RGB [H, W, 3]; of pixels that are not square the short side is enlarged.

    Raises:
        UserError: too many pixels, or turned or coloured in a way that nobody can tell apart from damage.
    """
    turn = _turn(frame, path)
    width, height = _square(frame.width, frame.height, aspect, path)
    if max_side is not None and (longer := max(width, height)) > max_side:
        width, height = (max(1, round(v * max_side / longer)) for v in (width, height))
    image = _coloured(frame, path, width, height)
    return image if turn is None else _turned(image, turn)


def _square(
    width: int, height: int, aspect: Fraction | None, path: str | os.PathLike[str]
) -> tuple[int, int]:
    if not aspect or aspect <= 0 or aspect == 1:
        return width, height
    wide, high = max(aspect, Fraction(1)), max(1 / aspect, Fraction(1))
    shown = round(width * wide), round(height * high)
    if shown[0] * shown[1] > MAX_MEGAPIXELS * 1e6:
        raise UserError(
            f"{path} has {width} x {height} pixels of {aspect.numerator}:{aspect.denominator}, too large with square "
            "ones; convert it to square pixels"
        )
    return shown


# ---- display matrix ----------------------------------------------------------------------------------------------


def _turn(frame: Any, path: str | os.PathLike[str]) -> tuple[float, float, float, float] | None:
    """(a, b, c, d) of the display matrix: right = a x + c y, down = b x + d y; None: as it is stored."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    a, b, _, c, d = struct.unpack("<9i", bytes(matrix)[:36])[:5]
    size = max(abs(v) for v in (a, b, c, d))
    off = (b, c) if abs(a) + abs(d) >= abs(b) + abs(c) else (a, d)
    on = (a, d) if off == (b, c) else (b, c)
    # A degree is what phones round away; beyond it the picture lies at an angle that has no upright pixels.
    if size == 0 or min(map(abs, on)) == 0 or max(map(abs, off)) > 0.02 * size:
        raise UserError(
            f"{path} is shown at an angle that is no quarter turn; convert it to upright pictures"
        )
    return a, b, c, d


def _turned(image: np.ndarray, turn: tuple[float, float, float, float]) -> np.ndarray:
    a, b, c, d = turn
    if abs(b) > abs(a):  # what lay to the right lies below
        image = image.transpose(1, 0, 2)
        right, down = c, b
    else:
        right, down = a, d
    image = image[:, ::-1] if right < 0 else image
    return np.ascontiguousarray(image[::-1] if down < 0 else image)


# ---- colours -----------------------------------------------------------------------------------------------------


def _coloured(frame: Any, path: str | os.PathLike[str], width: int, height: int) -> np.ndarray:
    matrix, primaries = int(frame.colorspace), int(frame.color_primaries)
    transfer = int(frame.color_trc)
    is_dolby = matrix == _UNTOLD and frame.side_data.get("DOVI_METADATA") is not None
    if matrix not in _MATRICES or is_dolby:
        raise UserError(
            f"{path} has colours of a kind that is not read (matrix {matrix} of H.273); convert it to BT.709"
        )
    is_hdr = transfer in (int(ColorTrc.SMPTE2084), int(ColorTrc.ARIB_STD_B67))
    wide = _TO_BT709.get(
        int(ColorPrimaries.BT2020) if is_hdr and primaries == _UNTOLD else primaries
    )
    options: dict[str, Any] = {"width": width, "height": height}
    if matrix == _UNTOLD and not frame.format.is_rgb and len(frame.format.components) >= 3:
        options["src_colorspace"] = _untold_matrix(frame, primaries, is_hdr)
    if int(frame.color_range) in (1, 2):
        options["src_color_range"] = ColorRange(int(frame.color_range))
    if not is_hdr and wide is None:
        image: np.ndarray = frame.to_ndarray(format="rgb24", **options)
        profile = frame.side_data.get("ICC_PROFILE")
        return image if profile is None else colours_in_srgb(image, bytes(profile))
    deep = frame.to_ndarray(format="rgb48le", **options)
    linear = np.take(_linear(transfer if is_hdr else 0), deep)
    if is_hdr:
        linear = _down_to_sdr(linear, transfer, _peak(frame))
    if wide is not None:
        linear = linear @ np.array(wide, np.float32).T
    np.clip(linear, 0, 1, out=linear)
    return (linear ** np.float32(1 / _GAMMA) * 255 + 0.5).astype(np.uint8)


def _untold_matrix(frame: Any, primaries: int, is_hdr: bool) -> Colorspace:
    """What the primaries imply, else what players take: a size of HD is BT.709."""
    if is_hdr or primaries == ColorPrimaries.BT2020:
        return Colorspace.BT2020
    if primaries in (ColorPrimaries.BT470BG, ColorPrimaries.SMPTE170M):
        return Colorspace.ITU601
    is_hd = frame.width >= 1280 or frame.height > 576
    return Colorspace.ITU709 if is_hd or primaries == ColorPrimaries.BT709 else Colorspace.ITU601


@functools.lru_cache(maxsize=4)
def _linear(transfer: int) -> np.ndarray:
    """Code of 16 bits -> light, float32 [65536]: of PQ in cd/m2, of HLG the scene's, of SDR (0) with white 1."""
    code = np.arange(65536) / 65535
    if transfer == int(ColorTrc.SMPTE2084):
        return _from_pq(code).astype(np.float32)
    if transfer == int(ColorTrc.ARIB_STD_B67):
        a, b, c = 0.17883277, 0.28466892, 0.55991073  # BT.2100
        bright = (np.exp((code - c) / a) + b) / 12
        return np.where(code <= 0.5, code**2 / 3, bright).astype(np.float32)
    return (code**_GAMMA).astype(np.float32)


def _from_pq(code: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084: code in [0, 1] -> cd/m2."""
    power = np.power(code, 32 / 2523)
    return 10000 * np.power(
        np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power), 16384 / 2610
    )


def _to_pq(light: np.ndarray) -> np.ndarray:
    power = np.power(light / 10000, 2610 / 16384)
    return np.power((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power), 2523 / 32)


def _down_to_sdr(light: np.ndarray, transfer: int, peak: float) -> np.ndarray:
    """-> linear light float32 [H, W, 3] of the same primaries, white 1; hues stay."""
    if transfer == int(ColorTrc.ARIB_STD_B67):
        luminance = (light @ _HLG_WEIGHTS)[..., None]
        light = light * np.power(luminance, 0.2) * (_HLG_PEAK * _SDR_WHITE / _HLG_WHITE)
        peak = _HLG_PEAK * _SDR_WHITE / _HLG_WHITE
    brightest = light.max(-1, keepdims=True)
    at, gain = _shoulder(max(peak, _SDR_WHITE))
    # the table's steps are even in the fourth root, which is how fine the eye tells dark from darker
    gains = np.interp(np.sqrt(np.sqrt(brightest)), at, gain).astype(np.float32)
    return np.asarray(light * gains)


@functools.lru_cache(maxsize=4)
def _shoulder(peak: float) -> tuple[np.ndarray, np.ndarray]:
    """BT.2390's curve from a display of `peak` cd/m2 to one of 100: (fourth roots of light, gain to white 1)."""
    at = np.linspace(0, 10000**0.25, 2048)
    light = np.maximum(at**4, 1e-4)
    top = _to_pq(np.array(peak))
    code = np.minimum(_to_pq(light) / top, 1)
    limit = float(_to_pq(np.array(_SDR_WHITE)) / top)
    knee = 1.5 * limit - 0.5
    t = np.clip((code - knee) / max(1 - knee, 1e-9), 0, 1)
    curve = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * limit
    )
    mapped = _from_pq(np.where(code < knee, code, curve) * top)
    return at, mapped / light / _SDR_WHITE


def _peak(frame: Any) -> float:
    """The brightest light of the film in cd/m2: what its light level says, else 1000."""
    level = frame.side_data.get("CONTENT_LIGHT_LEVEL")
    if level is None:
        return _PQ_PEAK
    most = struct.unpack("<I", bytes(level)[:4])[0]
    return float(most) if _SDR_WHITE <= most <= 10000 else _PQ_PEAK
