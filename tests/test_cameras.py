"""Camera labels: hand-worked numbers, directions, mirror, conversions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from conventions import cameras as c


def test_frontal_camera_by_hand() -> None:
    label = c.camera_label(0.0, 0.0)
    assert label.dtype == np.float32 and label.shape == (25,)
    expected = [1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 2.7, 0, 0, 0, 1]
    np.testing.assert_allclose(label[:16], expected, atol=1e-7)
    np.testing.assert_allclose(label[16:], [4.2647, 0, 0.5, 0, 4.2647, 0.5, 0, 0, 1], atol=1e-6)


def test_projection_by_hand_numpy_and_torch() -> None:
    label = c.camera_label(0.0, 0.0)
    points = np.array([[0.0, 0.0, 0.0], [0.27, 0.0, 0.0], [0.0, 0.27, 0.0], [0.135, 0, 1.35]])
    expected = [[0.5, 0.5], [0.5 + 0.42647, 0.5], [0.5, 0.5 - 0.42647], [0.5 + 0.42647, 0.5]]
    np.testing.assert_allclose(c.project_points(points, label), expected, atol=1e-5)
    out = c.project_points(torch.tensor(points[None]).float(), torch.tensor(label)[None])
    np.testing.assert_allclose(out[0].numpy(), expected, atol=1e-5)


def test_yaw_moves_the_camera_to_plus_x_and_pitch_up() -> None:
    yawed, pitched = c.camera_label(0.4, 0.0), c.camera_label(0.0, 0.3)
    assert yawed[3] > 1.0 and abs(yawed[7]) < 1e-6
    assert pitched[7] > 0.7 and abs(pitched[3]) < 1e-6
    # From the right, a point in front of the pivot (the nose) is seen to the left of it.
    nose = np.array([[0.0, 0.0, 0.4]])
    assert (
        c.project_points(nose, yawed)[0, 0]
        < c.project_points(np.array([c.LOOK_AT_PIVOT]), yawed)[0, 0]
    )


def _eg3d_position(horizontal: float, vertical: float, radius: float) -> tuple[float, float, float]:
    """Where EG3D's look-at sampler puts the camera, from its published formula."""
    phi, theta = np.arccos(1 - 2 * vertical / np.pi), horizontal
    x, z = (f(np.pi - theta) * radius * np.sin(phi) for f in (np.cos, np.sin))
    return x, radius * np.cos(phi), z


@pytest.mark.parametrize(("yaw", "pitch"), [(0.0, 0.0), (0.4, 0.3), (-0.7, -0.5), (0.0, 1.2)])
def test_angles_of_eg3ds_samplers(yaw: float, pitch: float) -> None:
    seen = c.camera_label(yaw, pitch)[[3, 7, 11]]
    expected = _eg3d_position(*c.eg3d_sampler_angles_rad(yaw, pitch), c.CAMERA_RADIUS)
    np.testing.assert_allclose(seen, expected, atol=1e-6)  # labels are float32


@pytest.mark.parametrize("yaw,pitch,roll", [(0.0, 0, 0), (0.5, 0.2, 0.1), (-0.7, -0.3, -0.4)])
def test_angles_come_back(yaw: float, pitch: float, roll: float) -> None:
    label = c.camera_label(yaw, pitch, roll, pivot=(0.0, 0.0, 0.0))
    np.testing.assert_allclose(
        np.array(c.label_angles_rad(label)), [yaw, pitch, roll], atol=1e-6
    )  # float32 label
    pose, _ = c.split_label(label)
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-6)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1, abs=1e-6)


def test_positive_roll_turns_the_picture_of_the_head_anticlockwise() -> None:
    # The camera turns clockwise about its viewing direction, so the world seems to turn the other way.
    label = c.camera_label(0.0, 0.0, 0.2)
    crown = c.project_points(np.array([[0.0, 0.3, 0.0]]), label)[0]
    assert crown[0] < 0.5 and crown[1] < 0.5


def test_mirror_sees_the_mirrored_world() -> None:
    label = c.camera_label(0.5, 0.2, 0.1)
    points = np.random.default_rng(0).uniform(-0.3, 0.3, (10, 3))
    mirrored = points * [-1, 1, 1]
    a = c.project_points(points, label)
    b = c.project_points(mirrored, c.mirror_label(label))
    np.testing.assert_allclose(b, np.stack([1 - a[:, 0], a[:, 1]], -1), atol=1e-6)
    np.testing.assert_array_equal(c.mirror_label(c.mirror_label(label)), label)
    torch.testing.assert_close(
        c.mirror_label(torch.tensor(label)), torch.tensor(c.mirror_label(label))
    )


