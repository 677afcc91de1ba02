"""The viewer in a headless Chromium, with the shipped network; skips where no Chromium is installed."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser_support import Browser, Page, chromium
from PIL import Image
from viewer_support import serving, wait

from inference.demo import load_demo_network
from inference.tracked import AUTO, NetworkTracker
from viewer.examples import ASTRONAUT, EXAMPLES
from viewer.server import Viewer
from viewer.session import Studio

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def viewer() -> Iterator[Viewer]:
    network = load_demo_network()
    photos = {"astronaut": ASTRONAUT, "person 1": EXAMPLES / "person_1.jpg"}
    studio = Studio(network, NetworkTracker(network, size=AUTO), photos, {})
    with serving(studio) as viewer:
        yield viewer


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = chromium()
    if program is None:
        pytest.skip("needs Chromium or Google Chrome")
    browser = Browser(program, tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture
def page(viewer: Viewer, browser: Browser) -> Iterator[Page]:
    page = browser.page(viewer.url)
    page.wait_for("ms to render")
    yield page
    page.close()
    wait(lambda: viewer.panels == ())


def _head(page: Page) -> np.ndarray:
    """The middle of the window's part beside the panel, once it rests and is painted."""
    last = None
    while True:
        page.wait(
            "document.body.innerText.includes('ms to render') && !document.body.innerText.includes('moving')"
        )
        image = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(float)
        seen = image[:, 320:680]  # right of what viser says about software rendering
        if last is not None and np.abs(seen - last).max() < 8:
            return seen
        last = seen


def _differs(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean())


def test_a_slider_moves_the_mouth_and_the_mouse_turns_the_head(page: Page, viewer: Viewer) -> None:
    rest = _head(page)
    page.type_number("jawOpen", 0.7)
    session = viewer.panels[0].session
    wait(lambda: session.wish.units == {"jawOpen": 0.7})
    (moved,) = wait(lambda: [seen] if _differs(seen := _head(page), rest) > 1 else [])
    half = len(rest) // 2
    # the mouth is below the middle, eyes and brows above; grey levels, seen: 9 and 2
    assert _differs(moved[half:], rest[half:]) > 2 * _differs(moved[:half], rest[:half])
    page.wait_for("--unit jawOpen=0.7")
    page.drag((400, 350), (480, 340))
    wait(lambda: abs(session.wish.yaw_deg) > 5)
    wait(lambda: _differs(_head(page), moved) > 2)
    page.wait_for("--yaw")
    # nothing came from elsewhere
    ours = (f"http://127.0.0.1:{viewer.port}", f"ws://127.0.0.1:{viewer.port}")
    assert page.requested() and all(url.startswith(ours) for url in page.requested())


def test_files_that_are_sent_are_shown_or_refused_with_a_sentence(
    page: Page, viewer: Viewer, tmp_path: Path
) -> None:
    rest = _head(page)
    page.choose_file(0, EXAMPLES / "person_2.jpg")
    page.wait_for("-s person_2.jpg")
    wait(lambda: _differs(_head(page), rest) > 5)
    renamed = tmp_path / "face.jpg"
    renamed.write_bytes(pickle.dumps({"a": 1}))
    page.choose_file(0, renamed)
    page.wait_for("face.jpg is not a photo, whatever its name says")
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate(2**30)  # a gigabyte that takes no place
    page.choose_file(0, huge)
    page.wait_for("huge.png has 1,024 MiB, and a photo may have 20")
    assert "-s person_2.jpg" in page.text()


def test_two_pages_are_apart(page: Page, viewer: Viewer, browser: Browser) -> None:
    other = browser.page(viewer.url)
    other.wait_for("ms to render")
    before = _head(other)
    page.choose_file(0, EXAMPLES / "person_1.jpg")
    page.type_number("jawOpen", 0.5)
    page.wait_for("-s person_1.jpg")
    page.wait_for("--unit jawOpen=0.5")
    assert "person_1.jpg" not in other.text() and "jawOpen=0.5" not in other.text()
    assert _differs(_head(other), before) < 1  # what the page itself moves
    other.close()
