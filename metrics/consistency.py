"""3D consistency of one head seen from several cameras: depth carried from view to view, landmarks triangulated.

Numbers are 0 for a rigid head whose depth and pictures are right from every view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.ndimage import map_coordinates

from conventions.cameras import CAMERA_RADIUS, camera_label, project_points, split_label
from metrics.pairs import Pairs, Side
from metrics.temporal import IdentityViews
from training.rendering.rays import ray_bundle
from training.rendering.volume import surface_depth

if TYPE_CHECKING:
    from inference.network import Network, Rendered
    from inference.photo import Photo
    from metrics.networks import Networks

OPAQUE = 0.9  # a pixel shows the head when so much of its ray is stopped
HIDDEN = 0.10  # world units: a surface nearer than that hides the point (a nose is 0.05 high)


def depth_reprojection(
    depths: Sequence[np.ndarray],  # float [h, h], distance along the ray, world units
    opacities: Sequence[np.ndarray],  # float [h, h], [0, 1]
    cameras: Sequence[np.ndarray],  # labels [25]
) -> float:
    """Mean |z - z'| over neighbouring views, percent of the camera's distance 2.7; NaN when no surface is shared.

    A view's surface points are moved into the next camera; z is their distance there, z' what that view's own depth
    says at the pixel. Points that fall outside, on thin parts, or behind a nearer surface are left out.
    """
    errors = []
    for i in range(len(depths) - 1):
        for a, b in ((i, i + 1), (i + 1, i)):
            errors.append(
                _carried(depths[a], opacities[a], cameras[a], depths[b], opacities[b], cameras[b])
            )
    found = np.concatenate(errors) if errors else np.zeros(0)
    return float(found.mean() / CAMERA_RADIUS * 100) if len(found) else float("nan")


def _surface(frame: Rendered, far: float) -> np.ndarray:
    """Distance of what the rays hit, float32 [h, h]."""
    depth, opacity = torch.from_numpy(frame.depth), torch.from_numpy(frame.opacity)
    return surface_depth(depth, opacity, far).numpy()


def _carried(
    depth: np.ndarray,
    opacity: np.ndarray,
    camera: np.ndarray,
    other_depth: np.ndarray,
    other_opacity: np.ndarray,
    other: np.ndarray,
) -> np.ndarray:
    size = depth.shape[0]
    origins, directions = ray_bundle(torch.from_numpy(np.asarray(camera, np.float32))[None], size)
    solid = (opacity > OPAQUE).ravel()
    points = (origins[0] + directions[0] * torch.from_numpy(depth.reshape(-1, 1))).numpy()[solid]
    label = np.asarray(other, np.float64)
    at = project_points(points.astype(np.float64), label) * size - 0.5  # pixel centres at integers
    centre = split_label(label)[0][:3, 3]
    distance = np.linalg.norm(points - centre, axis=1)
    inside = ((at >= 0) & (at <= size - 1)).all(axis=1)
    rows, columns = at[inside, 1], at[inside, 0]
    seen = map_coordinates(other_depth.astype(np.float64), [rows, columns], order=1)
    # Between head and background the interpolated depth is that of neither.
    sure = map_coordinates((other_opacity > OPAQUE).astype(np.float64), [rows, columns], order=1)
    difference = seen - distance[inside]
    return np.abs(difference[(sure > 0.999) & (difference > -HIDDEN)])


def triangulation_error(points: Sequence[np.ndarray], cameras: Sequence[np.ndarray]) -> float:
    """Mean distance of points [K, 2] seen in two or more views from the projection of their triangulation.

    points in image widths (x right, y down), cameras labels [25]; in image widths. Linear least squares on the
    rays: each point is the one nearest to its rays.

    Raises ValueError for fewer than two views.
    """
    if len(points) < 2:
        raise ValueError("a triangulation needs two views")
    left = np.zeros((len(points[0]), 3, 3))
    right = np.zeros((len(points[0]), 3))
    for seen, label in zip(points, cameras, strict=True):
        pose, k = split_label(np.asarray(label, np.float64))
        rays = np.concatenate([seen, np.ones((len(seen), 1))], axis=1) @ np.linalg.inv(k).T
        rays = rays @ pose[:3, :3].T
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        across = np.eye(3) - rays[:, :, None] * rays[:, None, :]  # projects onto the ray's normal
        left += across
        right += across @ pose[:3, 3]
    world = np.linalg.solve(left, right[..., None])[..., 0]
    errors = [
        np.linalg.norm(project_points(world, np.asarray(label, np.float64)) - seen, axis=1)
        for seen, label in zip(points, cameras, strict=True)
    ]
    return float(np.mean(errors))


def score_views(
    network: Network,
    photo: Photo,
    networks: Networks,
    n_views: int = 9,
    max_yaw_deg: float = 25.0,
) -> dict[str, float]:
    """Render a horizontal orbit of a portrait, expression fixed, and measure it; see docs/metrics.md.

    Landmark numbers are NaN when fewer than two views show a face.
    """
    source = network.encode(photo.crop, photo.camera, photo.beta)
    planes = network.planes(source, photo.beta)
    yaws = np.linspace(-max_yaw_deg, max_yaw_deg, n_views)
    cameras = [camera_label(float(np.deg2rad(yaw)), 0.0) for yaw in yaws]
    frames = [network.render(planes, camera) for camera in cameras]
    side = Side([f.image for f in frames], networks)
    seen = [i for i, face in enumerate(side.faces) if face is not None]
    points = [f.landmarks[:, :2] / side.size[0] for f in side.faces if f is not None]
    identity = IdentityViews(networks)
    identity.update(Pairs(side, side))
    total, count = identity.result()
    return {
        "depth_reprojection_percent": depth_reprojection(
            [_surface(f, network.model.config.render.far) for f in frames],
            [f.opacity for f in frames],
            cameras,
        ),
        "triangulation_px": triangulation_error(points, [cameras[i] for i in seen]) * side.size[0]
        if len(seen) > 1
        else float("nan"),
        "id_views": total / count if count else float("nan"),
        "views": float(n_views),
        "views_without_face": float(n_views - len(seen)),
    }
