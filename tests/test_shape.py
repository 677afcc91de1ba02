"""A head as files: an analytic density gives the mesh it must give, in the units and colours that each format wants."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import OpenEXR
import pytest
import torch
import trimesh
from animate_support import FakeClip, photo, tiny_network
from PIL import Image

from conventions.cameras import camera_label
from dnnlib.errors import UserError
from inference.network import Network
from inference.shapes.colours import Seen, seen_colours
from inference.shapes.export import ShapeOptions, export_shape
from inference.shapes.files import (
    METRES_PER_WORLD,
    write_depth_exr,
    write_depth_png,
    write_glb,
    write_mrc,
    write_ply,
)
from inference.shapes.surface import Mesh, closed_surface, density_grid, surface_level
from training.rendering.rays import ray_bundle

CENTRE = np.array([0.06, -0.1, 0.14])  # none is another's negative: a turned or mirrored axis shows
RADIUS = 0.3
LEVEL = 20.0


def ball(points: np.ndarray, centre: np.ndarray = CENTRE, radius: float = RADIUS) -> np.ndarray:
    """A density that falls linearly through LEVEL at the surface."""
    inside = radius - np.linalg.norm(points - centre, axis=1)
    return np.clip(LEVEL + 200 * inside, 0, 60)


def sphere_mesh(resolution: int = 48) -> Mesh:
    return closed_surface(density_grid(ball, 1.0, resolution), LEVEL)


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def test_a_ball_is_a_closed_sphere_of_its_radius_with_normals_outwards() -> None:
    mesh = sphere_mesh()
    out = mesh.vertices - CENTRE
    distance = np.linalg.norm(out, axis=1)
    assert np.abs(distance - RADIUS).max() < 0.1 / 48  # linear density: a tenth of a cell
    # a facet turns by half a cell / radius = 0.035 against the sphere; cos 0.05 = 0.9988
    assert ((mesh.normals * out).sum(axis=1) / distance).min() > 0.9988
    made = as_trimesh(mesh)
    assert made.is_watertight and made.is_winding_consistent
    # of the inscribed polyhedron: 1 - O((cell / radius)^2), 0.5 % here
    assert made.volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.01)


def test_floating_pieces_and_cavities_are_left_out() -> None:
    def density(points: np.ndarray) -> np.ndarray:
        hollow = np.where(np.linalg.norm(points - CENTRE, axis=1) < 0.1, 0, ball(points))
        return hollow + ball(points, np.array([-0.35, 0.35, -0.35]), 0.08)

    made = as_trimesh(closed_surface(density_grid(density, 1.0, 48), LEVEL))
    assert made.body_count == 1 and made.is_watertight
    assert made.volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.01)


def test_a_head_that_leaves_the_cube_is_closed_at_the_cut() -> None:
    made = as_trimesh(closed_surface(density_grid(lambda p: ball(p, radius=0.7), 1.0, 24), LEVEL))
    assert made.is_watertight and made.volume > 0
    assert np.abs(made.vertices).max() <= 0.5  # not beyond the cube


def test_a_noisy_density_is_closed_too() -> None:
    """Every ambiguous cube of marching cubes comes up in noise."""
    rng = np.random.default_rng(0)
    made = as_trimesh(
        closed_surface(density_grid(lambda p: rng.random(len(p)) * 40, 1.0, 24), LEVEL)
    )
    assert made.is_watertight and made.is_winding_consistent


def test_no_surface_is_said() -> None:
    with pytest.raises(UserError, match="nowhere reaches the level 100"):
        closed_surface(density_grid(ball, 1.0, 8), 100.0)


def test_the_level_is_what_nearly_all_solid_rays_reach() -> None:
    peaks = np.concatenate([np.linspace(10, 110, 101), [0.0] * 50])
    opacity = np.array([1.0] * 101 + [0.2] * 50)
    assert surface_level(np.stack([peaks / 2, peaks], axis=1), opacity) == pytest.approx(11)
    with pytest.raises(UserError, match="no solid head"):
        surface_level(peaks[:, None], opacity * 0)


def _seen(yaw: float, pitch: float = 0.0, side: int = 160) -> Seen:
    """The ball, painted by position as `_paint` does, before a white background."""
    label = camera_label(yaw, pitch)
    origins, rays = (x[0].double().numpy() for x in ray_bundle(torch.from_numpy(label)[None], side))
    towards = CENTRE - origins
    along = (towards * rays).sum(axis=1)
    inside = RADIUS**2 - (towards**2).sum(axis=1) + along**2
    hit = inside > 0
    depth = np.where(hit, along - np.sqrt(np.maximum(inside, 0)), 3.3)
    colour = np.where(hit[:, None], _paint(origins + depth[:, None] * rays), 1)
    square = (side, side)
    return Seen(
        label,
        np.round(colour * 255).astype(np.uint8).reshape(*square, 3),
        depth.reshape(square),
        hit.astype(np.float32).reshape(square),
    )


def _paint(points: np.ndarray) -> np.ndarray:
    return np.clip(0.5 + 0.8 * (points - CENTRE), 0, 1)


def test_colours_are_those_that_views_show_and_hidden_points_keep_the_volumes_own() -> None:
    mesh = sphere_mesh()
    own = np.full_like(mesh.vertices, 0.25)
    colours = seen_colours(mesh.vertices, mesh.normals, [_seen(0.0), _seen(0.7)], own) / 255
    out = (mesh.vertices - CENTRE) / RADIUS
    front = out[:, 2] > 0.9
    # the cosine is above 0.8 there: the volume's own share below 0.02 / 0.8^4 = 5 %, of differences below 0.4
    assert np.abs(colours - _paint(mesh.vertices))[front].max() < 0.02
    behind = out @ np.array([0.34, 0, 0.94]) < -0.5
    assert np.abs(colours - 0.25)[behind].max() < 0.003  # rounding to 1 / 255


def test_a_mesh_is_written_in_metres_with_colours_as_each_format_wants(tmp_path: Path) -> None:
    mesh = sphere_mesh(16)
    colours = np.random.default_rng(0).integers(0, 256, mesh.vertices.shape, dtype=np.uint8)
    write_ply(tmp_path / "a.ply", mesh, colours)
    write_glb(tmp_path / "a.glb", mesh, colours)
    for name in ("a.ply", "a.glb"):
        read = trimesh.load(tmp_path / name, force="mesh", process=False)
        # float32 of numbers below 1
        assert np.abs(read.vertices - mesh.vertices * METRES_PER_WORLD).max() < 1e-7
        assert (read.faces == mesh.faces).all() and read.is_watertight
    ply = trimesh.load(tmp_path / "a.ply", process=False)
    assert (ply.visual.vertex_colors[:, :3] == colours).all()
    tree, binary = _glb(tmp_path / "a.glb")
    (primitive,) = tree["meshes"][0]["primitives"]
    accessor = tree["accessors"][primitive["attributes"]["COLOR_0"]]
    assert (accessor["componentType"], accessor["type"]) == (5126, "VEC3")  # floats
    start = tree["bufferViews"][accessor["bufferView"]]["byteOffset"] + accessor["byteOffset"]
    linear = np.frombuffer(binary, "<f4", colours.size, start).reshape(-1, 3)
    # the inverse of glTF's "linear": IEC 61966-2-1
    shown = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert (np.round(shown * 255) == colours).all()
    assert tree["extensionsUsed"] == ["KHR_materials_unlit"]
    assert "NORMAL" in primitive["attributes"]


def _glb(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    assert content[:4] == b"glTF" and struct.unpack("<II", content[4:12]) == (2, len(content))
    (length,) = struct.unpack("<I", content[12:16])
    return json.loads(content[20 : 20 + length]), content[28 + length :]


def test_an_mrc_holds_the_density_in_centimetres_x_fastest(tmp_path: Path) -> None:
    grid = density_grid(ball, 1.0, 16)
    write_mrc(tmp_path / "a.mrc", grid)
    content = (tmp_path / "a.mrc").read_bytes()
    whole, parts = np.frombuffer(content, "<i4", 256), np.frombuffer(content, "<f4", 256)
    # words as MRC2014 numbers them, from 1
    assert whole[:4].tolist() == [16, 16, 16, 2] and whole[16:19].tolist() == [1, 2, 3]
    assert parts[10] == pytest.approx(1 / 0.02548) and parts[13] == 90
    assert content[208:212] == b"MAP " and content[212] == 0x44
    assert parts[49] == pytest.approx(-(1 - 1 / 16) / 2 / 0.02548)
    values = np.frombuffer(content, "<f4", offset=1024).reshape(16, 16, 16)
    assert (values == grid.density.transpose(2, 1, 0)).all()
    peak = np.unravel_index(np.argmax(grid.density), (16, 16, 16))
    assert values[peak[::-1]] == grid.density.max() == parts[20]


def test_depth_is_written_in_tenths_of_millimetres_and_in_metres(tmp_path: Path) -> None:
    depth = np.linspace(2.3, 3.0, 12, dtype=np.float32).reshape(3, 4)
    opacity = np.ones((3, 4), np.float32)
    opacity[0, 0] = 0.3
    write_depth_png(tmp_path / "a.png", depth, opacity)
    write_depth_exr(tmp_path / "a.exr", depth, opacity)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "I;16"
        steps = np.asarray(image)
    metres = depth / 2.548  # 0.02548 world units are a centimetre
    assert steps[0, 0] == 0  # nothing there
    assert np.abs(steps / 10_000 - metres)[1:].max() < 5.1e-5  # half a step
    with OpenEXR.File(str(tmp_path / "a.exr")) as file:
        channels = {k: v.pixels for k, v in file.channels().items()}
    assert channels.keys() == {"A", "Z"} and channels["Z"].dtype == np.float32
    assert np.abs(channels["Z"] - metres).max() < 1e-6  # float32
    assert (channels["A"] == opacity).all()


@pytest.fixture(scope="module")
def network() -> Network:
    return tiny_network()


def test_depth_is_that_of_the_rendered_frame_at_any_side(network: Network) -> None:
    source = photo()
    planes = network.planes(network.encode(source.crop, source.camera, source.beta), source.beta)
    frame = network.render(planes, source.camera)
    depth, opacity = network.surface(planes, source.camera, len(frame.depth))
    assert np.allclose(opacity, frame.opacity, atol=1e-6)
    far = network.model.config.render.far
    assert np.allclose(opacity * depth + (1 - opacity) * far, frame.depth, atol=1e-5)  # float32
    assert network.surface(planes, source.camera, 24)[0].shape == (24, 24)


def test_a_photo_gives_one_set_of_files_and_a_clip_one_for_each_frame(
    network: Network, tmp_path: Path
) -> None:
    options = ShapeOptions(("glb", "ply", "mrc", "png", "exr"), 16, level=0.5, depth_px=16)
    report = export_shape(network, photo(), tmp_path / "one", options)
    names = {p.name for p in (tmp_path / "one").iterdir()}
    assert names == {"head.glb", "head.ply", "head.mrc", "depth.png", "depth.exr"}
    assert "density of 0.5" in report.lines()[0]
    clip = FakeClip(2)
    options = ShapeOptions(("ply", "png"), 16, level=0.5)
    report = export_shape(network, photo(), tmp_path / "many", options, clip, clip.betas)
    names = {p.name for p in (tmp_path / "many").iterdir()}
    assert names == {
        f"{n}-0000{t}.{s}" for n, s in (("head", "ply"), ("depth", "png")) for t in (0, 1)
    }
    meshes = [(tmp_path / "many" / f"head-0000{t}.ply").read_bytes() for t in (0, 1)]
    assert meshes[0] != meshes[1]  # another expression
    with Image.open(tmp_path / "many" / "depth-00000.png") as image:
        assert image.size == (32, 32)  # the photo's crop
