"""The morphable head: template mesh, identity targets and the 52 face units of anny's CC0 assets, in one small cache.

anny ships the MakeHuman base mesh and its targets as text. Parsing them takes seconds and they describe a whole body,
so the part that a head-and-shoulders picture needs is cut out once and cached as one .npz file without pickles.

Units of this module: decimetres in the frame of the base mesh (x to the subject's left, which is the image's right of
a frontal picture; y up; the face looks along +z).
"""

from __future__ import annotations

import gzip
import importlib.metadata
import importlib.util
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conventions.spaces import ARKIT52_NAMES
from dataset.synthesis.arrays import FloatArray, IntArray
from dnnlib import UserError
from dnnlib.packaged import packaged_file
from dnnlib.reading.arrays import read_npz
from dnnlib.reading.pictures import open_picture

CACHE_VERSION = 4
# Everything below is outside any picture that the cameras of conventions.md can take.
_LOWEST_Y_DM = 4.6
_WIDEST_X_DM = 2.6


class Part(IntEnum):
    """What a triangle belongs to: the parts of the head, then what is added to it (geometry.py)."""

    SKIN = 0
    LEFT_EYE = 1
    RIGHT_EYE = 2
    UPPER_TEETH = 3
    LOWER_TEETH = 4
    TONGUE = 5
    LASHES = 6
    HAIR = 7
    CAP = 8
    CLOTH = 9
    FRAME = 10


TEETH = (Part.UPPER_TEETH, Part.LOWER_TEETH)
_PART_GROUPS = {
    "body": Part.SKIN,
    "helper-l-eye": Part.LEFT_EYE,
    "helper-r-eye": Part.RIGHT_EYE,
    "helper-upper-teeth": Part.UPPER_TEETH,
    "helper-lower-teeth": Part.LOWER_TEETH,
    "helper-tongue": Part.TONGUE,
    "helper-l-eyelashes-1": Part.LASHES,
    "helper-l-eyelashes-2": Part.LASHES,
    "helper-r-eyelashes-1": Part.LASHES,
    "helper-r-eyelashes-2": Part.LASHES,
}


class Region(IntEnum):
    """Columns of `HeadBasis.masks`: regions of the skin."""

    LIPS = 0
    EYELIDS = 1
    FACE = 2
    EARS = 3
    INSIDE_MOUTH = 4


_TEXTURES = {
    Region.LIPS: "lips",
    Region.EYELIDS: "eyelids",
    Region.FACE: "face",
    Region.EARS: "ears",
    Region.INSIDE_MOUTH: "inside-mouth",
}
_LOCAL_FOLDERS = (
    "head", "nose", "eyes", "cheek", "eyebrows", "forehead", "mouth", "chin", "ears", "neck", "asym",
)  # fmt: skip

UNIT_NAMES = ARKIT52_NAMES
UNIT_INDEX = {name: i for i, name in enumerate(UNIT_NAMES)}


@dataclass(frozen=True)
class HeadBasis:
    """The linear head model.

    Attributes:
        vertices: float32 [V, 3], the template, decimetres.
        triangles: int32 [T, 3].
        part_of_face: uint8 [T], a `Part`.
        part_of_vertex: uint8 [V].
        uv: float32 [V, 2], base-mesh texture coordinates (one of several at seams).
        masks: float32 [V, 5], how far a vertex is in each `Region`, 0..1.
        targets: name -> (int32 [k] vertices, float32 [k, 3] offsets in decimetres); identity targets.
        units: float32 [52, V, 3], displacement of each expression unit at 1; row 0 (`_neutral`) is zero.
        landmarks: int32 [n], vertex ids named by `LANDMARKS`.
    """

    vertices: FloatArray
    triangles: IntArray
    part_of_face: NDArray[np.uint8]
    part_of_vertex: NDArray[np.uint8]
    uv: FloatArray
    masks: FloatArray
    targets: Mapping[str, tuple[IntArray, FloatArray]]
    units: FloatArray
    landmarks: IntArray

    def vertices_of(self, part: Part) -> NDArray[np.int64]:
        """Vertex ids of a part."""
        return np.flatnonzero(self.part_of_vertex == part)

    def landmark(self, name: str) -> int:
        """Vertex id of one of `LANDMARKS`."""
        return int(self.landmarks[LANDMARKS.index(name)])


LANDMARKS = (
    "left_eye_outer", "left_eye_inner", "right_eye_inner", "right_eye_outer", "nose_tip",
    "left_mouth_corner", "right_mouth_corner", "chin",
)  # fmt: skip


