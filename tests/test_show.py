"""One head as one wants to look at it: units, directions, views, kinds of pictures, and the command that makes them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from animate_support import FakeClip, photo, tiny_network
from click.testing import CliRunner
from PIL import Image

import gen_videos
from conventions.cameras import camera_label, label_angles_rad, split_label
from conventions.spaces import ARKIT52
from dnnlib import UserError
from inference.demo import astronaut, load_demo_network
from inference.looks import KINDS, SURFACE_PX, Look, Sitter, normal_colours
from inference.show import Driven, show
from inference.show_command import SHOWN
from inference.steering import Steer
from inference.tracked import NetworkTracker


@pytest.fixture(scope="module")
def sitter() -> Sitter:
    """The demo's portrait before the demo's network."""
    network = load_demo_network()
    return Sitter(network, NetworkTracker(network).image(astronaut(), "astronaut"))


def _moved(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(float) - b).mean(axis=2)


def test_a_unit_moves_its_part_of_the_face(sitter: Sitter) -> None:
    rest = sitter.picture(Look())
    side = len(rest)
    moved = _moved(rest, sitter.picture(Look(units=(("jawOpen", 0.6),))))
    mouth, upper = moved[side * 3 // 5 : side * 17 // 20], moved[: side // 2]
    # grey levels of 255; seen: 8.3 and 2.3
    assert mouth.mean() > 4 and upper.mean() < mouth.mean() / 2


def test_a_view_a_direction_and_a_kind_each_change_the_picture(sitter: Sitter) -> None:
    rest = sitter.picture(Look())
    for look in (Look(yaw_deg=20), Look(pitch_deg=15), Look(directions=((0, 1.0),))):
        assert _moved(rest, sitter.picture(look)).mean() > 1
    pictures = [sitter.picture(Look(kind=kind)) for kind in KINDS]
    raw_px = sitter.network.model.config.raw_resolution
    assert [len(p) for p in pictures] == [len(rest), raw_px, *[SURFACE_PX] * 3]
    opacity, normals = pictures[3], pictures[4]
    assert opacity[SURFACE_PX // 2, SURFACE_PX // 2].min() > 240  # the face is solid
    nose = normals[SURFACE_PX // 2, SURFACE_PX // 2]
    assert nose[2] > 180  # and faces the camera


def test_a_moving_picture_is_nearly_the_one_at_rest(sitter: Sitter) -> None:
    look = Look(units=(("jawOpen", 0.4),), yaw_deg=15)
    at_rest, moving = sitter.picture(look), sitter.picture(look, moving=True)
    assert at_rest.shape == moving.shape  # both are below MOVING_PX
    assert _moved(at_rest, moving).mean() < 3  # grey levels; half of the samples; seen 0.8


def test_the_empty_look_is_the_photos_own_expression_and_view() -> None:
    network, own = tiny_network(), photo()
    features = network.encode(own.crop, own.camera, own.beta)
    volume = network.planes_from_refined(features, network.refine(own.beta))
    expected = network.render(volume, own.camera).image
    np.testing.assert_array_equal(Sitter(network, own).picture(Look()), expected)


def test_units_are_held_within_their_range_as_far_as_the_expression_is() -> None:
    own = photo()
    sitter = Sitter(tiny_network(), own)
    own_smile = own.beta[ARKIT52.names.index("mouthSmileLeft")]
    full = sitter.refined(Look(units=(("mouthSmileLeft", 1.0),)), own.beta)
    same = sitter.refined(Look(units=(("mouthSmileLeft", float(1 - own_smile)),)), own.beta)
    np.testing.assert_allclose(full, same, atol=1e-5)  # fp32 sums of one matrix product
    wild = own.beta.copy()
    wild[3] = 1.4  # a driver's beta may lie outside
    np.testing.assert_allclose(
        sitter.refined(Look(units=((ARKIT52.names[3], 0.3),)), wild),
        sitter.refined(Look(), wild),
        atol=1e-5,
    )


def test_a_driver_gives_expression_and_view_that_a_look_adds_to(tmp_path: Path) -> None:
    network, own, clip = tiny_network(), photo(), FakeClip(3)
    sitter = Sitter(network, own)
    out = tmp_path / "a.png"
    show(network, own, out, Look(yaw_deg=5), Driven(clip, Steer(regions=("pose",))), 2)
    label = sitter.label(Look(yaw_deg=5), clip.cameras[2])
    assert math.isclose(
        float(label_angles_rad(label)[0]),
        float(label_angles_rad(clip.cameras[2])[0]) + math.radians(5),
        abs_tol=1e-5,  # float32 label
    )
    expected = sitter.picture(Look(yaw_deg=5), own.beta, clip.cameras[2])
    np.testing.assert_array_equal(np.asarray(Image.open(out)), expected)
    folder = tmp_path / "frames"
    show(network, own, folder, Look(yaw_deg=5), Driven(clip, Steer(regions=("pose",))))
    assert len(list(folder.glob("*.png"))) == 3
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "000002.png")), expected)


@pytest.mark.parametrize(
    ("look", "frame", "driven", "said"),
    [
        (Look(units=(("jawopen", 1.0),)), 0, False, "did you mean 'jawOpen'"),
        (Look(directions=((900, 1.0),)), 0, False, "has no v901"),
        (Look(), 3, True, "--frame 3 does not exist in clip with 3 frames"),
    ],
)
def test_what_is_not_there_is_said(
    look: Look, frame: int, driven: bool, said: str, tmp_path: Path
) -> None:
    driver = Driven(FakeClip(3)) if driven else None
    with pytest.raises(UserError, match=said):
        show(tiny_network(), photo(), tmp_path / "a.png", look, driver, frame)
    with pytest.raises(UserError, match="needs --driving"):
        show(tiny_network(), photo(), tmp_path / "a.mp4", Look())
    assert list(tmp_path.iterdir()) == []


def test_normals_of_a_plane_and_of_a_sphere() -> None:
    label = camera_label(0.3, -0.1)
    _, k = split_label(label.astype(np.float64))
    side = 65
    at = (np.arange(side) + 0.5) / side
    v, u = np.meshgrid(at, at, indexing="ij")
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(k).T
    solid = np.ones((side, side), np.float32)
    wall = 2.7 * np.linalg.norm(rays, axis=-1)  # faces the camera
    assert np.abs(normal_colours(wall, solid, label) - (127.5, 127.5, 255)).max() <= 1
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    middle, radius = 2.7, 0.2
    along = rays[..., 2] * middle
    depth = along - np.sqrt(np.maximum(radius**2 - middle**2 + along**2, 0))
    colours = normal_colours(depth, solid, label).astype(int)
    centre, step = side // 2, 10
    assert colours[centre, centre + step, 0] > 150 > 105 > colours[centre, centre - step, 0]
    assert colours[centre - step, centre, 1] > 150 > 105 > colours[centre + step, centre, 1]
    nothing = normal_colours(depth, np.zeros_like(solid), label)
    assert (nothing == nothing[0, 0]).all()


def test_the_command_knows_every_kind_and_refuses_what_has_no_effect() -> None:
    assert SHOWN == KINDS
    words = ["show", "-s", __file__, "-o", "a.png", "--strength", "2"]
    assert (
        "--strength has no effect without --driving"
        in CliRunner().invoke(gen_videos.main, words).output
    )
    words = ["show", "-s", __file__, "-o", "a.png", "--along", "w1=2"]
    assert "'w1' is no direction" in CliRunner().invoke(gen_videos.main, words).output
