"""3D consistency: zero for a scene whose geometry is known, and more the more it is disturbed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import calc_metrics
from conventions.cameras import camera_label, project_points
from metrics.consistency import depth_reprojection, triangulation_error
from metrics.model_commands import _report
from training.rendering.rays import ray_bundle

YAWS = np.deg2rad([-20.0, -10.0, 0.0, 10.0, 20.0])
CAMERAS = [camera_label(float(yaw), 0.0) for yaw in YAWS]


def sphere(camera: np.ndarray, size: int = 64, radius: float = 0.25) -> tuple[np.ndarray, ...]:
    """Depth and opacity [h, h] of a sphere at the pivot."""
    o, d = (r[0].double().numpy() for r in ray_bundle(torch.from_numpy(camera)[None], size))
    o = o - np.array([0, 0, 0.2])
    b, c = (o * d).sum(1), (o * o).sum(1) - radius**2
    inside = b * b - c
    depth = np.where(inside > 0, -b - np.sqrt(np.maximum(inside, 0)), 3.3)
    shape = (size, size)
    return depth.reshape(shape).astype(np.float32), (inside > 0).astype(np.float32).reshape(shape)


def test_true_depth_is_consistent_and_wrong_depth_is_not() -> None:
    depths, opacities = zip(*map(sphere, CAMERAS), strict=True)
    # bilinear sampling of a curved depth of 64 pixels
    assert depth_reprojection(depths, opacities, CAMERAS) < 0.1
    # A flat mask that turns with the camera: every view says another surface.
    flat = [np.where(o > 0, 2.4, 3.3).astype(np.float32) for o in opacities]
    assert depth_reprojection(flat, opacities, CAMERAS) > 0.3
    rng = np.random.default_rng(0)
    noisy = [(d + 0.02 * rng.normal(size=d.shape)).astype(np.float32) for d in depths]
    # the difference of two noises of 0.02, one of them averaged by sampling: about 0.4 % of 2.7
    assert 0.2 < depth_reprojection(noisy, opacities, CAMERAS) < 0.9
    nothing = [np.zeros_like(o) for o in opacities]
    assert np.isnan(depth_reprojection(depths, nothing, CAMERAS))


def test_triangulation_of_a_rigid_head_is_exact() -> None:
    rng = np.random.default_rng(0)
    world = rng.uniform(-0.2, 0.2, (478, 3))
    seen = [project_points(world, camera.astype(np.float64)) for camera in CAMERAS]
    assert triangulation_error(seen, CAMERAS) < 1e-6  # labels are float32
    noise = 0.004
    moved = [s + noise * rng.normal(size=s.shape) for s in seen]
    found = triangulation_error(moved, CAMERAS)
    # mean length of 2D noise is 1.25 sigma; three of ten numbers a point are fitted away
    assert found == pytest.approx(1.25 * noise * np.sqrt(7 / 10), rel=0.1)
    with pytest.raises(ValueError, match="two views"):
        triangulation_error(seen[:1], CAMERAS[:1])


@pytest.mark.slow
def test_views_of_the_shipped_network(tmp_path: Path) -> None:
    import skimage.data
    from PIL import Image

    network = Path(__file__).parents[1] / "models" / "demo.safetensors"
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "photo.png")
    words = ["views", "--network", network, "--source", tmp_path / "photo.png", "--views", "3"]
    words += ["--out", tmp_path / "v.json", "--set", "render.samples_coarse=8", "--device", "cpu"]
    result = CliRunner().invoke(calc_metrics.main, [str(w) for w in words])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "v.json").read_text())
    assert found["views_without_face"] == 0 and 0 < found["id_views"] <= 1
    assert 0 < found["triangulation_px"] < 20 and found["depth_reprojection_percent"] < 5


def test_what_could_not_be_measured_is_null_in_the_file(tmp_path: Path) -> None:
    _report({"id_views": float("nan"), "views": 2}, tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text() == '{\n "id_views": null,\n "views": 2\n}\n'
