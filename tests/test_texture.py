"""The source's pixels on the rendered surface, against geometry that can be worked out by hand."""

from __future__ import annotations

import math

import torch

from conventions.cameras import camera_label, project_points
from training.rendering.rays import ray_bundle
from training.rendering.texture import MOTION_RANGE, carried_texture

FAR, SIDE, SIZE = 3.1, 16, 64


def label(yaw_deg: float) -> torch.Tensor:
    return torch.from_numpy(camera_label(math.radians(yaw_deg), 0.0))[None]


def wall(camera: torch.Tensor, z: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rays of a camera and their distances to the plane at height z in front of the origin."""
    origins, directions = ray_bundle(camera, SIDE)
    return origins, directions, (z - origins[..., 2:]) / directions[..., 2:]


def none(depth: torch.Tensor) -> torch.Tensor:
    return torch.full_like(depth, 0.5).expand(-1, -1, 3)


def test_seen_from_the_source_itself_it_is_the_source_whatever_the_depth() -> None:
    image = torch.rand(1, 3, SIZE, SIZE)
    origins, directions, depth = wall(label(20), 0.2)
    depth = depth + 0.2 * torch.rand_like(depth)
    seen, _ = carried_texture(
        image, label(20), origins, directions, depth, torch.ones_like(depth), none(depth), FAR
    )
    torch.testing.assert_close(
        seen, image, atol=1e-3, rtol=0
    )  # 1e-5 of an image width in the place


def test_a_mark_on_a_wall_is_found_where_the_new_camera_sees_it() -> None:
    mark = torch.tensor([[0.05, 0.03, 0.2]])
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    u, v = project_points(mark, label(-15)[0])[0] * SIZE
    image = torch.exp(-((columns + 0.5 - u) ** 2 + (rows + 0.5 - v) ** 2) / 8)[None, None].expand(
        1, 3, -1, -1
    )
    origins, directions, depth = wall(label(25), 0.2)
    opacity = torch.full_like(depth, 0.8)  # the background's share of the depth is taken out again
    rendered = opacity * depth + (1 - opacity) * FAR
    seen, _ = carried_texture(
        image, label(-15), origins, directions, rendered, opacity, 0.8 * none(depth), FAR
    )
    row, column = divmod(int(seen[0, 0].argmax()), SIZE)
    x, y = project_points(mark, label(25)[0])[0] * SIZE - 0.5
    assert abs(column - x) < 1 and abs(row - y) < 1


def test_motion_brings_pixels_from_where_a_point_was() -> None:
    """A jaw that went down by 0.05 shows what the source has 0.05 higher."""
    image = torch.linspace(1, -1, SIZE).view(1, 1, SIZE, 1).expand(1, 3, SIZE, SIZE)  # bright above
    origins, directions, depth = wall(label(0), 0.2)
    motion = none(depth).clone()
    motion[..., 1] += 0.05 / MOTION_RANGE
    args = (image, label(0), origins, directions, depth, torch.ones_like(depth))
    change = carried_texture(*args, motion, FAR)[0] - carried_texture(*args, none(depth), FAR)[0]
    rise = 0.05 * 4.2647 / 2.5  # image widths at distance 2.7 - 0.2; the picture runs from 1 to -1
    middle = change[0, 0, 16:48, 16:48]
    torch.testing.assert_close(
        middle, torch.full_like(middle, 2 * rise * SIZE / (SIZE - 1)), atol=2e-3, rtol=0
    )


def test_gradients_reach_depth_and_motion() -> None:
    image = torch.rand(1, 3, SIZE, SIZE)
    origins, directions, depth = wall(label(30), 0.2)
    depth, motion = depth.requires_grad_(), none(depth.detach()).clone().requires_grad_()
    out, _ = carried_texture(
        image, label(-30), origins, directions, depth, torch.ones_like(depth), motion, FAR
    )
    out.square().sum().backward()
    assert depth.grad is not None and motion.grad is not None
    assert depth.grad.abs().sum() > 0 and motion.grad.abs().sum() > 0


def test_trust_is_the_angle_to_the_source_and_the_distance_from_its_border() -> None:
    """A wall in front of the origin: the source sees it under its own yaw, the frame under another."""
    image = torch.rand(1, 3, SIZE, SIZE)
    origins, directions, depth = wall(label(25), 0.2)
    for yaw_deg in (0, 30, 60):
        _, trust = carried_texture(
            image,
            label(yaw_deg),
            origins,
            directions,
            depth,
            torch.ones_like(depth),
            none(depth),
            FAR,
        )
        points = (origins + depth * directions)[0].view(SIDE, SIDE, 3)
        way = label(yaw_deg)[0, [3, 7, 11]] - points
        cosine = way[..., 2] / way.norm(dim=-1)  # the wall's normal is (0, 0, 1)
        torch.testing.assert_close(trust[0, 0], cosine, atol=3e-3, rtol=0)  # TRACE bends the wall
        assert trust[0, 1, 7, 7] == 1  # half an image away from the border
    # From far aside the frame's edge lies outside of the frontal source's picture.
    origins, directions, depth = wall(label(70), 0.2)
    _, trust = carried_texture(
        image, label(0), origins, directions, depth, torch.ones_like(depth), none(depth), FAR
    )
    assert trust[0, 1, 8, 0] < 0 < trust[0, 1, 8, 8]
