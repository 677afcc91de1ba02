"""Rays: a thin, typed cover over Embree (the package embreex)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataset.synthesis.arrays import FloatArray, IntArray
from dnnlib import UserError


@dataclass(frozen=True)
class Hits:
    """First hits of N rays: triangle [N] (-1: none), distance [N], barycentric weights [N, 3]."""

    triangle: IntArray
    distance: FloatArray
    weights: FloatArray


class Tracer:
    """Casts rays at a triangle mesh.

    Args:
        vertices: float32 [V, 3].
        triangles: int32 [T, 3].
    """

    def __init__(self, vertices: FloatArray, triangles: IntArray) -> None:
        try:
            from embreex.mesh_construction import TriangleMesh  # here: an extra package
            from embreex.rtcore_scene import EmbreeScene  # here: an extra package
        except ImportError as error:
            raise UserError(
                "synthetic heads need the package embreex; install it with: pip install embreex"
            ) from error
        self._scene = EmbreeScene()
        self._mesh = TriangleMesh(
            self._scene,
            np.ascontiguousarray(vertices, np.float32),
            np.ascontiguousarray(triangles, np.int32),
        )

    def first_hit(self, origins: FloatArray, directions: FloatArray) -> Hits:
        """First hits of rays with `origins` [N, 3] and unit `directions` [N, 3]."""
        result = self._scene.run(
            np.ascontiguousarray(origins, np.float32),
            np.ascontiguousarray(directions, np.float32),
            output=True,
        )
        u, v = result["u"], result["v"]
        return Hits(result["primID"], result["tfar"], np.stack([1 - u - v, u, v], axis=1))

    def blocked(self, origins: FloatArray, directions: FloatArray) -> NDArray[np.bool_]:
        """Whether rays [N, 3] hit anything."""
        hit = self._scene.run(
            np.ascontiguousarray(origins, np.float32), np.ascontiguousarray(directions, np.float32)
        )
        return np.asarray(hit >= 0)


class PairTracer:
    """Two meshes as one: `moving` is built anew for every frame, `still` once per person.

    Triangles of `still` are numbered from `n_moving` on.
    """

    def __init__(self, moving: Tracer, still: Tracer, n_moving: int) -> None:
        self._moving, self._still, self._n_moving = moving, still, n_moving

    def first_hit(self, origins: FloatArray, directions: FloatArray) -> Hits:
        """As `Tracer.first_hit`."""
        a = self._moving.first_hit(origins, directions)
        b = self._still.first_hit(origins, directions)
        nearer = (b.triangle >= 0) & ((a.triangle < 0) | (b.distance < a.distance))
        return Hits(
            np.where(nearer, b.triangle + self._n_moving, a.triangle).astype(np.int32),
            np.where(nearer, b.distance, a.distance),
            np.where(nearer[:, None], b.weights, a.weights),
        )

    def blocked(self, origins: FloatArray, directions: FloatArray) -> NDArray[np.bool_]:
        """As `Tracer.blocked`."""
        result = self._still.blocked(origins, directions)
        left = np.flatnonzero(~result)
        if len(left):
            result[left] = self._moving.blocked(origins[left], directions[left])
        return result
