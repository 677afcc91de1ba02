"""Synthetic heads: the same seed gives the same bytes, labels agree with pictures, units move what they name."""

from __future__ import annotations

import numpy as np
import pytest

from conventions.cameras import camera_label, mirror_label, project_points
from dataset.synthesis.basis import LANDMARKS, UNIT_NAMES, load_basis
from dataset.synthesis.expression import pose_head
from dataset.synthesis.heads import SyntheticHeads
from dataset.synthesis.motion import (
    LEAK_BIAS_STD,
    MAX_PITCH_RAD,
    MAX_YAW_RAD,
    leakage,
    observe,
    sample_clip,
    units_to_beta,
)
from dataset.synthesis.renderer import NO_DEPTH, camera_rays
from dataset.synthesis.shape import FACE_POINTS_WORLD, five_points, sample_shape

RESOLUTION = 64
NEUTRAL = units_to_beta()
VIEWS_DEG = [(0, 0), (35, 0), (-35, 10), (10, -20)]


@pytest.fixture(scope="module")
def heads() -> SyntheticHeads:
    return SyntheticHeads(seed=3, cache_size=8)


def label_deg(yaw_deg: float, pitch_deg: float) -> np.ndarray:
    return camera_label(np.deg2rad(yaw_deg), np.deg2rad(pitch_deg))


def vertices_world(heads: SyntheticHeads, identity: int, beta: np.ndarray) -> np.ndarray:
    """Vertices of the head under an expression, float32 [V, 3] world units, in the order of `load_basis()`."""
    shape = heads.person(identity).shape
    return shape.to_world(pose_head(shape, np.asarray(beta, np.float32))[0])


def plain_person(heads: SyntheticHeads) -> int:
    """An identity without hair in the face, beard or glasses, so that the skin is what rays hit."""
    for identity in range(40):
        look = heads.person(identity).look
        if look.hair_style in ("bald", "buzz") and look.beard.length_dm == 0 and not look.glasses:
            return identity
    raise AssertionError("no plain person among 40")


# ---- the space ----------------------------------------------------------------------------------


def test_units_are_those_of_the_arkit52_space() -> None:
    from conventions.spaces import ARKIT52

    assert ARKIT52.names == UNIT_NAMES
    assert not load_basis().units[0].any()  # `_neutral` moves nothing


def test_unknown_unit_is_refused() -> None:
    with pytest.raises(KeyError):
        units_to_beta(tongueOut=1.0)


# ---- who ----------------------------------------------------------------------------------------


def test_five_points_of_every_head_lie_where_the_aligned_crop_puts_them() -> None:
    basis = load_basis()
    frontal = label_deg(0, 0)
    goal = project_points(FACE_POINTS_WORLD, frontal)
    errors = []
    for identity in range(12):
        shape = sample_shape(np.random.default_rng(identity))
        points = shape.to_world(five_points(basis, shape.vertices))
        errors.append(np.abs(project_points(points, frontal) - goal).max())
    # People differ in their proportions, as the mean face of the crop's template does from each of them.
    assert np.median(errors) < 0.03  # of the image's width
    assert max(errors) < 0.06


def test_the_aligned_points_come_from_the_documented_recipe(shared_data) -> None:
    from scipy.io import loadmat

    path = shared_data / "models" / "deep3d_alignment" / "similarity_Lm3D_all.mat"
    if not path.is_file():
        pytest.skip("needs similarity_Lm3D_all.mat")
    lm = loadmat(path)["lm"]
    five = np.stack([lm[[36, 39]].mean(0), lm[[42, 45]].mean(0), lm[30], lm[48], lm[54]])
    world = 0.27 * five + [0, 0.006, 0.161]
    symmetric = 0.5 * (world + world[[1, 0, 2, 4, 3]] * [-1, 1, 1])
    shrunk = symmetric * 2.7 / 2.861  # as the labels' distance is
    np.testing.assert_allclose(FACE_POINTS_WORLD, shrunk, atol=2e-4)  # four decimals are kept


def test_people_differ(heads: SyntheticHeads) -> None:
    a, b = (heads.render(i, NEUTRAL, label_deg(0, 0), 32, 1).image.astype(float) for i in (0, 1))
    assert np.abs(a - b).mean() > 8