@cache
def load_basis() -> HeadBasis:
    """The head model, from the cache where there is one, else built from anny's files and cached.

    Raises:
        UserError: anny is not installed.
    """
    path = _cache_path()
    if path.is_file():
        try:
            return _read(path)
        except (UserError, KeyError, ValueError):
            path.unlink(missing_ok=True)  # a cache is worth no error: build it anew
    arrays = _build(packaged_file("anny", "data", "anny"))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, path)
    except OSError:
        pass  # a read-only home costs a few seconds per start, no more
    return _from_arrays(arrays)


def cache_folder() -> Path:
    """Where what is made once from anny's files is kept."""
    base = os.environ.get("EXPORT3D_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "export3d"


def _cache_path() -> Path:
    version = importlib.metadata.version("anny") if importlib.util.find_spec("anny") else "none"
    return cache_folder() / f"head-basis-{CACHE_VERSION}-anny-{version}.npz"


def _read(path: Path) -> HeadBasis:
    return _from_arrays(read_npz(path))


def _from_arrays(arrays: dict[str, NDArray[np.generic]]) -> HeadBasis:
    names = str(arrays["target_names"]).split("\n")
    starts = arrays["target_starts"].astype(np.int64)
    ids = arrays["target_ids"].astype(np.int32)
    offsets = arrays["target_offsets"].astype(np.float32)
    targets = {
        name: (ids[starts[i] : starts[i + 1]], offsets[starts[i] : starts[i + 1]])
        for i, name in enumerate(names)
    }
    return HeadBasis(
        vertices=arrays["vertices"].astype(np.float32),
        triangles=arrays["triangles"].astype(np.int32),
        part_of_face=arrays["part_of_face"].astype(np.uint8),
        part_of_vertex=arrays["part_of_vertex"].astype(np.uint8),
        uv=arrays["uv"].astype(np.float32),
        masks=arrays["masks"].astype(np.float32),
        targets=targets,
        units=arrays["units"].astype(np.float32),
        landmarks=arrays["landmarks"].astype(np.int32),
    )


# ---- building from anny's text files ----------------------------------------------------------


def _build(data: Path) -> dict[str, NDArray[np.generic]]:
    positions, texture, faces, face_texture, parts = _read_obj(data / "mpfb2/3dobjs/base.obj")
    centre = positions[faces].mean(axis=1)
    keep = (centre[:, 1] > _LOWEST_Y_DM) & (np.abs(centre[:, 0]) < _WIDEST_X_DM)
    faces, face_texture, parts = faces[keep], face_texture[keep], parts[keep]
    used = np.unique(faces)
    new_id = np.full(len(positions), -1, np.int32)
    new_id[used] = np.arange(len(used), dtype=np.int32)
    quads = new_id[faces]
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    uv = np.zeros((len(used), 2), np.float32)
    uv[quads.reshape(-1)] = texture[face_texture.reshape(-1)]
    part_of_vertex = np.zeros(len(used), np.uint8)
    part_of_vertex[quads] = parts[:, None]
    vertices = positions[used].astype(np.float32)
    masks = _region_masks(data / "mpfb2/textures", uv, part_of_vertex)
    names, starts, ids, offsets = _read_targets(data, new_id)
    return {
        "vertices": vertices,
        "triangles": triangles.astype(np.int32),
        "part_of_face": np.concatenate([parts, parts]).astype(np.uint8),
        "part_of_vertex": part_of_vertex,
        "uv": uv,
        "masks": masks,
        "target_names": np.array("\n".join(names)),
        "target_starts": np.array(starts, np.int64),
        "target_ids": np.concatenate(ids).astype(np.int32),
        "target_offsets": np.concatenate(offsets).astype(np.float32),
        "units": _read_units(data / "faceunits01/targets/faceunits", new_id, len(used)),
        "landmarks": _find_landmarks(vertices, masks, part_of_vertex),
    }


def _read_obj(path: Path) -> tuple[NDArray[np.float64], FloatArray, IntArray, IntArray, IntArray]:
    positions, texture, faces, face_texture, parts = [], [], [], [], []
    part: int | None = None
    for line in path.read_text().splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] == "v":
            positions.append([float(x) for x in words[1:4]])
        elif words[0] == "vt":
            texture.append([float(x) for x in words[1:3]])
        elif words[0] == "g":
            part = _PART_GROUPS.get(words[1])
        elif words[0] == "f" and part is not None:
            corners = [word.split("/") for word in words[1:]]
            faces.append([int(c[0]) - 1 for c in corners])
            face_texture.append([int(c[1]) - 1 for c in corners])
            parts.append(part)
    return (
        np.array(positions),
        np.array(texture, np.float32),
        np.array(faces, np.int32),
        np.array(face_texture, np.int32),
        np.array(parts, np.int32),
    )


