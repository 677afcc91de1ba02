"""Labels in the letters in which people write."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dnnlib import lettering
from inference.panels import Canvas

_NAMES = (
    "Jürgen", "Łukasz", "Ελένη", "Юрий", "李小龍", "ひろし", "김민수", "שרה", "علي", "अनिल", "สมชาย", "😀", "→ ½ №"
)  # fmt: skip
_BOX = "\U0010ffff"  # what a letter without a font looks like


def _drawn(text: str, anchor: str = "mm") -> np.ndarray:
    page = Image.new("L", (200, 40), 255)
    lettering.draw_text(ImageDraw.Draw(page), (100, 20), text, 15, 0, anchor)  # type: ignore[arg-type]
    return np.asarray(page)


@pytest.mark.parametrize("name", _NAMES)
def test_every_letter_has_its_own_look(name: str) -> None:
    box = _drawn(_BOX)
    for letter in name.replace(" ", ""):
        picture = _drawn(letter)
        assert (picture < 128).any() and not np.array_equal(picture, box), letter
    assert len({_drawn(c).tobytes() for c in name}) == len(set(name))


def test_separate_accents_are_joined() -> None:
    assert np.array_equal(_drawn("Ju\u0308rgen"), _drawn("Jürgen"))
    assert not np.array_equal(_drawn("Jurgen"), _drawn("Jürgen"))


@pytest.mark.parametrize("text", ["a\u200bb", "a\nb", "❤\ufe0f", "\x00", "\u202eab", ""])
def test_what_has_no_look_leaves_no_box(text: str) -> None:
    visible = "".join(c for c in text if c in "ab❤")
    assert np.array_equal(_drawn(text), _drawn(visible))


def test_a_name_that_is_no_utf_8_is_drawn() -> None:
    assert np.array_equal(_drawn("a\udcff"), _drawn("a\ufffd"))


@pytest.mark.parametrize("text", ["plain", "李 Bruce 😀"])
def test_anchors_and_length(text: str) -> None:
    length = lettering.text_length(text, 15)
    columns = {a: np.flatnonzero((_drawn(text, a) < 200).any(0)) for a in ("lm", "mm", "rm")}
    assert columns["lm"].min() >= 99 and columns["rm"].max() <= 101  # an edge may be blurred
    for ink in columns.values():
        assert len(ink) and np.ptp(ink) <= length + 1
    rows = np.flatnonzero((_drawn("x") < 200).any(1))
    assert 14 <= rows.mean() <= 26


def test_long_labels_end_in_an_ellipsis() -> None:
    short = lettering.shortened("李" * 40, 15, 100)
    assert short.endswith("…") and lettering.text_length(short, 15) <= 100


def test_panels_tell_names_apart() -> None:
    pages = [Canvas([name], 1, 64).compose([None]) for name in ("李", "王", "Jürgen", "Jrgen")]
    assert len({page.tobytes() for page in pages}) == 4


def test_without_the_packages_a_plain_font_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "_open", lambda name, size_px, face: None)
    lettering._font_of.cache_clear()
    assert (_drawn("Jürgen") < 128).any()
    lettering._font_of.cache_clear()
