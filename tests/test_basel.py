"""The Basel model: a file of the true layout, made here, against Deep3DFaceRecon's own projection by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from conventions.cameras import (
    FOCAL_NORMALISED,
    deep3d_to_world,
    from_deep3d,
    project_points,
)
from conventions.crop import MEAN_FACE_5
from dataset.preparation.judge import fit_error
from dataset.preparation.options import VideoOptions
from dnnlib.errors import UserError
from tracking.basel import BaselModel
from tracking.deep3d import Deep3DNetwork
from tracking.tracker import Tracker

N = 90  # vertices; the true model has 35,709
FIVE = {36: 0, 39: 0, 42: 1, 45: 1, 30: 2, 48: 3, 54: 4}  # keypoint -> point of the mean face


def arrays(**change: object) -> dict[str, object]:
    """Keypoint k is vertex k + 10; those of the five points lie on the mean face, the mesh's mean is its origin."""
    rng = np.random.default_rng(0)
    mean = rng.normal(0, 0.5, (N, 3))
    for keypoint, point in FIVE.items():
        mean[keypoint + 10] = MEAN_FACE_5[point]
    mean[-1] = -mean[:-1].sum(axis=0)
    made: dict[str, object] = {
        "meanshape": mean.reshape(1, -1).astype(np.float32),
        "idBase": rng.normal(0, 0.01, (3 * N, 80)).astype(np.float32),
        "exBase": rng.normal(0, 0.01, (3 * N, 64)).astype(np.float32),
        "meantex": np.zeros((1, 3 * N), np.float32),
        "texBase": np.zeros((3 * N, 80), np.float32),
        "tri": np.ones((4, 3), np.uint16),
        "keypoints": np.arange(11, 79, dtype=np.uint16)[None],  # MATLAB counts from 1
    }
    return {**made, **change}


def save(path: Path, **change: object) -> Path:
    savemat(path, arrays(**change))
    return path


def test_keypoints_are_mean_plus_bases(tmp_path: Path) -> None:
    model = BaselModel(save(tmp_path / "BFM_model_front.mat"))
    assert model.keypoints(np.zeros(80), np.zeros(64)).shape == (68, 3)
    np.testing.assert_allclose(
        model.five_points(np.zeros(80), np.zeros(64)), MEAN_FACE_5, atol=1e-5
    )  # fp32 file
    made = arrays()
    identity, beta = np.zeros(80), np.zeros(64)
    identity[3], beta[7] = 2.0, -1.5
    moved = model.keypoints(identity, beta) - model.keypoints(np.zeros(80), np.zeros(64))
    rows = slice(3 * 40, 3 * 40 + 3)  # vertex 40 is keypoint 30
    expected = 2.0 * made["idBase"][rows, 3] - 1.5 * made["exBase"][rows, 7]  # type: ignore[index]
    np.testing.assert_allclose(moved[30], expected, atol=1e-6)


def test_points_are_seen_where_deep3dfacerecon_sees_them() -> None:
    """Its camera: x' = R x + t before (0, 0, 10), looking along -z; focal 1015 at 224 px, that is ours at the crop."""
    rng = np.random.default_rng(1)
    points, angle, trans = (
        rng.normal(0, 0.6, (20, 3)),
        np.array([0.1, -0.3, 0.05]),
        np.array([0.1, -0.2, 0.4]),
    )
    (cx, cy, cz), (sx, sy, sz) = np.cos(angle), np.sin(angle)
    turned = (
        np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
        @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        @ np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    )
    x, y, z = (points @ turned.T + trans).T
    by_hand = np.stack(
        [0.5 + FOCAL_NORMALISED * x / (10 - z), 0.5 - FOCAL_NORMALISED * y / (10 - z)], axis=1
    )
    seen = project_points(deep3d_to_world(points, angle, trans), from_deep3d(angle, trans))
    np.testing.assert_allclose(seen, by_hand, atol=1e-5)  # float32 label


def test_the_own_face_judges_the_label() -> None:
    landmarks = np.random.default_rng(2).uniform(0, 256, (478, 3))
    from conventions.crop import five_points

    label = from_deep3d(np.zeros(3), np.zeros(3))
    uv = five_points(landmarks) / 256
    # five points at the distance of the origin that project onto the landmarks
    own = np.stack(
        [
            (uv[:, 0] - 0.5) / FOCAL_NORMALISED * 2.7,
            (0.5 - uv[:, 1]) / FOCAL_NORMALISED * 2.7,
            0 * uv[:, 0],
        ],
        axis=1,
    )
    camera_y = float(label[7])
    own[:, 1] += camera_y
    own[:, 2] = float(label[11]) - 2.7
    assert fit_error(label, landmarks, 256, own) < 1e-4  # float32 label
    assert fit_error(label, landmarks, 256) > 0.1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"idBase": np.zeros((3 * N, 79))}, "idBase"),
        ({"exBase": "text"}, "no numbers called exBase"),
        ({"keypoints": np.arange(68)[None] + 60}, "keypoints outside"),
        ({"meanshape": np.full((1, 3 * N), math.nan)}, "NaN"),
    ],
)
def test_another_model_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        BaselModel(save(tmp_path / "other.mat", **change))


def test_missing_and_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        BaselModel(tmp_path / "none.mat")
    (tmp_path / "text.mat").write_text("no matlab")
    with pytest.raises(UserError, match="no MATLAB file"):
        BaselModel(tmp_path / "text.mat")
    with pytest.raises(ValueError, match="belongs to the tracker deep3d"):
        VideoOptions(bfm_model="x.mat")


def test_the_tracker_gives_the_own_five_points(tmp_path: Path) -> None:
    from skimage.data import astronaut

    torch.save({"net_recon": Deep3DNetwork().state_dict()}, tmp_path / "net.pth")
    model = save(tmp_path / "BFM_model_front.mat")
    tracker = Tracker("bfm64", tmp_path / "net.pth", bfm_model=model)
    frame = tracker.track_photo(astronaut(), 64)
    assert frame.five_points is not None and frame.five_points.shape == (5, 3)
    # the model judges labels and changes none: another data set, but the same tracker
    plain = Tracker("bfm64", tmp_path / "net.pth")
    assert tracker.record == plain.record and tracker.files != plain.files == ""