def _region_masks(folder: Path, uv: FloatArray, part: NDArray[np.uint8]) -> FloatArray:
    masks = np.zeros((len(uv), len(_TEXTURES)), np.float32)
    for region, name in _TEXTURES.items():
        picture = (
            np.asarray(open_picture(folder / f"mpfb_{name}.jpg").convert("L"), np.float32) / 255
        )
        row = np.clip((1 - uv[:, 1]) * picture.shape[0], 0, picture.shape[0] - 1).astype(int)
        column = np.clip(uv[:, 0] * picture.shape[1], 0, picture.shape[1] - 1).astype(int)
        masks[:, region] = picture[row, column] * (part == Part.SKIN)
    return masks


def _read_target(path: Path) -> tuple[IntArray, FloatArray]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("ascii")
    lines = text.splitlines()
    rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    if not rows:
        return np.zeros(0, np.int32), np.zeros((0, 3), np.float32)
    table = np.array([[float(x) for x in row[:4]] for row in rows])
    return table[:, 0].astype(np.int32), table[:, 1:].astype(np.float32)


def _macro_names() -> list[str]:
    ages, weights = ("child", "young", "old"), ("minweight", "averageweight", "maxweight")
    return [
        f"universal-{gender}-{age}-{muscle}-{weight}"
        for gender in ("male", "female")
        for age in ages
        for muscle in ("averagemuscle", "maxmuscle")
        for weight in weights
    ] + [
        f"{origin}-{gender}-{age}"
        for origin in ("african", "asian", "caucasian")
        for gender in ("male", "female")
        for age in ages
    ]


def _read_targets(
    data: Path, new_id: IntArray
) -> tuple[list[str], list[int], list[IntArray], list[FloatArray]]:
    folder = data / "mpfb2/targets"
    files = {f"macro/{n}": folder / "macrodetails" / f"{n}.target.gz" for n in _macro_names()}
    for sub in _LOCAL_FOLDERS:
        for path in sorted((folder / sub).glob("*.target.gz")):
            if not any(word in path.name for word in ("breast", "trunk")):
                files[f"{sub}/{path.name.removesuffix('.target.gz')}"] = path
    names, starts, ids, offsets = [], [0], [], []
    for name, path in files.items():
        vertex, offset = _read_target(path)
        inside = new_id[vertex] >= 0
        names.append(name)
        ids.append(new_id[vertex[inside]])
        offsets.append(offset[inside])
        starts.append(starts[-1] + int(inside.sum()))
    return names, starts, ids, offsets


def _read_units(folder: Path, new_id: IntArray, n_vertices: int) -> FloatArray:
    units = np.zeros((len(UNIT_NAMES), n_vertices, 3), np.float32)
    for k, name in enumerate(UNIT_NAMES[1:], start=1):
        vertex, offset = _read_target(folder / f"{name}.target")
        inside = new_id[vertex] >= 0
        units[k, new_id[vertex[inside]]] = offset[inside]
    return units


def _find_landmarks(vertices: FloatArray, masks: FloatArray, part: NDArray[np.uint8]) -> IntArray:
    skin = part == Part.SKIN
    found: dict[str, int] = {}
    for name, side, eye in (
        ("left", 1.0, Part.LEFT_EYE),
        ("right", -1.0, Part.RIGHT_EYE),
    ):
        ball = vertices[part == eye]
        centre = 0.5 * (ball.min(axis=0) + ball.max(axis=0))
        radius = 0.5 * float(np.ptp(ball[:, 0]))
        # The rim of the lids: skin that touches the eyeball from in front.
        distance = np.linalg.norm(vertices - centre, axis=1)
        rim = np.flatnonzero(skin & (distance < 1.12 * radius) & (vertices[:, 2] > centre[2]))
        x = side * vertices[rim, 0]
        found[f"{name}_eye_outer"] = int(rim[np.argmax(x)])
        found[f"{name}_eye_inner"] = int(rim[np.argmin(x)])
        lips = np.flatnonzero((masks[:, Region.LIPS] > 0.2) & (vertices[:, 2] > 1.25))
        corner = np.array([side * 0.252, 6.618, 1.405])  # of the template
        distance = np.linalg.norm(vertices[lips] - corner, axis=1)
        found[f"{name}_mouth_corner"] = int(lips[np.argmin(distance)])
    middle = np.flatnonzero(skin & (np.abs(vertices[:, 0]) < 1e-3))
    nose = middle[(vertices[middle, 1] > 6.7) & (vertices[middle, 1] < 7.4)]
    found["nose_tip"] = int(nose[np.argmax(vertices[nose, 2])])
    chin = middle[(vertices[middle, 1] > 5.9) & (vertices[middle, 1] < 6.45)]
    found["chin"] = int(chin[np.argmax(vertices[chin, 2])])
    return np.array([found[name] for name in LANDMARKS], np.int32)