# ---- determinism ------------------------------------------------------------------------------


def test_rendering_is_deterministic_and_does_not_depend_on_what_came_before() -> None:
    beta, label = units_to_beta(jawOpen=0.5), label_deg(20, 5)
    first = SyntheticHeads(seed=5)
    first.render(1, NEUTRAL, label, 32)
    a = first.render(2, beta, label, 32)
    b = SyntheticHeads(seed=5).render(2, beta, label, 32)
    assert np.array_equal(a.image, b.image)
    assert np.array_equal(a.depth, b.depth)
    assert np.array_equal(a.mask, b.mask)


def test_other_seed_other_person() -> None:
    label = label_deg(0, 0)
    a = SyntheticHeads(seed=5).render(2, NEUTRAL, label, 32, 1)
    b = SyntheticHeads(seed=6).render(2, NEUTRAL, label, 32, 1)
    assert not np.array_equal(a.image, b.image)


# ---- label and picture ------------------------------------------------------------------------


@pytest.mark.parametrize("yaw_deg, pitch_deg", VIEWS_DEG)
def test_nose_lands_on_its_pixel_at_its_depth(
    heads: SyntheticHeads, yaw_deg: float, pitch_deg: float
) -> None:
    person = plain_person(heads)
    label = label_deg(yaw_deg, pitch_deg)
    nose = vertices_world(heads, person, NEUTRAL)[load_basis().landmark("nose_tip")]
    x, y = project_points(nose[None], label)[0]
    frame = heads.render(person, NEUTRAL, label, RESOLUTION, 1)
    distance = np.linalg.norm(nose - label[:16].reshape(4, 4)[:3, 3])
    row, column = int(y * RESOLUTION), int(x * RESOLUTION)
    near = frame.depth[row - 1 : row + 2, column - 1 : column + 2]
    # A pixel at 64 px is 0.01 world units wide; the nose slopes by no more than a few of them.
    assert np.abs(near - distance).min() < 0.02
    assert frame.mask[row, column] == 1


def test_depth_is_the_distance_of_the_surface(heads: SyntheticHeads) -> None:
    person = plain_person(heads)
    label = label_deg(25, -10)
    frame = heads.render(person, NEUTRAL, label, RESOLUTION, 1)
    origin, rays = camera_rays(label, RESOLUTION, np.array([[0.5, 0.5]], np.float32))
    points = origin + frame.depth[..., None] * rays[:, :, 0]
    # Unprojected points project back to the centres of their pixels.
    uv = project_points(points.reshape(-1, 3), label).reshape(RESOLUTION, RESOLUTION, 2)
    centre = (np.arange(RESOLUTION) + 0.5) / RESOLUTION
    np.testing.assert_allclose(
        uv[..., 0], np.broadcast_to(centre, uv.shape[:2]), atol=1e-4
    )  # float32
    # And those in the middle of the face lie on the head's surface: near one of its vertices.
    vertices = vertices_world(heads, person, NEUTRAL)
    middle = points[24:40, 24:40].reshape(-1, 3)
    nearest = np.linalg.norm(middle[:, None] - vertices[None], axis=2).min(axis=1)
    assert np.quantile(nearest, 0.9) < 0.03  # a quad of the cheek is 0.03 wide


def test_nothing_is_far_and_unmasked(heads: SyntheticHeads) -> None:
    frame = heads.render(plain_person(heads), NEUTRAL, label_deg(0, 0), RESOLUTION, 1)
    empty = frame.mask == 0
    assert empty.any()
    assert (frame.depth[empty] == NO_DEPTH).all()
    covered = frame.depth[frame.mask == 1]
    assert covered.min() > 2.2 and covered.max() < 3.4


def test_turning_the_camera_right_moves_the_nose_left_of_the_middle(heads: SyntheticHeads) -> None:
    basis, person = load_basis(), plain_person(heads)
    vertices = vertices_world(heads, person, NEUTRAL)
    nose = vertices[[basis.landmark("nose_tip")]]
    # A nose that is moved to +x moves to the image's right.
    assert (
        project_points(nose + [[0.05, 0, 0]], label_deg(0, 0))[0, 0]
        > project_points(nose, label_deg(0, 0))[0, 0]
    )
    # From the subject's left (+x) the nose points to the image's left.
    assert (
        project_points(nose, label_deg(30, 0))[0, 0]
        < 0.45
        < 0.55
        < project_points(nose, label_deg(-30, 0))[0, 0]
    )


