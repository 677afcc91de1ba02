"""What stands behind the head: nothing of the old background is left, what is still stands still, alpha is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from animate_support import FakeClip, photo, picture, tiny_network
from PIL import Image
from scipy import ndimage
from test_gen_videos import _fake_tracker, files, run  # noqa: F401
from test_gen_videos_inout import NET, pictures
from test_whole import FRONT, VIEWS, crop_at, head, smooth_picture

import inference.tracked
from conventions.crop import CropTransform
from dnnlib import UserError
from inference.animate import AnimateOptions, animate_frames
from inference.background import PHOTO, Background, background_of, check_transparent
from inference.demo import astronaut, load_demo_network
from inference.network import Expressive, Rendered
from inference.photo import Photo, Whole, close_up
from inference.showing import InCrop, showing
from inference.tracked import AUTO, NetworkTracker
from inference.whole import AROUND, Scene, anchored
from tracking.matte import Matte, refined
from tracking.tracker import Tracker

SIZE = 240
PLACE = crop_at(80.0, 50.0, 80.0, 64)
BLUE = background_of("#0000ff")


def person(height: int = SIZE, width: int = SIZE) -> np.ndarray:
    """Share of a picture that is the person: a head on shoulders, edges two pixels wide."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = (np.hypot(x - 120, y - 92) < 30) | ((np.abs(x - 120) < 60 - 4000 / y) & (y > 118))
    return ndimage.gaussian_filter(inside.astype(np.float32), 1.0)


def portrait() -> np.ndarray:
    """A person without blue before a background without red."""
    share = person()[..., None]
    own = smooth_picture(SIZE, SIZE, 3).astype(np.float32)
    before = own * [0, 0.5, 0] + [0, 120, 0]
    return np.round((own * [0.4, 0.1, 0] + [150, 0, 0]) * share + before * (1 - share)).astype(
        np.uint8
    )


