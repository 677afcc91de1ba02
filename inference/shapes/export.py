"""One photo's head as files, with its own expression or with those of a driving clip, a set of files a frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from conventions.cameras import camera_label, split_label
from inference.network import Network
from inference.output import Report, progress_bar
from inference.photo import Photo
from inference.shapes.colours import Seen, seen_colours
from inference.shapes.files import (
    write_depth_exr,
    write_depth_png,
    write_glb,
    write_mrc,
    write_ply,
)
from inference.shapes.surface import Grid, Mesh, closed_surface, density_grid, surface_level
from inference.tracked import Driving, notes_on

if TYPE_CHECKING:
    from training.generator.model import Volume

# format -> name of its file; {} is the frame's number behind a dash, or nothing
FILES = {
    "glb": "head{}.glb",
    "ply": "head{}.ply",
    "mrc": "head{}.mrc",
    "png": "depth{}.png",
    "exr": "depth{}.exr",
}
# yaw and pitch in degrees of the views that give the mesh its colours, beside the photo's own
_AROUND = ((-60, 0), (-30, 0), (30, 0), (60, 0), (0, 25), (0, -25))
_LEVEL_RAYS = 64  # a side of the picture whose rays choose the level
_LEVEL_SAMPLES = 128


@dataclass(frozen=True)
class ShapeOptions:
    """What `gen_videos.py export-shape` lets one choose."""

    formats: tuple[str, ...] = ("glb",)  # of FILES
    resolution: int = 192  # cells along each side of the network's cube
    level: float = 0.0  # density of the surface, per world unit; 0: see `surface_level`
    depth_px: int = 0  # side of depth maps; 0: the source crop's


def export_shape(
    network: Network,
    source: Photo,
    out: Path,  # a folder
    options: ShapeOptions,
    driving: Driving | None = None,
    betas: np.ndarray | None = None,  # [T, D], what the source shows over `driving`
) -> Report:
    """Write the head's files; over a clip a set for each frame, numbered from 0. Every file is whole or absent.

    The mesh stands still in the world, the face looks along +z: what turns the head is the camera. Depth is seen from
    the photo's camera, over a clip from the driver's.

    Raises:
        UserError: the density nowhere reaches the level, or a file cannot be written.
    """
    start = perf_counter()
    features = network.encode(source.crop, source.camera, source.beta)
    shape = _Shape(network, len(source.crop), options)
    n_frames = 1 if driving is None or betas is None else len(betas)

    def moments() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        if driving is None or betas is None:
            yield "", source.beta, source.camera
            return
        digits = max(5, len(str(n_frames - 1)))
        for t, (beta, camera) in enumerate(zip(betas, driving.cameras, strict=True)):
            yield f"-{t:0{digits}}", beta, camera

    for number, beta, camera in progress_bar(moments(), n_frames, "shape"):
        shape.write(out, number, network.planes(features, beta), source.camera, camera)
    notes = notes_on(driving) if driving is not None else []
    if shape.level:
        notes.append(f"the surface lies at a density of {shape.level:.3g} per world unit")
    return Report(out, n_frames, perf_counter() - start, notes)


def export_volume(network: Network, source: Photo, planes: Volume, out: Path) -> Report:
    """Write the mesh of one volume of a photo's head as `out`, a .glb file.

    Raises:
        UserError: the density nowhere reaches the level, or the file cannot be written.
    """
    start = perf_counter()
    shape = _Shape(network, len(source.crop), ShapeOptions())
    write_glb(out, *shape.mesh(planes, shape.grid(planes), source.camera))
    return Report(out, 1, perf_counter() - start)


class _Shape:
    """Files of one volume after the other, all at the level that the first one needs: the head must not pump."""

    def __init__(self, network: Network, crop_px: int, options: ShapeOptions) -> None:
        self.network = network
        self.options = options
        self.depth_px = options.depth_px or crop_px
        self.level = options.level

    def write(
        self,
        out: Path,
        number: str,  # of the frame, as it stands in names
        planes: Volume,
        own: np.ndarray,  # [25], the photo's camera
        camera: np.ndarray,  # [25], that depth is seen from
    ) -> None:
        wanted = {name: out / FILES[name].format(number) for name in self.options.formats}
        if wanted.keys() & {"png", "exr"}:
            depth, opacity = self.network.surface(planes, camera, self.depth_px)
            for name, write in (("png", write_depth_png), ("exr", write_depth_exr)):
                if name in wanted:
                    write(wanted[name], depth, opacity)
        if not wanted.keys() & {"glb", "ply", "mrc"}:
            return
        grid = self.grid(planes)
        if "mrc" in wanted:
            write_mrc(wanted["mrc"], grid)
        meshes: dict[str, Callable[[Path, Mesh, np.ndarray], None]]
        meshes = {"glb": write_glb, "ply": write_ply}
        if wanted.keys() & meshes.keys():
            mesh, colours = self.mesh(planes, grid, own)
            for name in wanted.keys() & meshes.keys():
                meshes[name](wanted[name], mesh, colours)

    def grid(self, planes: Volume) -> Grid:
        """The density of the head."""
        # without the outermost texels, where tri-planes fade into nothing and the decoder makes a crust of it
        side = self.network.model.config.render.box_side * (1 - 2 / planes.planes.shape[-1])
        field = partial(self.network.field, planes)
        return density_grid(lambda p: field(p)[1], side, self.options.resolution)

    def mesh(self, planes: Volume, grid: Grid, own: np.ndarray) -> tuple[Mesh, np.ndarray]:
        if not self.level:
            self.level = self._level(planes, own)
        mesh = closed_surface(grid, self.level)
        around = [camera_label(math.radians(y), math.radians(p)) for y, p in _AROUND]
        views = [self._see(planes, label) for label in (own, *around)]
        return mesh, seen_colours(
            mesh.vertices,
            mesh.normals,
            views,
            self.network.field(planes, mesh.vertices)[0],
        )

    def _see(self, planes: Volume, camera: np.ndarray) -> Seen:
        image = self.network.render(planes, camera).image
        return Seen(camera, image, *self.network.surface(planes, camera, len(image)))

    def _level(self, planes: Volume, camera: np.ndarray) -> float:
        config = self.network.model.config.render
        _, opacity = self.network.surface(planes, camera, _LEVEL_RAYS)
        pose, k = split_label(camera.astype(np.float64))
        at = (np.arange(_LEVEL_RAYS) + 0.5) / _LEVEL_RAYS
        v, u = np.meshgrid(at, at, indexing="ij")
        pixels = np.stack([u, v, np.ones_like(u)], axis=-1).reshape(-1, 3)
        rays = pixels @ np.linalg.inv(k).T @ pose[:3, :3].T
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        distances = np.linspace(config.near, config.far, _LEVEL_SAMPLES)
        densities = np.stack(
            [self.network.field(planes, pose[:3, 3] + d * rays)[1] for d in distances], axis=1
        )
        return surface_level(densities, opacity.ravel())
