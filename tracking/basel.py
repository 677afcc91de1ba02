"""The Basel face model as Deep3DFaceRecon keeps it (`BFM_model_front.mat`), given by path: coefficients to points.

Its expression basis also says how beta mirrors (`basel_mirror`).

The file is not ours to ship. It is read as plain arrays; nothing in it is executed.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from conventions.mirror import LinearMirror
from dnnlib.errors import UserError
from dnnlib.files import sha256_file
from dnnlib.reading.matlab import read_mat

N_IDENTITY, N_EXPRESSION, N_KEYPOINTS = 80, 64, 68
_ARRAYS = ("meanshape", "idBase", "exBase", "keypoints")
_ADVICE = "give Deep3DFaceRecon's BFM_model_front.mat"
_SYMMETRIC = 0.1  # share of the mirrored basis that may lie outside of it: mesh and mean are symmetric to some per cent
# Keypoints of the 68 that make the five points of the crop, image's left before right.
_FIVE = ((36, 39), (42, 45), (30,), (48,), (54,))


class BaselModel:
    """Keypoints of a face by its coefficients, in model units (x to the image's right, y up, z out of the face).

    Raises:
        UserError: the file is missing, no MATLAB file, or not this model.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        arrays = _read(self.path)
        mean = arrays["meanshape"].reshape(-1, 3)
        ids = arrays["keypoints"].reshape(-1).astype(np.int64) - 1  # MATLAB counts from 1
        if len(ids) != N_KEYPOINTS or ids.min() < 0 or ids.max() >= len(mean):
            raise UserError(f"{self.path} has keypoints outside of its mesh; {_ADVICE}")
        self._mean = (mean - mean.mean(axis=0))[ids]
        bases = [
            arrays[name].reshape(len(mean), 3, -1)[ids] for name in ("idBase", "exBase")
        ]  # [68, 3, 80], [68, 3, 64]
        self._identity, self._expression = bases
        self.hash = sha256_file(self.path)

    def keypoints(self, identity: np.ndarray, beta: np.ndarray) -> np.ndarray:
        """identity [80], beta [64] -> float64 [68, 3]."""
        return np.asarray(self._mean + self._identity @ identity + self._expression @ beta)

    def five_points(self, identity: np.ndarray, beta: np.ndarray) -> np.ndarray:
        """Eyes, nose tip and mouth corners [5, 3], as `conventions.crop.five_points` orders them."""
        points = self.keypoints(identity, beta)
        return np.stack([points[list(ids)].mean(axis=0) for ids in _FIVE])


def basel_mirror(path: str | os.PathLike[str]) -> LinearMirror:
    """How beta of `bfm64` mirrors: M B beta = B A beta, with B the basis and M what mirrors displacements of the mesh.

    M takes to each vertex the displacement of its partner with x reversed; the partner is the vertex nearest to its
    mirror image on the mean face. A = argmin |B A - M B|, and what is left says whether the basis is symmetric.

    Raises:
        UserError: the file is missing or not this model, or its basis is not symmetric.
    """
    path = Path(path)
    arrays = _read(path)
    mean = arrays["meanshape"].reshape(-1, 3)
    mean = mean - mean.mean(axis=0)
    flip = np.array([-1.0, 1.0, 1.0])
    _, partner = cKDTree(mean).query(mean * flip)
    basis = arrays["exBase"]
    mirrored = (basis.reshape(len(mean), 3, -1)[partner] * flip[:, None]).reshape(basis.shape)
    matrix = np.linalg.lstsq(basis, mirrored, rcond=None)[0]
    size = np.linalg.norm(mirrored)
    error = float(np.linalg.norm(basis @ matrix - mirrored) / size) if size > 0 else 1.0
    if error > _SYMMETRIC:
        raise UserError(
            f"the expression basis of {path} is not symmetric (its mirror image lies {error:.0%} outside of it); "
            f"{_ADVICE}, or set data.mirror=false"
        )
    return LinearMirror(matrix, sha256_file(path), error)


def _read(path: Path) -> dict[str, np.ndarray]:
    arrays = read_mat(path, names=_ARRAYS, advice=_ADVICE)
    for name in _ARRAYS:
        if name not in arrays:
            raise UserError(f"{path} has no numbers called {name}; {_ADVICE}")
        if not np.isfinite(arrays[name]).all():
            raise UserError(f"{path} holds NaN or infinity in {name}; {_ADVICE}")
        arrays[name] = arrays[name].astype(np.float64)
    rows = arrays["meanshape"].size
    for name, shape in (("idBase", (rows, N_IDENTITY)), ("exBase", (rows, N_EXPRESSION))):
        if rows % 3 or arrays[name].shape != shape:
            raise UserError(f"{path}: {name} is {arrays[name].shape}, not {shape}; {_ADVICE}")
    return arrays