def matte_of(image: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The person of the portrait, seen in any part of it: by its red."""

    def matte(part: np.ndarray) -> np.ndarray:
        share = (part[..., 0].astype(np.float32) - part[..., 1]) / 150
        return np.clip(share + 0.5, 0, 1).astype(np.float32)

    return matte


def scene(background: Background, place: CropTransform = PLACE) -> Scene:
    image = portrait()
    return Scene(Whole(image, place), FRONT, head(place.apply(image)), matte_of(image), background)


@pytest.mark.parametrize("label", [FRONT, *VIEWS])
def test_nothing_of_the_old_background_is_left(label: np.ndarray) -> None:
    made = scene(BLUE)
    label = anchored(label, FRONT)
    crop = PLACE.apply(portrait())
    out = made.compose(head(crop), label).astype(int)
    assert np.array_equal(out[:40], np.broadcast_to([0, 0, 255], (40, SIZE, 3)))
    assert np.array_equal(out[200:, 100:140], portrait()[200:, 100:140])  # shoulders
    # the old background is 120 to 183 green and the person at most 26; what is rendered holds a little at its edge
    assert out[..., 1].max() < 90
    assert np.abs(out.sum(axis=2) - 255).max() < 110  # and no hole: every pixel is one or the other


@pytest.mark.parametrize("label", [FRONT, *VIEWS])
def test_what_is_transparent_is_what_a_colour_shows(label: np.ndarray) -> None:
    """Put before blue, the transparent frame is the blue one."""
    label = anchored(label, FRONT)
    frame = head(picture(1, 64))
    over = scene(BLUE).compose(frame, label).astype(float)
    clear = scene(Background("transparent")).compose(frame, label)
    assert clear.shape == (SIZE, SIZE, 4) and clear.dtype == np.uint8
    assert clear[:40, :, 3].max() == 0 and clear[205:, 100:140, 3].min() == 255
    share = clear[..., 3:] / 255
    assert clear[..., :3] * share + np.array([0, 0, 255]) * (1 - share) == pytest.approx(
        over, abs=2.5
    )  # three roundings


def test_a_volume_that_holds_the_background_is_cut_by_the_matte() -> None:
    """An opacity of 1 everywhere says nothing; who is seen in the output does."""
    image = portrait()
    crop = PLACE.apply(image)
    solid = Rendered(crop, np.full((32, 32), 2.6, np.float32), np.ones((32, 32), np.float32))
    made = Scene(Whole(image, PLACE), FRONT, solid, matte_of(image), BLUE)
    out = made.compose(solid, anchored(VIEWS[0], FRONT)).astype(int)
    assert out[..., 1].max() < 90


def test_the_crops_background_stands_still() -> None:
    """Of the network's own picture everything moves; before the photo's background only the head."""
    image = portrait()
    source = Photo("p", PLACE.apply(image), photo().beta, FRONT, Whole(image, PLACE))
    shown = InCrop(
        Scene(close_up(source.whole, source.crop, AROUND), FRONT, head(source.crop), matte_of(image), PHOTO)
    )  # fmt: skip
    frames = [
        shown.picture(head(picture(i, 64)), shown.view(label)) for i, label in enumerate(VIEWS)
    ]
    assert all(f.shape == (64, 64, 3) for f in frames)
    moved = np.abs(np.diff(np.stack(frames).astype(int), axis=0)).max((0, 3))
    assert moved[20:40, 20:40].min() > 0
    beside = np.r_[0:12, 52:64]  # columns beside the neck
    assert (
        moved[-8:, beside].max() == 0 and moved[:, 0].max() <= 6
    )  # the soft edge of where the head was, seen 4
    assert np.abs(frames[0].astype(int) - source.crop)[-8:, beside].max() <= 1


def test_a_crop_with_what_is_around_it() -> None:
    image = smooth_picture(200, 160)
    for place in (crop_at(40.0, 30.0, 64.0, 64), crop_at(-10.0, 100.0, 120.0, 32)):
        crop = place.apply(image)
        near = close_up(Whole(image, place), crop, AROUND)
        left, top = (int(v) for v in -near.transform.matrix[:, 2])
        size = len(crop)
        assert np.array_equal(near.image[top : top + size, left : left + size], crop)
        height, width = near.image.shape[:2]
        assert size <= width <= 1.9 * size and size <= height <= 1.7 * size
        inside = place.matrix[0, 2] < 0  # the crop lies in the picture: so does what is around it
        assert (near.image.min() > 0) == inside
    assert close_up(photo().whole, photo().crop, AROUND).image.shape == (32, 32, 3)


def test_backgrounds_by_name(tmp_path: Path) -> None:
    Image.fromarray(picture(1, 40)).save(tmp_path / "white.png")
    assert background_of("network").kind == "network" and background_of("photo") == PHOTO
    for text, colour in {
        "white": (255, 255, 255),
        "#12a": (17, 34, 170),
        "#00ff7f": (0, 255, 127),
    }.items():
        behind = background_of(text).behind(6, 4)
        assert behind.shape == (4, 6, 3) and np.array_equal(behind[3, 5], colour)
    beach = background_of(str(tmp_path / "white.png"))
    assert np.array_equal(beach.behind(40, 40), picture(1, 40))
    assert np.array_equal(beach.behind(40, 20), picture(1, 40)[10:30])  # covers, cut in the middle
    with pytest.raises(UserError, match="no.png"):
        background_of(str(tmp_path / "no.png"))


def test_a_matte_is_brought_to_the_pictures_edge() -> None:
    """Worked by hand: in windows over a clean step the mask is a line of the brightness: it takes the step's place."""
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, 20:] = 200
    coarse = np.broadcast_to(np.clip((np.arange(40) - 15) / 10, 0, 1), (40, 40)).astype(np.float32)
    fine = refined(coarse, image, reach=0.1)
    assert (
        fine[:, :7].max() < 0.01 and fine[:, 33:].min() > 0.99
    )  # two windows of 9 pixels beside the ramp
    assert (fine[20, 20] - fine[20, 19]) > 4 * (coarse[20, 20] - coarse[20, 19])


# ---- the commands -------------------------------------------------------------------------------------------------

PAIR = ("-s", "photo.png", "-d", "clip.mp4", *NET, "--max-frames", "2")


