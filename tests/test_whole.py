"""The animated head back in its photo: what stays, what moves, and that no seam shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from animate_support import FakeClip, photo, picture, tiny_network
from scipy import ndimage

from conventions.cameras import camera_label, project_points
from conventions.crop import CropTransform
from conventions.spaces import ARKIT52
from inference import whole as whole_module
from inference.animate import AnimateOptions, animate_frames
from inference.demo import astronaut, load_demo_network
from inference.network import Expressive, Rendered
from inference.photo import LARGEST_PX, Photo, Whole
from inference.tracked import AUTO, NetworkTracker
from inference.whole import NECK, Scene, anchored, carried_by, filled, head_weight, scene_of
from tracking.matte import Matte

FRONT = camera_label(0.0, 0.0)
VIEWS = [camera_label(0.35, 0.0), camera_label(-0.3, 0.2), camera_label(0.1, -0.1, 0.2)]


def smooth_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    soft = ndimage.gaussian_filter(noise, (6, 6, 0))
    return np.round(128 + soft / np.abs(soft).max() * 120).astype(np.uint8)


def crop_at(x: float, y: float, side: float, size: int) -> CropTransform:
    scale = size / side
    return CropTransform(np.array([[scale, 0, -x * scale], [0, scale, -y * scale]]), size)


def head(image: np.ndarray, side: int = 32) -> Rendered:
    """A round head of 0.3 crop's widths."""
    at = (np.arange(side) + 0.5) / side - 0.5
    inside = np.hypot(*np.meshgrid(at, at)) < 0.3
    opacity = ndimage.gaussian_filter(inside.astype(np.float32), 1)
    return Rendered(image, np.full((side, side), 2.6, np.float32), opacity)


def nobody(image: np.ndarray) -> np.ndarray:
    return np.zeros(image.shape[:2], np.float32)


def scene(place: CropTransform, image: np.ndarray) -> tuple[Scene, np.ndarray]:
    crop = place.apply(image)
    return Scene(Whole(image, place), FRONT, head(crop), nobody), crop


@pytest.mark.parametrize("label", VIEWS)
def test_every_pixel_outside_the_heads_region_is_the_photos(label: np.ndarray) -> None:
    image = smooth_picture(220, 260)
    made, _ = scene(crop_at(90.3, 60.7, 80.0, 64), image)
    label = anchored(label, FRONT)
    out = made.compose(head(picture(1, 64)), label)
    changed = np.abs(out.astype(int) - image).max(axis=2) > 0
    assert changed.any()
    # the head, hair around it and where it moves: within half a crop beside and above the crop
    rows, columns = np.nonzero(changed)
    assert columns.min() >= 90 - 40 and columns.max() < 171 + 40 and rows.min() >= 60 - 48
    # and nothing below the neck's fade: shoulders stay
    place = made.whole.place(0, 0, 260, 220)
    lowest = np.minimum(head_weight(FRONT, place, 260, 220), head_weight(label, place, 260, 220))
    highest = np.maximum(head_weight(FRONT, place, 260, 220), head_weight(label, place, 260, 220))
    assert not (changed & (ndimage.grey_dilation(highest, size=9) == 0)).any()
    assert lowest.min() == 0 and highest.max() == 1


def test_where_nothing_moves_the_photo_stays() -> None:
    image = smooth_picture(220, 260)
    made, crop = scene(
        crop_at(90.0, 60.0, 64.0, 64), image
    )  # a pixel of the crop is one of the photo
    out = made.compose(head(crop), anchored(FRONT, FRONT))
    assert np.abs(out.astype(int) - image).max() <= 1  # rounding


def test_a_crop_that_reaches_out_of_the_photo() -> None:
    image = smooth_picture(100, 90)
    for place in (
        crop_at(-30.5, -20.2, 80, 64),
        crop_at(40, 50, 80, 32),
        crop_at(300, 300, 50, 32),
    ):
        made, _ = scene(place, image)
        out = made.compose(head(picture(1, place.size)), anchored(VIEWS[0], FRONT))
        assert out.shape == image.shape and out.dtype == np.uint8
        assert made.is_empty == np.array_equal(out, image) == (place.matrix[0, 2] < -60)


