"""How much of the driver's motion is taken over, and where."""

from __future__ import annotations

import math

import numpy as np
import pytest
from animate_support import FakeClip, photo, tiny_network

from conventions.cameras import (
    LOOK_AT_PIVOT,
    camera_label,
    label_angles_rad,
    project_points,
    turned,
)
from conventions.spaces import ARKIT52, BFM64, EXPRESSION_REGIONS, units_of
from dnnlib import UserError
from inference.animate import AnimateOptions, animate_frames
from inference.cameras import View, camera_path
from inference.options import ExpressionChoice
from inference.photo import Photo
from inference.steering import Steer, Steering

SOURCE = Photo("p", photo().crop, photo().beta, camera_label(0.1, -0.05, 0.02))
CLIP = FakeClip(5)


def steering(**options: object) -> Steering:
    return Steering(ARKIT52, CLIP, Steer(**options))  # type: ignore[arg-type]


def places(*regions: str) -> list[int]:
    return sorted(i for r in regions for i in units_of(ARKIT52, r))


def test_regions_share_out_the_units_of_a_face() -> None:
    every = places(*EXPRESSION_REGIONS)
    assert every == list(range(1, 52))  # each once, all but `_neutral`
    assert units_of(BFM64, "mouth") == ()


def test_without_options_the_driver_is_followed_to_the_bit() -> None:
    plain = steering()
    for t in range(5):
        assert np.array_equal(plain.beta(t, SOURCE), CLIP.betas[t])
        assert np.array_equal(plain.camera(t, SOURCE), CLIP.cameras[t])


@pytest.mark.parametrize("region", [*EXPRESSION_REGIONS, "pose"])
def test_what_is_no_region_stays_the_sources(region: str) -> None:
    only = steering(regions=(region,), relative=True, reference="first", strength=1.5)
    whole = steering(relative=True, reference="first", strength=1.5)
    taken = np.zeros(52, bool)
    taken[[] if region == "pose" else places(region)] = True
    assert np.array_equal(only.beta(3, SOURCE)[~taken], SOURCE.beta[~taken])
    assert np.array_equal(only.beta(3, SOURCE)[taken], whole.beta(3, SOURCE)[taken])
    followed = not np.array_equal(only.camera(3, SOURCE), SOURCE.camera)
    assert followed == (region == "pose")


def test_strength_is_that_of_the_drivers_part() -> None:
    assert np.array_equal(steering(strength=0.0).beta(2, SOURCE), np.zeros(52))
    assert steering(strength=1.3).beta(2, SOURCE) == pytest.approx(
        np.clip(1.3 * CLIP.betas[2], 0, 1), abs=1e-6
    )  # float32
    still = steering(strength=0.0, relative=True)
    assert np.array_equal(still.beta(2, SOURCE), SOURCE.beta)


def test_relative_motion_begins_with_the_photos_own_face() -> None:
    """Expression and view, without a jump: the first frame is the reconstruction of the photo."""
    network = tiny_network()
    options = AnimateOptions("result", relative=True, reference="first", strength=1.3)
    first = next(iter(animate_frames(network, SOURCE, CLIP, options)))
    features = network.encode(SOURCE.crop, SOURCE.camera, SOURCE.beta)
    own = network.render(network.planes(features, SOURCE.beta), SOURCE.camera)
    assert np.array_equal(first, own.image)
    relative = steering(relative=True, reference="first")
    angles = [label_angles_rad(relative.camera(t, SOURCE)) for t in range(5)]
    driver = [label_angles_rad(c) for c in CLIP.cameras]
    for moved, theirs in zip(angles, driver, strict=True):
        change = np.subtract(theirs, driver[0])
        assert np.subtract(moved, label_angles_rad(SOURCE.camera)) == pytest.approx(
            change, abs=1e-5
        )


@pytest.mark.parametrize("by", [(0.4, 0.0, 0.0), (0.0, -0.3, 0.0), (-0.2, 0.2, 0.5)])
def test_turning_adds_angles_and_keeps_the_face_in_its_place(by: tuple[float, ...]) -> None:
    label = camera_label(0.2, 0.1, -0.1)
    after = turned(label, *by)
    change = np.subtract(label_angles_rad(after), label_angles_rad(label))
    assert change == pytest.approx(by, abs=1e-5)  # labels are float32
    pose = after[:16].reshape(4, 4).astype(float)
    assert pose[:3, :3] @ pose[:3, :3].T == pytest.approx(np.eye(3), abs=1e-6)
    assert np.linalg.norm(pose[:3, 3]) == pytest.approx(2.7, abs=1e-5)
    pivot = np.array([LOOK_AT_PIVOT])
    seen = [project_points(pivot, np.asarray(x, np.float64)) for x in (label, after)]
    assert seen[1] == pytest.approx(seen[0], abs=0.01)  # of the width; the distance is kept
    assert np.array_equal(turned(label, 0, 0, 0), label)


def test_offsets_turn_the_drivers_view() -> None:
    at = camera_path("driving", View(yaw_deg=10, roll_deg=-5))
    change = np.subtract(
        label_angles_rad(at(0.0, CLIP.cameras[1])), label_angles_rad(CLIP.cameras[1])
    )
    assert change == pytest.approx([math.radians(10), 0, math.radians(-5)], abs=1e-5)


def test_spaces_without_names_and_contradictions_are_refused() -> None:
    clip = FakeClip(2)
    clip.betas = np.zeros((2, 64), np.float32)
    with pytest.raises(UserError, match="'bfm64' of net has no units of the name of eyes; leave"):
        Steering(BFM64, clip, Steer(regions=("eyes", "pose")), "net")
    Steering(BFM64, clip, Steer(regions=("pose",)))  # the view is no part of beta

    def choice(regions: tuple[str, ...]) -> ExpressionChoice:
        return ExpressionChoice(strength=1.0, regions=regions, hold_eyes=True)

    assert choice(()).steer().regions == ("mouth", "brows", "pose")
    assert choice(("mouth",)).steer().regions == ("mouth",)
    with pytest.raises(UserError, match="--hold-eyes and --region mouth,gaze"):
        choice(("mouth", "gaze")).steer()