@pytest.mark.parametrize(
    ("out", "more", "says"),
    [
        ("a.mp4", (), "a.mp4 cannot be transparent; end the name in .webm, .webp, .png or in nothing"),
        ("a.gif", (), "a.gif cannot be transparent"),
        ("a.jpg", ("--layout", "result"), "a.jpg cannot be transparent"),
        ("a.webm", ("--layout", "panels"), "no effect on a page of panels; take animate with --layout full or result"),
    ],
)  # fmt: skip
def test_what_cannot_be_transparent_is_refused_before_the_work(
    files: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    out: str,
    more: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.setattr("inference.network.Network.load", None)
    result = run(
        files, "animate", *PAIR, "--background", "transparent", *more, "-o", tmp_path / out
    )
    assert result.exit_code == 1 and says in result.output, result.output
    assert len(result.output.strip().splitlines()) == 1 and not any(tmp_path.iterdir())
    with pytest.raises(UserError, match="no effect on a page"):
        check_transparent(Background("transparent"), Path("a.webm"), True)


@pytest.mark.parametrize("layout", ["full", "result"])
def test_transparent_output_from_a_command(files: Path, tmp_path: Path, layout: str) -> None:  # noqa: F811
    words = ["animate", *PAIR, "--background", "transparent", "--layout", layout, "-o"]
    for name in ("still.png", "frames", "a.webm", "a.webp"):
        result = run(files, *words, tmp_path / name)
        assert result.exit_code == 0, result.output
    shown = [np.asarray(Image.open(tmp_path / "still.png")), *pictures(tmp_path / "frames")]
    assert len(shown) == 3 and all(s.shape[2] == 4 for s in shown)
    assert np.array_equal(shown[0], shown[1])
    with Image.open(tmp_path / "a.webp") as moving:
        assert moving.convert("RGBA").getextrema()[3] != (255, 255)


def test_a_folder_of_transparent_videos(files: Path, tmp_path: Path) -> None:  # noqa: F811
    words = [*PAIR, "-d", "mute.mp4", "--background", "transparent", "-o", tmp_path / "out"]
    result = run(files, "animate", *words)
    assert result.exit_code == 0, result.output
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["photo-clip.webm", "photo-mute.webm"]


@pytest.mark.parametrize("background", ["photo", "#ff0000", "beach"])
@pytest.mark.parametrize("command", ["freeview", "reconstruct", "grid", "novel-view", "directions"])
def test_pages_take_backgrounds(files: Path, tmp_path: Path, command: str, background: str) -> None:  # noqa: F811
    Image.fromarray(picture(9, 50)).save(tmp_path / "beach.png")
    source = () if command == "reconstruct" else ("-s", "photo.png")
    driving = (
        () if command in ("freeview", "directions") else ("-d", "clip.mp4", "--max-frames", "1")
    )
    length = ("--seconds", "0.08") if command in ("freeview", "directions") else ()
    words = [command, *source, *driving, *length, *NET, "--panel-px", "32"]
    pages = []
    for name, behind in (("plain", "network"), ("other", background)):
        behind = str(tmp_path / "beach.png") if behind == "beach" else behind
        result = run(files, *words, "--background", behind, "-o", tmp_path / f"{name}.png")
        assert result.exit_code == 0, result.output
        pages.append(np.asarray(Image.open(tmp_path / f"{name}.png")))
    assert not np.array_equal(*pages)


@pytest.mark.slow
def test_a_real_head_leaves_its_background_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's limit of the paper: what is behind the head turns with it. Here it stands still to the pixel."""
    monkeypatch.setattr(inference.tracked, "Tracker", Tracker)  # the true one
    network = load_demo_network()
    source = NetworkTracker(network, size=AUTO).image(astronaut(), "astronaut")
    head_ = Expressive(network, network.encode(source.crop, source.camera, source.beta))
    beside = Matte()(source.crop) < 0.01
    beside[:, 16:-16] = False  # left and right of the head, where it does not turn to
    beside[: len(beside) // 2] = False
    still: dict[str, float] = {}
    for kind in ("network", "photo"):
        shown = showing(source, head_, background_of(kind))
        views = [shown.view(label) for label in VIEWS[:2]]
        a, b = (shown.picture(head_.frame(source.beta, v), v).astype(float) for v in views)
        still[kind] = float(np.abs(a - b)[beside].mean())
    print(still)
    assert beside.sum() > 100
    assert still["photo"] < 0.5 * still["network"]


def test_in_the_whole_photo_the_networks_background_is_the_photos(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "inference.animate.Matte", lambda: lambda im: np.zeros(im.shape[:2], np.float32)
    )
    frames = [
        list(animate_frames(tiny_network(), photo(), FakeClip(2), AnimateOptions(background=b)))
        for b in (background_of("network"), PHOTO)
    ]
    assert np.array_equal(frames[0], frames[1])


def test_a_background_behind_the_drivers_own_crop_is_refused(files: Path) -> None:  # noqa: F811
    words = ["animate", "-s", "photo.png", "-d", "clip.mp4", "--layout", "driving"]
    done = run(files, *words, "--background", "white", "-o", files / "o.png")
    assert done.exit_code == 1
    assert "--background has no effect with --layout driving" in done.output
