"""Text in pictures, in the letters in which people write: Noto's fonts, from the packages manimgx-fonts and -cjk.

Every letter is set in the first font that has it. Without the packages Pillow's own font is left, which has Latin
letters without accents; what no font has shows as a box.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from PIL import ImageDraw, ImageFont

from dnnlib.errors import UserError
from dnnlib.packaged import packaged_file

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_REGULAR = 400  # weight; the default of some variable fonts is thin
_NOWHERE = "\U0010ffff"  # no font has it: it shows what missing letters look like
_PLAIN = "NotoSans[wght].ttf"
_FURTHER = (  # in this order; Chinese, Japanese and Korean go before them
    "NotoEmoji[wght].ttf", "NotoSansSymbols[wght].ttf",
    *(f"NotoSans{script}[wght].ttf" for script in (
        "Arabic", "Hebrew", "Devanagari", "Bengali", "Thai", "Tamil", "Telugu", "Georgian", "Armenian", "Ethiopic",
        "Gujarati", "Gurmukhi", "Kannada", "Khmer", "Lao", "Malayalam", "Myanmar", "Oriya", "Sinhala",
    )),
)  # fmt: skip
_CJK = "NotoSansCJK-VF.otf.ttc"
_JAPANESE, _KOREAN, _CHINESE = (
    0,
    1,
    2,
)  # faces of that file: they draw the same characters differently


def text_length(text: str, size_px: int) -> float:
    """Width of a line of text, pixels."""
    return sum(font.getlength(part) for font, part in _runs(text, size_px))


def draw_text(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size_px: int,
    fill: tuple[int, int, int],
    anchor: str = "mm",  # as Pillow's: l, m (middle) or r; a (top), m (middle) or s (baseline)
) -> None:
    """Draw a line of text, of whatever letters; control characters are left out."""
    x, y = place
    x -= {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]] * text_length(text, size_px)
    plain = _plain(size_px)
    if not isinstance(plain, ImageFont.FreeTypeFont):  # a bitmap font knows no base line
        draw.text((x, y), _printable(text), fill=fill, font=plain)
        return
    ascent, descent = plain.getmetrics()
    y += {"a": ascent, "m": (ascent - descent) / 2, "s": 0.0}[anchor[1]]
    for font, part in _runs(text, size_px):
        draw.text((x, y), part, fill=fill, font=font, anchor="ls")
        x += font.getlength(part)


def shortened(text: str, size_px: int, width_px: float) -> str:
    """The text, or its beginning with an ellipsis, at most so wide where four letters fit."""
    while len(text) > 4 and text_length(text, size_px) > width_px:
        text = text[:-2].rstrip(" .…") + "…"
    return text


def _printable(text: str) -> str:
    """Accents joined to their letters, as macOS does not in names; nothing that has no look of its own."""
    kept = []
    for letter in unicodedata.normalize("NFC", text):
        kind = unicodedata.category(letter)
        if kind == "Cs":  # a byte of a name that is no UTF-8
            kept.append("\ufffd")
        elif kind not in ("Cc", "Cf") and not "\ufe00" <= letter <= "\ufe0f":
            kept.append(letter)
    return "".join(kept)


def _runs(text: str, size_px: int) -> list[tuple[Font, str]]:
    """The text in pieces of one font each."""
    text = _printable(text)
    face = _face(text)
    fonts: list[Font] = []
    for letter in text:
        # Marks and spaces stay with the letter before them, so that words are shaped as a whole.
        joins = unicodedata.category(letter) in ("Mn", "Mc", "Me", "Zs")
        keep = (
            fonts and joins and _has(fonts[-1], letter) and not (letter == " " and _wide(fonts[-1]))
        )
        fonts.append(fonts[-1] if keep else _font_of(letter, size_px, face))
    pairs = groupby(zip(fonts, text, strict=True), key=lambda pair: id(pair[0]))
    return [
        ((run := list(group))[0][0], "".join(letter for _, letter in run)) for _, group in pairs
    ]


def _wide(font: Font) -> bool:
    """Whether the font's space is as wide as its pictures."""
    return "Emoji" in str(getattr(font, "path", ""))


def _face(text: str) -> int:
    names = " ".join(unicodedata.name(letter, "")[:8] for letter in text)
    if "HIRAGANA" in names or "KATAKANA" in names:
        return _JAPANESE
    return _KOREAN if "HANGUL" in names else _CHINESE


@lru_cache(maxsize=4096)
def _font_of(letter: str, size_px: int, face: int) -> Font:
    plain = _plain(size_px)
    if ord(letter) < 128 or _has(plain, letter):
        return plain
    for name in (_CJK, *_FURTHER):
        font = _open(name, size_px, face if name == _CJK else 0)
        if font is not None and _has(font, letter):
            return font
    return plain


def _plain(size_px: int) -> Font:
    return _open(_PLAIN, size_px, 0) or _built_in(size_px)


@lru_cache(maxsize=16)
def _built_in(size_px: int) -> Font:
    return ImageFont.load_default(size=size_px)


@lru_cache(maxsize=64)
def _open(name: str, size_px: int, face: int) -> ImageFont.FreeTypeFont | None:
    """A packaged font at regular weight; None when its package is not installed."""
    package = "manimgx_fonts_cjk" if name == _CJK else "manimgx_fonts"
    try:
        path: Path = packaged_file(package, name, package.replace("_", "-"))
        font = ImageFont.truetype(str(path), size_px, index=face)
    except (UserError, OSError):
        return None
    font.set_variation_by_axes([_REGULAR])
    return font


@lru_cache(maxsize=4096)
def _has(font: Font, letter: str) -> bool:
    if letter.isspace():
        return True
    mask, missing = font.getmask(letter), font.getmask(_NOWHERE)
    return mask.size != missing.size or bytes(mask) != bytes(missing)
