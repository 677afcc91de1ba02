"""The face of a driving video: the same one to the end, whoever stands beside."""

from __future__ import annotations

import numpy as np
import pytest
from preparation_support import portrait

from dnnlib.errors import UserError
from tracking.following import Embed, OneFace
from tracking.landmarker import Landmarker

LEFT, RIGHT = slice(30, 190), slice(230, 350)


@pytest.fixture(scope="module")
def landmarker() -> Landmarker:
    return Landmarker()


def _scene(driver: bool = True, other: bool = True, shift: int = 0) -> np.ndarray:
    """160 px of a face at the left, 120 px of another at the right, as they are wanted."""
    image = np.full((220, 400, 3), 110, np.uint8)
    if driver:
        image[20:180, LEFT.start + shift : LEFT.stop + shift] = portrait(160)
    if other:
        image[40:160, RIGHT] = portrait(120, mirrored=True)
    return image


def _x(follower: OneFace, image: np.ndarray) -> float | None:
    face = follower(image)
    return None if face is None else (face.box[0] + face.box[2]) / 2


def _alike(crop: np.ndarray) -> np.ndarray:
    """Everybody looks the same: only place and time are left."""
    return np.array([1.0])


def _strangers() -> Embed:
    """Nobody looks like anybody."""
    count = iter(range(1000))
    return lambda crop: np.eye(1000)[next(count)]


@pytest.mark.parametrize("gap", [1, 12])
def test_a_driver_who_was_hidden_drives_again(landmarker: Landmarker, gap: int) -> None:
    follower = OneFace(landmarker, embed=_alike)
    assert all(_x(follower, _scene()) for _ in range(2))
    for _ in range(gap):
        assert _x(follower, _scene(driver=False)) is None and follower.other
    x = _x(follower, _scene(shift=10))
    assert x is not None and x < 200 and not follower.other


def test_a_bystander_who_is_larger_and_moves_is_not_followed(landmarker: Landmarker) -> None:
    follower = OneFace(landmarker, "right", embed=_alike)
    assert _x(follower, _scene()) > 200  # type: ignore[operator]
    for shift in (0, 15, 30):
        assert _x(follower, _scene(other=False, shift=shift)) is None
    assert _x(follower, _scene(shift=30)) > 200  # type: ignore[operator]


def test_a_stranger_who_enters_while_nobody_is_there_is_not_followed(
    landmarker: Landmarker,
) -> None:
    follower = OneFace(landmarker, embed=_strangers())
    assert _x(follower, _scene(other=False)) is not None
    assert _x(follower, _scene(driver=False, other=False)) is None and not follower.other
    assert _x(follower, _scene(driver=False)) is None and follower.other


def test_after_a_cut_the_same_face_is_found_elsewhere(landmarker: Landmarker) -> None:
    follower = OneFace(landmarker)  # with the real embedding
    assert _x(follower, _scene(other=False)) is not None
    x = _x(follower, _scene(driver=False))  # the same person, mirrored
    assert x is not None and x > 200


def test_which_face_is_wanted(landmarker: Landmarker) -> None:
    for which, left in (("largest", True), ("left", True), ("right", False), ("1", False)):
        x = _x(OneFace(landmarker, which, _alike), _scene())
        assert x is not None and (x < 200) == left
    late = OneFace(landmarker, "1", _alike)  # begins with the frame that shows two
    assert _x(late, _scene(other=False)) is None and _x(late, _scene()) > 200  # type: ignore[operator]
    with pytest.raises(UserError, match="--face middle is not known"):
        OneFace(landmarker, "middle")
