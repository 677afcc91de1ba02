"""Expression carried over by hand-worked numbers, shipped motions, camera paths."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from conventions.cameras import camera_label
from conventions.spaces import ARKIT52, BFM64
from dnnlib.errors import UserError
from inference.cameras import View, camera_path, orbit_label
from inference.demo import MOTION
from inference.motion import Track, load_motion, reference_frame, space_limits, transfer

BETAS = np.array([[0.2, 0.0, 0.4], [0.1, 0.0, 0.1], [0.9, 0.3, 0.1]], np.float32)
SOURCE = np.array([0.5, 0.0, 0.2], np.float32)


def test_absolute_expression_is_the_drivers() -> None:
    assert np.array_equal(transfer(BETAS, SOURCE, relative=False), BETAS)


def test_relative_expression_by_hand() -> None:
    # Frame 1 has the smallest norm: 0.5 + 0.2 - 0.1, 0 + 0 - 0, 0.2 + 0.4 - 0.1, and so on.
    expected = [[0.6, 0.0, 0.5], [0.5, 0.0, 0.2], [1.3, 0.3, 0.2]]
    assert reference_frame(BETAS) == 1
    # atol: one float32 addition
    assert np.allclose(transfer(BETAS, SOURCE, relative=True), expected, atol=1e-6)


def test_relative_expression_from_the_first_frame() -> None:
    moved = transfer(BETAS, SOURCE, relative=True, reference="first")
    assert np.allclose(moved[0], SOURCE, atol=1e-6)
    assert np.allclose(moved[2], [1.2, 0.3, -0.1], atol=1e-6)


def test_relative_expression_stays_within_the_space() -> None:
    moved = transfer(BETAS, SOURCE, relative=True, limits=space_limits(ARKIT52))
    assert moved.min() >= 0 and moved[2, 0] == 1.0
    assert space_limits(BFM64) is None


def test_track_by_hand() -> None:
    track = Track((1.0, 2.0, 4.0), (0.0, 1.0, 0.0))
    at = {
        0.0: 0.0,
        1.0: 0.0,
        1.25: 0.5 - 0.5 * math.cos(math.pi / 4),
        1.5: 0.5,
        2.0: 1.0,
        3.0: 0.5,
        9.0: 0.0,
    }
    for time_s, value in at.items():
        assert track.at(time_s) == pytest.approx(value, abs=1e-12)


def test_shipped_motion_moves_expression_and_view() -> None:
    motion = load_motion(MOTION)
    motion.check_space(ARKIT52, 32, "demo")
    assert motion.n_frames >= 60
    source = np.full(ARKIT52.dim, 0.3, np.float32)
    betas = np.stack([motion.beta(t / motion.fps, source, ARKIT52) for t in range(motion.n_frames)])
    cameras = np.stack([motion.label(t / motion.fps) for t in range(motion.n_frames)])
    assert betas.min() >= 0 and betas.max() <= 1
    assert np.array_equal(betas[0], source)  # starts as the photo is
    for name in motion.units:
        assert np.ptp(betas[:, ARKIT52.names.index(name)]) > 0.4, name
    along = np.stack([motion.along(t / motion.fps, 32) for t in range(motion.n_frames)])
    assert (np.ptp(along, axis=0) > 0.3).sum() >= 3  # directions of the basis, too
    assert not along[0].any() and not along[-1].any()
    assert np.ptp(cameras[:, 3]) > 1.0  # the camera's x, world units: from left to right
    assert all(0 <= t < motion.seconds for t, _ in motion.moments)


def test_motion_of_another_space_is_refused() -> None:
    with pytest.raises(UserError, match="bfm64"):
        load_motion(MOTION).check_space(BFM64, 32, "other")


@pytest.mark.parametrize(
    "change",
    [
        {"format": "x"},
        {"version": 2},
        {"fps": 0},
        {"fps": math.inf},
        {"seconds": math.nan},
        {"fps": 10**400},
        {"units": {"jawOpen": [[0, math.inf]]}},
        {"moments": [[math.inf, "end"]]},
        {"units": {"jawOpen": [[1, 0], [0, 1]]}},
        {"units": {"jawOpen": []}},
        {"camera": {"zoom": [[0, 1]]}},
        {"units": None},
        {"directions": {"v0": [[0, 1]]}},
        {"directions": {"smile": [[0, 1]]}},
    ],
)
def test_broken_motions_are_refused_in_a_sentence(
    tmp_path: Path, change: dict[str, object]
) -> None:
    good = {"format": "export3d-motion", "version": 1, "fps": 25, "seconds": 1, "units": {}}
    path = tmp_path / "motion.json"
    path.write_text(json.dumps({**good, **change}))
    with pytest.raises(UserError, match="motion"):
        load_motion(path)


def test_a_motion_along_the_basis_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "motion.json"
    text = {"format": "export3d-motion", "version": 1, "fps": 25, "seconds": 1, "units": {}}
    path.write_text(json.dumps({**text, "directions": {"v3": [[0, 0], [1, -2]]}}))
    motion = load_motion(path)
    assert motion.along(0.0, 4).tolist() == [0, 0, 0, 0]
    assert motion.along(0.5, 4).tolist() == [0, 0, -1, 0]
    with pytest.raises(UserError, match="v3, but other has 2 directions"):
        motion.check_space(ARKIT52, 2, "other")


def test_camera_paths() -> None:
    driving = camera_label(0.3, 0.1)
    assert np.array_equal(camera_path("driving")(1.0, driving), driving)
    fixed = camera_path("fixed", View(yaw_deg=20.0))
    assert np.array_equal(fixed(0.0, driving), fixed(5.0, driving))
    assert np.array_equal(fixed(0.0, driving), camera_label(math.radians(20.0), 0.0))
    view = View(orbit_seconds=4.0, orbit_yaw_deg=25.0)
    assert np.array_equal(orbit_label(view, 0.0), camera_label(0.0, 0.0))
    # a quarter of the time: the largest yaw; atol: float32 label
    assert np.allclose(orbit_label(view, 1.0), camera_label(math.radians(25.0), 0.0), atol=1e-5)
    assert np.allclose(orbit_label(view, 4.0), orbit_label(view, 0.0), atol=1e-5)