@pytest.mark.parametrize("label", VIEWS)
def test_the_neck_stands_still(label: np.ndarray) -> None:
    before, after = (project_points(NECK, np.float64(x)) for x in (FRONT, anchored(label, FRONT)))
    assert after == pytest.approx(before, abs=1e-5)  # labels are float32
    moved = carried_by(anchored(label, FRONT), FRONT)
    assert np.abs(moved[:, :2] @ [0.5, 0.2] + moved[:, 2] - [0.5, 0.2]).max() > 0.01
    assert carried_by(FRONT, FRONT) == pytest.approx(np.eye(2, 3), abs=1e-9)


def test_what_the_head_leaves_is_filled_from_around_it() -> None:
    image = np.full((40, 60, 3), 200, np.float32)
    known = np.ones((40, 60), np.float32)
    image[10:30, 20:45], known[10:30, 20:45] = 0, 0
    assert filled(image, known) == pytest.approx(np.full((40, 60, 3), 200), abs=1e-2)  # float32


def test_large_pictures_are_reduced_with_their_crop() -> None:
    place = crop_at(1000, 500, 1500, 128)
    small = Whole(np.zeros((2400, 4001, 3), np.uint8), place).reduced()
    assert max(small.image.shape) == LARGEST_PX
    share = LARGEST_PX / 4001
    corner = small.transform.inverse_points(np.zeros(2))
    assert corner == pytest.approx(np.array([1000, 500]) * share, abs=0.5)  # sides are whole pixels
    assert small.reduced() is small


def test_a_source_clip_is_its_own_source_frame_by_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the driver's frames shows the source's frame of that moment, until the source ends."""

    class Clip(FakeClip):
        def photos(self) -> list[Photo]:
            return [photo(seed=i) for i in range(self.n_frames)]

    monkeypatch.setattr("inference.animate.Matte", lambda: nobody)
    source, driving = Clip(3, fps=12.5), FakeClip(20)  # 0.24 s and 0.8 s
    frames = list(animate_frames(tiny_network(), source, driving, AnimateOptions()))  # type: ignore[arg-type]
    assert len(frames) == 6
    border = [tuple(f[-1, -1]) for f in frames]  # never the head's
    assert border == [tuple(picture(i)[-1, -1]) for i in (0, 0, 1, 1, 2, 2)]


@pytest.mark.slow
def test_no_seam_shows_in_a_real_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step over the crop's edge, as a share of the photo's own mean step; a plain paste exceeds 1."""
    network = load_demo_network()
    source = NetworkTracker(network, size=AUTO).image(astronaut(), "astronaut")
    beta = source.beta.copy()
    beta[ARKIT52.names.index("jawOpen")] = 0.6

    def step(label: np.ndarray) -> float:
        expressive = Expressive(network, network.encode(source.crop, source.camera, source.beta))
        made = scene_of(source, expressive, Matte())
        label = anchored(label, source.camera)
        out = made.compose(expressive.frame(beta, label), label).astype(float)
        x0, y0, x1, y1 = made.whole.pixels((0, 0, 1, 1))
        photo_ = source.whole.image.astype(float)
        own = [np.abs(np.diff(photo_[y0:y1, x0:x1], axis=a)).mean() for a in (0, 1)]
        over = [
            np.abs(out[y0, x0:x1] - out[y0 - 1, x0:x1]).mean(),
            np.abs(out[y0:y1, x0] - out[y0:y1, x0 - 1]).mean(),
            np.abs(out[y0:y1, x1] - out[y0:y1, x1 - 1]).mean(),
            np.abs(out[y1, x0:x1] - out[y1 - 1, x0:x1]).mean(),
        ]
        return float(np.mean(over) / np.mean(own))

    shares = [step(label) for label in VIEWS]
    monkeypatch.setattr(whole_module, "edge_weight", lambda side: np.ones((side, side), np.float32))
    pasted = [step(label) for label in VIEWS]
    print(shares, pasted)
    assert max(shares) < 1.0
    assert min(pasted) > max(shares)


def test_the_matte_of_any_shape() -> None:
    mask = Matte()(astronaut()[:400, :300])
    assert mask.shape == (400, 300) and mask[150, 220] > 0.9 and mask[10, 10] < 0.1


def test_photos_carry_their_picture(tmp_path: Path) -> None:
    same = photo()
    assert np.array_equal(same.whole.image, same.crop)
    assert same.whole.pixels((0, 0, 1, 1)) == (0, 0, 32, 32)
