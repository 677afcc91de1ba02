"""The source's pixels on the rendered surface, against geometry that can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from conventions.cameras import camera_label, project_points
from dnnlib import load_config
from training.config import Config
from training.generator.model import Export3D
from training.rendering.rays import ray_bundle
from training.rendering.texture import (
    MOTION_RANGE,
    SEEN_AS_WELL,
    Carried,
    add_detail,
    carry,
    enlarge,
    look_up,
    seen_texture,
)

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
    seen = look_up(
        image,
        carry(
            label(20), origins, directions, depth, torch.ones_like(depth), none(depth), FAR
        ).shift,
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
    seen = look_up(
        image,
        carry(label(-15), origins, directions, rendered, opacity, 0.8 * none(depth), FAR).shift,
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
    args = (label(0), origins, directions, depth, torch.ones_like(depth))
    change = look_up(image, carry(*args, motion, FAR).shift) - look_up(
        image, carry(*args, none(depth), FAR).shift
    )
    rise = 0.05 * 4.2647 / 2.5  # image widths at distance 2.7 - 0.2; the picture runs from 1 to -1
    middle = change[0, 0, 16:48, 16:48]
    torch.testing.assert_close(
        middle, torch.full_like(middle, 2 * rise * SIZE / (SIZE - 1)), atol=2e-3, rtol=0
    )


def test_gradients_reach_depth_and_motion() -> None:
    image = torch.rand(1, 3, SIZE, SIZE)
    origins, directions, depth = wall(label(30), 0.2)
    depth, motion = depth.requires_grad_(), none(depth.detach()).clone().requires_grad_()
    out = look_up(
        image,
        carry(label(-30), origins, directions, depth, torch.ones_like(depth), motion, FAR).shift,
    )
    out.square().sum().backward()
    assert depth.grad is not None and motion.grad is not None
    assert depth.grad.abs().sum() > 0 and motion.grad.abs().sum() > 0


def test_the_source_saw_what_it_saw_as_well_as_the_frame_does_inside_its_picture() -> None:
    """A wall in front of the origin: the source sees it under its own yaw, the frame under another."""

    def visible(frame_deg: float, source_deg: float) -> torch.Tensor:
        origins, directions, depth = wall(label(frame_deg), 0.2)
        args = (origins, directions, depth, torch.ones_like(depth), none(depth), FAR)
        return carry(label(source_deg), *args).visible[0, 0]

    def cosine(yaw_deg: float) -> float:  # of the wall's middle, whose normal is (0, 0, 1)
        way = label(yaw_deg)[0, [3, 7, 11]] - torch.tensor([0.0, 0.0, 0.2])
        return float(way[2] / way.norm())

    inner = slice(7, 9)  # the middle of the picture
    for frame_deg, source_deg in ((25, 60), (25, 66), (0, 68)):
        ratio = cosine(source_deg) / cosine(frame_deg)
        t = min(max((ratio - SEEN_AS_WELL[0]) / (SEEN_AS_WELL[1] - SEEN_AS_WELL[0]), 0), 1)
        found = float(visible(frame_deg, source_deg)[inner, inner].mean())
        # TRACE bends the wall by half a degree, and the ramp is four times as steep as the ratio
        assert abs(found - t * t * (3 - 2 * t)) < 0.05, (frame_deg, source_deg, found)
    assert (visible(25, 0)[inner, inner] == 1).all() and not visible(0, 84)[inner, inner].any()
    # what the source saw flat is good enough for a frame that sees it as flat
    assert visible(70, 70)[inner, inner].min() > 0.95
    # From far aside the frame's edge lies outside of the frontal source's picture.
    assert visible(70, 0)[8, 0] == 0 and visible(70, 0)[8, 8] == 1


def test_the_other_half_is_the_picture_of_the_mirrored_head() -> None:
    """Following a place of the head's other half is following the place itself of everything mirrored."""
    image = torch.rand(1, 3, SIZE, SIZE)
    origins, directions, depth = wall(label(20), 0.2)
    args = (depth, torch.ones_like(depth), none(depth), FAR)
    other = carry(label(-30), origins, directions, *args, mirrored=True)
    half = torch.tensor([-1.0, 1.0, 1.0])
    own = carry(label(-30), origins * half, directions * half, *args)
    torch.testing.assert_close(other.visible, own.visible, atol=1e-5, rtol=0)  # fp32
    torch.testing.assert_close(look_up(image, other.shift), look_up(image, own.shift))


