"""docs/conventions.md says what the code does: the tables are read and compared."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from conventions import cameras, crop
from conventions.spaces import (
    ARKIT52,
    BFM64,
    SPACES,
    ExpressionSpace,
    check_same_space,
)
from dnnlib.errors import UserError
from tracking import pose

PAGE = Path(__file__).resolve().parents[1] / "docs" / "conventions.md"


def _table() -> dict[str, list[float]]:
    rows = re.findall(r"^\| `(\w+)` \| ([-\d., ]+) \|", PAGE.read_text(encoding="utf-8"), re.M)
    return {name: [float(v) for v in values.split(",")] for name, values in rows}


NUMBERS = _table()
CODE = {
    **{
        n: getattr(cameras, n)
        for n in ("CAMERA_RADIUS", "LOOK_AT_PIVOT", "FOCAL_NORMALISED", "DEEP3D_CAMERA_DISTANCE")
    },
    "DEEP3D_SCALE": cameras.DEEP3D_SCALE,
    "DEEP3D_OFFSET": cameras.DEEP3D_OFFSET,
    **{n: getattr(crop, n) for n in ("CROP_VERSION", "CANVAS_PX", "CENTRE_PX", "RESCALE_FACTOR")},
    "WORLD_PER_CM": pose.WORLD_PER_CM,
    "CANONICAL_OFFSET": pose.CANONICAL_OFFSET,
    "fov_x_deg": round(math.degrees(2 * math.atan(0.5 / cameras.FOCAL_NORMALISED)), 2),
    **{name: space.dim for name, space in SPACES.items()},
}


def test_every_number_of_the_page_is_known() -> None:
    assert set(NUMBERS) == set(CODE)


@pytest.mark.parametrize("name", sorted(CODE))
def test_number(name: str) -> None:
    np.testing.assert_allclose(NUMBERS[name], np.atleast_1d(CODE[name]), rtol=1e-6)


def test_spaces() -> None:
    assert ARKIT52.names[0] == "_neutral" and ARKIT52.names[25] == "jawOpen"
    assert ExpressionSpace.from_dict(ARKIT52.to_dict()) == ARKIT52
    check_same_space(ARKIT52, ExpressionSpace.from_dict(ARKIT52.to_dict()), "a and b")
    with pytest.raises(UserError, match=r"a\.pt and data have different expression spaces"):
        check_same_space(ARKIT52, BFM64, "a.pt and data")
    swapped = ExpressionSpace("arkit52", 52, ARKIT52.tracker, "1", ARKIT52.names[::-1])
    with pytest.raises(UserError, match="order"):
        check_same_space(ARKIT52, swapped, "a and b")
    with pytest.raises(ValueError):
        ExpressionSpace("x", 2, "t", "1", ("a",))


def test_mean_face_lands_where_the_page_says() -> None:
    """The five points of the mean face, seen by the frontal camera: the crop, the camera and the page agree."""
    placed = crop.MEAN_FACE_5 * cameras.DEEP3D_SCALE + cameras.DEEP3D_OFFSET
    world = placed * cameras.CAMERA_RADIUS / (cameras.CAMERA_RADIUS + cameras.DEEP3D_OFFSET[2])
    seen = cameras.project_points(world, cameras.camera_label(0.0, 0.0))
    # Weak perspective of the crop itself: 300 canvas pixels per unit around the middle of 700.
    flat = 0.5 + crop.MEAN_FACE_5[:, :2] * [1, -1] * crop.RESCALE_FACTOR / crop.CENTRE_PX
    four = [0, 1, 3, 4]  # eyes and mouth corners
    page = [[0.37, 0.38], [0.63, 0.38], [0.39, 0.66], [0.61, 0.66]]
    np.testing.assert_allclose(flat[four], page, atol=0.006)
    # Perspective enlarges what is nearer than the mean face's origin, by 1 to 3 % at the eyes and the mouth; the
    # offset's 0.006 lifts everything by 0.009.
    np.testing.assert_allclose(seen[four], flat[four], atol=0.016)


def test_canonical_face_meets_the_mean_face() -> None:
    points = pose.canonical_face().points
    five = np.stack(
        [
            *(points[list(pair)].mean(0) for pair in crop.EYE_CORNERS),
            points[crop.NOSE_TIP],
            *(points[i] for i in crop.MOUTH_CORNERS),
        ]
    )
    placed = crop.MEAN_FACE_5 * cameras.DEEP3D_SCALE + cameras.DEEP3D_OFFSET
    world = placed * cameras.CAMERA_RADIUS / (cameras.CAMERA_RADIUS + cameras.DEEP3D_OFFSET[2])
    assert np.abs(five - world).max() < 0.009
    np.testing.assert_allclose((five - world).mean(0), 0, atol=2e-4)