def test_mirrored_label_describes_the_mirrored_picture(heads: SyntheticHeads) -> None:
    person, label = plain_person(heads), label_deg(25, 10)
    depth = heads.render(person, NEUTRAL, label, 32, 1).depth
    points = {}
    for name, this_label, this_depth in (
        ("as is", label, depth),
        ("mirrored", mirror_label(label), depth[:, ::-1]),
    ):
        origin, rays = camera_rays(this_label, 32, np.array([[0.5, 0.5]], np.float32))
        points[name] = origin + this_depth[..., None] * rays[:, :, 0]
    np.testing.assert_allclose(
        points["mirrored"], points["as is"][:, ::-1] * [-1, 1, 1], atol=1e-5
    )  # float32


# ---- units ------------------------------------------------------------------------------------


def test_jaw_open_moves_the_chin_down(heads: SyntheticHeads) -> None:
    basis = load_basis()
    chin = [
        vertices_world(heads, 1, b)[basis.landmark("chin")]
        for b in (NEUTRAL, units_to_beta(jawOpen=1))
    ]
    assert chin[1][1] < chin[0][1] - 0.03


def test_blink_changes_the_eyes_only(heads: SyntheticHeads) -> None:
    person, label = plain_person(heads), label_deg(0, 0)
    a = heads.render(person, NEUTRAL, label, RESOLUTION, 2, sensor_noise=False).image.astype(int)
    b = heads.render(
        person, units_to_beta(eyeBlinkLeft=1), label, RESOLUTION, 2, sensor_noise=False
    ).image.astype(int)
    changed = np.argwhere(np.abs(a - b).max(axis=2) > 6)
    assert len(changed) > 10
    uv = changed / RESOLUTION  # (y, x)
    eye = project_points(FACE_POINTS_WORLD[1:2], label)[0]
    assert (np.abs(uv - eye[::-1]) < 0.16).all()
    assert uv[:, 1].min() > 0.5  # the subject's left eye is on the image's right


def test_shut_lids_cover_the_eyeball(heads: SyntheticHeads) -> None:
    from dataset.synthesis.rays import Tracer

    basis = load_basis()
    seen = 0
    for identity in range(6):
        vertices = vertices_world(heads, identity, units_to_beta(eyeBlink=1))
        keep = basis.part_of_face != 6
        origin, rays = camera_rays(label_deg(0, 0), 96, np.array([[0.5, 0.5]], np.float32))
        flat = rays.reshape(-1, 3)
        hit = Tracer(vertices, basis.triangles[keep]).first_hit(
            np.broadcast_to(origin, flat.shape), flat
        )
        part = basis.part_of_face[keep][hit.triangle[hit.triangle >= 0]]
        seen += int(np.isin(part, [1, 2]).sum())
    assert seen <= 30  # of some 100 pixels per open eye


def test_gaze_turns_both_irises_the_same_way(heads: SyntheticHeads) -> None:
    from dataset.synthesis.expression import pose_head

    look_left = units_to_beta(eyeLookOutLeft=0.5, eyeLookInRight=0.5)
    _, (left, right) = pose_head(heads.person(0).shape, look_left)
    assert left.gaze[0] > 0.2 and right.gaze[0] > 0.2
    np.testing.assert_allclose(left.gaze, right.gaze, atol=1e-6)  # the same rotation twice


@pytest.mark.parametrize("name", UNIT_NAMES[1:])
def test_every_unit_moves_something(name: str) -> None:
    unit = load_basis().units[UNIT_NAMES.index(name)]
    assert np.abs(unit).max() > 0.005  # decimetres: half a millimetre


# ---- motion -----------------------------------------------------------------------------------


