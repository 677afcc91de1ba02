"""The surface of a head: marching cubes over its density, one closed piece, in world units (docs/conventions.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import trimesh
from scipy import ndimage
from skimage.measure import marching_cubes

from dnnlib.errors import UserError

SOLID_OPACITY = 0.9  # of a ray that certainly hit the head
_MET_BY = 0.99  # of the solid rays, see `surface_level`
_TOUCHING = np.ones(
    (3, 3, 3)
)  # cells that share a corner are one piece, as marching cubes joins them


class Grid(NamedTuple):
    """Density in the cells of a cube around the origin."""

    density: np.ndarray  # float32 [R, R, R], >= 0, indexed x, y, z; of the cells' centres
    side: float  # of the cube, world units

    @property
    def step(self) -> float:
        """Side of a cell, world units."""
        return self.side / len(self.density)

    @property
    def first(self) -> float:
        """Each coordinate of the centre of the first cell, world units."""
        return (self.step - self.side) / 2


class Mesh(NamedTuple):
    """A closed surface of triangles that turn counter-clockwise seen from outside."""

    vertices: np.ndarray  # float64 [V, 3], world units
    faces: np.ndarray  # int64 [F, 3]
    normals: np.ndarray  # float64 [V, 3], unit, outwards


def density_grid(
    density_at: Callable[[np.ndarray], np.ndarray],  # points float32 [M, 3] -> [M]
    side: float,  # of the cube, world units
    resolution: int,  # R, cells along each axis
) -> Grid:
    """Density at the centres of R^3 cells, asked for one slice of x at a time."""
    at = ((np.arange(resolution) + 0.5) / resolution - 0.5) * side
    y, z = np.meshgrid(at, at, indexing="ij")
    density = np.empty((resolution,) * 3, np.float32)
    for i, x in enumerate(at):
        points = np.stack([np.full_like(y, x), y, z], axis=-1).reshape(-1, 3)
        density[i] = density_at(points.astype(np.float32)).reshape(y.shape)
    return Grid(density, side)


def surface_level(densities: np.ndarray, opacity: np.ndarray) -> float:
    """The highest density that 99 of 100 rays which hit the head still reach.

    densities [rays, samples]: along the rays of one view. opacity [rays]: of those rays.

    A lower level swells the head, a higher one tears holes into it.

    Raises:
        UserError: no ray hit anything.
    """
    solid = opacity > SOLID_OPACITY
    if not solid.any():
        raise UserError(
            "the network shows no solid head in the photo's view; take another photo or network"
        )
    return float(np.quantile(densities[solid].max(axis=1), 1 - _MET_BY))


def closed_surface(grid: Grid, level: float) -> Mesh:
    """The surface where the density is `level`: the largest piece, without the cavities inside it.

    Where the head leaves the cube, the cut is closed.

    Raises:
        UserError: the density nowhere reaches `level`.
    """
    pieces, n = ndimage.label(grid.density > level, _TOUCHING)
    if n == 0:
        raise UserError(
            f"the density nowhere reaches the level {level:g}, its highest is {grid.density.max():g}; "
            "give a lower --level"
        )
    head = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
    density = np.where((pieces > 0) & ~head, 0, grid.density)
    # a cavity is what cannot be reached from outside, through faces of cells
    density[ndimage.binary_fill_holes(head) & ~head] = 2 * level
    density = np.pad(density, 1)  # nothing around the cube: this closes the cut
    corners, faces, _, _ = marching_cubes(density, level, gradient_direction="descent")
    corners = np.clip((corners - 1) * grid.step + grid.first, -grid.side / 2, grid.side / 2)
    # unprocessed: merging corners that happen to meet would join sheets and open the surface
    mesh = trimesh.Trimesh(corners, faces, process=False)
    if mesh.volume < 0:
        mesh.invert()
    return Mesh(np.array(mesh.vertices), np.array(mesh.faces), np.array(mesh.vertex_normals))