def test_texture_comes_from_the_first_layer_that_saw_the_place() -> None:
    source, otherwise = torch.rand(1, 3, SIZE, SIZE), torch.rand(1, 3, SIDE, SIDE)
    nowhere, everywhere = torch.zeros(1, 1, SIDE, SIDE), torch.ones(1, 1, SIDE, SIDE)
    still, moved = torch.zeros(1, 2, SIDE, SIDE), torch.full((1, 2, SIDE, SIDE), 0.25)
    first, second = Carried(still, everywhere), Carried(moved, everywhere)
    assert torch.equal(seen_texture(source, (first, second), otherwise), look_up(source, still))
    hidden = (first._replace(visible=nowhere), second)
    torch.testing.assert_close(seen_texture(source, hidden, otherwise), look_up(source, moved))
    none_saw = seen_texture(source, [x._replace(visible=nowhere) for x in hidden], otherwise)
    torch.testing.assert_close(none_saw, enlarge(otherwise, SIZE))


def test_detail_is_the_photo_where_the_frame_shows_the_photo() -> None:
    photo = torch.rand(1, 3, 4 * SIZE, 4 * SIZE)
    small = torch.nn.functional.avg_pool2d(photo, 4)
    still, one = torch.zeros(1, 2, SIDE, SIDE), torch.ones(1, 1, SIZE, SIZE)
    seen = torch.ones(1, 1, SIDE, SIDE)
    layers = (Carried(still, seen),)
    for texture, background in ((one, None), (0 * one, one), (one, one)):
        # nothing has moved: what the frame lacks of the photo is what joins
        full = add_detail(small, photo, layers, texture, background)
        torch.testing.assert_close(full, photo, atol=1e-5, rtol=0)  # fp32 sums
    enlarged = enlarge(small, 4 * SIZE)
    for hidden, share in ((layers, 0 * one), ((Carried(still, 0 * seen),), one)):
        invented = add_detail(small, photo, hidden, share, 0 * one)
        torch.testing.assert_close(invented, enlarged, atol=1e-6, rtol=0)
    # a shift of eight photo pixels to the right fetches the detail that lies there
    shift = still.clone()
    shift[:, 0] = 8 / (4 * SIZE)
    moved = add_detail(small, photo, (Carried(shift, seen),), one, None) - enlarged
    torch.testing.assert_close(
        moved[..., 16:-16, 16:-32], (photo - enlarged)[..., 16:-16, 24:-24], atol=1e-4, rtol=0
    )  # fp32 places of pixels


def test_frames_of_a_network_take_the_size_of_the_detail() -> None:
    ours = ("texture=source", "align=source", "background=image", "texture_visible=true")
    config = load_config(Config, "tiny", [f"model.generator.{x}" for x in ours]).model
    torch.manual_seed(0)
    model = Export3D(config, 4).eval()
    photo = torch.rand(1, 3, 128, 128) * 2 - 1
    image, beta, camera = torch.nn.functional.avg_pool2d(photo, 4), torch.zeros(1, 4), label(10)
    with torch.no_grad():
        small, large = (
            model.render(
                model.planes(model.encode_source(image, camera, beta, detail), beta), camera
            ).image
            for detail in (None, photo)
        )
    assert small.shape[-1] == 32 and large.shape[-1] == 128
    # detail has no mean over the network's pixels, but for what bilinear enlarging smooths
    shrunk = torch.nn.functional.avg_pool2d(large, 4)
    smooth = torch.nn.functional.avg_pool2d(enlarge(small, 128), 4)
    assert (shrunk - smooth).abs().mean() < 0.35 * (photo - enlarge(image, 128)).abs().mean()
    with pytest.raises(ValueError, match="a multiple of 32 pixels"):
        model.encode_source(image, camera, beta, photo[..., :100, :100])