def test_clips_are_continuous_and_stay_in_range() -> None:
    for seed in range(8):
        clip = sample_clip(np.random.default_rng(seed), 50, 0.04)
        assert clip.beta_true.min() >= 0 and clip.beta_true.max() <= 1
        assert not clip.beta_true[:, 0].any()
        slow = [
            i for i, n in enumerate(UNIT_NAMES) if not n.startswith("eye")
        ]  # lids and gaze jump in life too
        # A phoneme lasts 0.12 s or more and is left within the half of that: 2 of these frames.
        assert np.abs(np.diff(clip.beta_true[:, slow], axis=0)).max() < 0.95
        step = np.linalg.norm(np.diff(clip.cameras[:, [3, 7, 11]], axis=0), axis=1)
        assert step.max() < 0.25  # world units in 0.04 s: 5 degrees


def test_poses_and_expressions_cover_the_range() -> None:
    rng = np.random.default_rng(0)
    clips = [sample_clip(rng, 6, 0.3) for _ in range(300)]
    origin = np.concatenate([c.cameras for c in clips])[:, [3, 7, 11]]
    yaw = np.arctan2(origin[:, 0], origin[:, 2])
    pitch = np.arcsin(origin[:, 1] / np.linalg.norm(origin, axis=1))
    assert np.abs(yaw).max() <= MAX_YAW_RAD + 0.01 and np.abs(pitch).max() <= MAX_PITCH_RAD + 0.01
    assert (np.abs(yaw) > np.deg2rad(30)).mean() > 0.05
    assert np.median(np.abs(yaw)) < np.deg2rad(20)
    beta = np.concatenate([c.beta_true for c in clips])
    reached = (beta > 0.6).mean(axis=0)
    assert (reached[1:] > 0.001).all(), [
        n for n, r in zip(UNIT_NAMES, reached, strict=True) if r <= 0.001
    ]
    blink = beta[:, UNIT_NAMES.index("eyeBlinkLeft")]
    assert (blink > 0.8).mean() > 0.04


# ---- what a tracker sees ----------------------------------------------------------------------


def test_without_leakage_the_observation_is_the_truth() -> None:
    beta = sample_clip(np.random.default_rng(1), 10, 0.2).beta_true
    code = np.random.default_rng(2).normal(size=16).astype(np.float32)
    assert np.array_equal(observe(beta, code, 0.0, np.random.default_rng(3)), beta)


def test_leakage_is_fixed_per_identity_and_as_strong_as_documented() -> None:
    rng = np.random.default_rng(0)
    codes = [sample_shape(rng).code for _ in range(40)]
    bias = np.stack([leakage(code)[0] for code in codes])
    assert not bias[:, 0].any()
    # The entries of the code have about unit deviation, not exactly.
    assert 0.6 * LEAK_BIAS_STD < bias[:, 1:].std() < 1.4 * LEAK_BIAS_STD
    np.testing.assert_array_equal(leakage(codes[0])[0], bias[0])
    beta = np.full((50, 52), 0.5, np.float32)
    seen = observe(beta, codes[0], 1.0, rng)
    half = observe(beta, codes[0], 0.5, rng)
    shift, half_shift = (s.mean(axis=0)[1:] - 0.5 for s in (seen, half))
    np.testing.assert_allclose(half_shift, 0.5 * shift, atol=0.01)  # noise 0.02 over 50 frames
    assert ((seen >= 0) & (seen <= 1)).all()


def test_identity_can_be_read_off_the_observation() -> None:
    rng = np.random.default_rng(0)
    codes = [sample_shape(rng).code for _ in range(8)]
    beta = sample_clip(rng, 40, 0.3).beta_true
    mean = np.stack([observe(beta, c, 1.0, rng).mean(axis=0) for c in codes])
    again = np.stack([observe(beta, c, 1.0, rng).mean(axis=0) for c in codes])
    distance = np.linalg.norm(mean[:, None] - again[None], axis=2)
    assert (distance.argmin(axis=1) == np.arange(8)).all()


def test_landmarks_are_on_their_side() -> None:
    basis = load_basis()
    for name in LANDMARKS:
        x = basis.vertices[basis.landmark(name), 0]
        assert (x > 0.1) == name.startswith("left") and (x < -0.1) == name.startswith("right")
