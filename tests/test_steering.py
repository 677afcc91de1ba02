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
from conventions.gaze import LOOK_SIDE_RAD, LOOK_UP_RAD, looking, towards_camera_rad
from conventions.spaces import ARKIT52, BFM64, EXPRESSION_REGIONS, units_of
from dataset.synthesis.expression import gaze_angles_rad
from dnnlib import UserError
from inference.animate import AnimateOptions, animate_frames
from inference.cameras import View, camera_path
from inference.demo import astronaut, load_demo_network
from inference.network import Expressive
from inference.photo import Photo
from inference.steering import Steer, Steering
from inference.tracked import AUTO, NetworkTracker
from inference.view_options import ExpressionChoice

SOURCE = Photo("p", photo().crop, photo().beta, camera_label(0.1, -0.05, 0.02))
CLIP = FakeClip(5)
FRONT = camera_label(0.0, 0.0)


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
        assert np.array_equal(plain.beta(t, SOURCE, FRONT), CLIP.betas[t])
        assert np.array_equal(plain.camera(t, SOURCE), CLIP.cameras[t])


@pytest.mark.parametrize("region", [*EXPRESSION_REGIONS, "pose"])
def test_what_is_no_region_stays_the_sources(region: str) -> None:
    only = steering(regions=(region,), relative=True, reference="first", strength=1.5)
    whole = steering(relative=True, reference="first", strength=1.5)
    taken = np.zeros(52, bool)
    taken[[] if region == "pose" else places(region)] = True
    assert np.array_equal(only.beta(3, SOURCE, FRONT)[~taken], SOURCE.beta[~taken])
    assert np.array_equal(only.beta(3, SOURCE, FRONT)[taken], whole.beta(3, SOURCE, FRONT)[taken])
    followed = not np.array_equal(only.camera(3, SOURCE), SOURCE.camera)
    assert followed == (region == "pose")


def test_strength_is_that_of_the_drivers_part() -> None:
    assert np.array_equal(steering(strength=0.0).beta(2, SOURCE, FRONT), np.zeros(52))
    assert steering(strength=1.3).beta(2, SOURCE, FRONT) == pytest.approx(
        np.clip(1.3 * CLIP.betas[2], 0, 1), abs=1e-6
    )  # float32
    still = steering(strength=0.0, relative=True)
    assert np.array_equal(still.beta(2, SOURCE, FRONT), SOURCE.beta)


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


# ---- gaze ---------------------------------------------------------------------------------------------------------


def looks(beta: np.ndarray) -> dict[str, float]:
    """The look units that are above 0, by name."""
    named = {ARKIT52.names[i].removeprefix("eyeLook"): float(beta[i]) for i in places("gaze")}
    return {name: value for name, value in named.items() if value}


def test_gaze_in_degrees_sets_the_units_of_both_eyes() -> None:
    """Worked by hand: 20 of 40 degrees to the image's right, the subject's left, and 10 of 25 degrees up."""
    right_up = looks(steering(gaze=(20.0, 10.0)).beta(1, SOURCE, FRONT))
    assert right_up == pytest.approx(
        {"OutLeft": 0.5, "InRight": 0.5, "UpLeft": 0.4, "UpRight": 0.4}
    )
    left_down = looks(steering(gaze=(-10.0, -15.0)).beta(1, SOURCE, FRONT))
    assert left_down == pytest.approx(
        {"InLeft": 0.25, "OutRight": 0.25, "DownLeft": 0.5, "DownRight": 0.5}
    )
    far = looks(steering(gaze=(90.0, -90.0)).beta(1, SOURCE, FRONT))
    assert far == {"OutLeft": 1.0, "InRight": 1.0, "DownLeft": 1.0, "DownRight": 1.0}
    others = [i for i in range(52) if i not in places("gaze")]
    assert np.array_equal(
        steering(gaze=(20.0, 10.0)).beta(1, SOURCE, FRONT)[others], CLIP.betas[1][others]
    )


@pytest.mark.parametrize("view", [(0.3, 0.1), (-0.5, -0.2), (0.0, 0.0)])
def test_eyes_on_the_camera_point_at_it(view: tuple[float, float]) -> None:
    """Both eyeballs of the head model, turned by the units, look from between the eyes to the camera."""
    label = camera_label(*view)
    beta = steering(gaze="camera").beta(2, SOURCE, label)
    expected = towards_camera_rad(label)
    assert abs(expected[0]) < LOOK_SIDE_RAD and expected[1] < LOOK_UP_RAD
    for angles in gaze_angles_rad(beta):
        assert angles == pytest.approx(expected, abs=1e-5)  # beta is float32
    assert expected == pytest.approx(
        view, abs=0.06
    )  # the eyes lie before the origin that cameras turn about


def test_the_photos_gaze_and_one_of_ones_own_beside_regions() -> None:
    still = steering(gaze="photo").beta(3, SOURCE, FRONT)
    follows = steering().beta(3, SOURCE, FRONT)
    eyes = places("gaze")
    assert np.array_equal(still[eyes], SOURCE.beta[eyes]) and not np.array_equal(
        follows[eyes], still[eyes]
    )
    mouth = steering(gaze=(40.0, 0.0), regions=("mouth",)).beta(3, SOURCE, FRONT)
    assert looks(mouth) == {"OutLeft": 1.0, "InRight": 1.0}
    assert np.array_equal(mouth[places("brows")], SOURCE.beta[places("brows")])


def test_two_words_on_the_eyes_are_refused() -> None:
    for more in ({"hold_eyes": True}, {"regions": ("mouth", "gaze")}):
        with pytest.raises(UserError, match="--gaze and --.* both say where the eyes look"):
            ExpressionChoice(gaze="camera", **more).steer()  # type: ignore[arg-type]
    clip = FakeClip(2)
    clip.betas = np.zeros((2, 64), np.float32)
    with pytest.raises(
        UserError, match="'bfm64' of net has no units for where the eyes look; leave --gaze"
    ):
        Steering(BFM64, clip, Steer(gaze="camera"), "net")


@pytest.mark.slow
def test_the_shipped_network_turns_its_eyes() -> None:
    """Seen by the tracker on the output; of 30 degrees to either side it shows about half (docs/metrics.md, gaze x)."""
    network = load_demo_network()
    tracker = NetworkTracker(network, size=AUTO)
    source = tracker.image(astronaut(), "astronaut")
    head = Expressive(network, network.encode(source.crop, source.camera, source.beta))
    seen = []
    for yaw_deg in (30, -30):
        beta = looking(source.beta, math.radians(yaw_deg), 0.0, ARKIT52)
        shown = tracker.image(head.frame(beta, source.camera).image, "shown").beta
        seen.append(math.degrees(np.mean([yaw for yaw, _ in gaze_angles_rad(shown)])))
    assert seen[0] > 8 and seen[1] < -8  # seen 15 and -22