def test_mirror_negates_the_five_entries() -> None:
    label = np.arange(1, 26, dtype=np.float32)
    changed = np.flatnonzero(c.mirror_label(label) != label)
    assert changed.tolist() == [1, 2, 3, 4, 8]  # [0,1] [0,2] [0,3] [1,0] [2,0] of a row-major 4x4


def test_field_of_view() -> None:
    # EG3D's 18.837 differs from 4.2647 in the fourth digit; that is EG3D's own rounding.
    assert c.eg3d_fov_deg_to_focal(18.837) == pytest.approx(c.FOCAL_NORMALISED, rel=4e-4)


def test_deep3d_neutral_pose_by_hand() -> None:
    # angle 0, trans 0: camera at (0, 0.006, 2.7 + 0.161), then scaled to length 2.7.
    label = c.from_deep3d(np.zeros(3), np.zeros(3))
    scale = 2.7 / math.hypot(0.006, 2.861)
    np.testing.assert_allclose(label[[3, 7, 11]], [0, 0.006 * scale, 2.861 * scale], atol=1e-6)
    np.testing.assert_allclose(np.diag(label[:16].reshape(4, 4)), [1, -1, -1, 1], atol=1e-6)


def test_deep3d_turned_head_by_hand() -> None:
    # Ry(90 deg) turns the face (z) to +x of the camera: the camera sees it from its -x side.
    # R = Ry^T; trans - 10 z = (1, 2, -7); c = -0.27 R (1, 2, -7) = -0.27 (7, 2, 1).
    label = c.from_deep3d(np.array([0.0, math.pi / 2, 0.0]), np.array([1.0, 2.0, 3.0]))
    position = np.array([-1.89, -0.54 + 0.006, -0.27 + 0.161])
    position *= 2.7 / np.linalg.norm(position)
    np.testing.assert_allclose(label[[3, 7, 11]], position, atol=1e-6)
    rotation = label[:16].reshape(4, 4)[:3, :3]
    # rows of R diag(1,-1,-1) with R = [[0,0,-1],[0,1,0],[1,0,0]]
    np.testing.assert_allclose(rotation, [[0, 0, 1], [0, -1, 0], [1, 0, 0]], atol=1e-6)


def test_deep3d_sees_what_its_model_shows() -> None:
    """Up to the rescaling of |t|, the label projects like Deep3DFaceRecon's own camera (focal 1015 at 224 px)."""
    rng = np.random.default_rng(1)
    angle, trans = np.array([0.1, -0.3, 0.05]), np.array([0.02, -0.03, 0.1])
    points = rng.uniform(-0.5, 0.5, (20, 3))
    ax, ay, az = angle
    rx = np.array([[1, 0, 0], [0, np.cos(ax), -np.sin(ax)], [0, np.sin(ax), np.cos(ax)]])
    ry = np.array([[np.cos(ay), 0, np.sin(ay)], [0, 1, 0], [-np.sin(ay), 0, np.cos(ay)]])
    rz = np.array([[np.cos(az), -np.sin(az), 0], [np.sin(az), np.cos(az), 0], [0, 0, 1]])
    moved = points @ (rz @ ry @ rx).T + trans
    depth = 10 - moved[:, 2]
    expected = np.stack([moved[:, 0], -moved[:, 1]], -1) / depth[:, None] * c.FOCAL_NORMALISED + 0.5
    offset = np.array(c.DEEP3D_OFFSET)
    shifted = np.array(trans) - (0, 0, 10.0)
    radius = np.linalg.norm(-(rz @ ry @ rx).T @ shifted * 0.27 + offset)
    label = c.from_deep3d(angle, trans, radius=float(radius))
    np.testing.assert_allclose(c.project_points(points * 0.27 + offset, label), expected, atol=2e-6)


def test_bad_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="25"):
        c.split_label(np.zeros(24))
    with pytest.raises(ValueError, match="vertical"):
        c.camera_label(0.0, math.pi / 2, pivot=(0, 0, 0))
