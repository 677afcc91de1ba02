"""--size: frames larger than the network sees, of the photo's own size by default."""

from __future__ import annotations

import numpy as np
import pytest
from animate_support import FakeClip, photo, picture, tiny_model

from conventions.crop import CropTransform
from conventions.spaces import ARKIT52
from dnnlib import UserError
from inference.animate import AnimateOptions, animate_frames
from inference.network import Network
from inference.photo import Photo
from inference.tracked import AUTO, LARGEST_AUTO, NetworkTracker, output_size

DETAIL = tuple(
    f"model.generator.{x}"
    for x in ("texture=source", "align=source", "background=image", "texture_visible=true")
)


def network(*overrides: str) -> Network:
    return Network(tiny_model(overrides=overrides), ARKIT52, name="tiny")


def test_sizes_that_a_network_can_make() -> None:
    takes, paints = network(*DETAIL), network()
    assert takes.takes_detail and not paints.takes_detail
    assert [output_size(takes, s) for s in (None, 32, 96, 512)] == [32, 32, 96, 512]
    assert output_size(takes, AUTO) == AUTO and output_size(paints, AUTO) == 32
    assert [takes.crop_size(s) for s in (16, 32, 100, 256)] == [32, 32, 96, 256]
    assert paints.crop_size(256) == 32
    with pytest.raises(UserError, match=r"--size 100 is no multiple of the 32 pixels of tiny"):
        output_size(takes, 100)
    with pytest.raises(UserError, match=r"tiny paints frames of 32 pixels .* leave --size out"):
        output_size(paints, 64)


def test_frames_take_the_crops_size_and_shrink_to_the_small_ones() -> None:
    net = network(*DETAIL)
    large = picture(1, 128)
    small = large.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
    same, clip = photo(), FakeClip(2)
    options = AnimateOptions(shown="result")

    def frames(crop: np.ndarray) -> list[np.ndarray]:
        source = Photo("photo", crop, same.beta, same.camera)
        return list(animate_frames(net, source, clip, options))

    big, usual = frames(large), frames(np.round(small).astype(np.uint8))
    assert [f.shape for f in big] == [(128, 128, 3)] * 2
    assert [f.shape for f in usual] == [(32, 32, 3)] * 2
    for a, b in zip(big, usual, strict=True):
        mean = a.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
        # the same picture but for detail, bilinear enlarging and the rounding of the small crop
        assert np.abs(mean - b).mean() < 12


@pytest.mark.parametrize(("face_px", "size"), [(20, 32), (60, 64), (300, 288), (4000, 512)])
def test_by_default_a_crop_has_the_photos_own_pixels(face_px: int, size: int) -> None:
    tracker = object.__new__(NetworkTracker)
    tracker.size, tracker._output = 32, AUTO
    scale = 32 / face_px  # crop pixels per photo pixel
    transform = CropTransform(np.array([[scale, 0, 0], [0, scale, 0.0]]), 32)
    assert tracker._crop_size(transform) == size <= LARGEST_AUTO
