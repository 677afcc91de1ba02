"""Meshes as PLY and GLB, density as MRC, depth as PNG and EXR: units and layout are in docs/shape.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import OpenEXR
import trimesh
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dnnlib.files import atomic_path, atomic_write
from inference.shapes.surface import SOLID_OPACITY, Grid, Mesh
from tracking.pose import WORLD_PER_CM

METRES_PER_WORLD = 0.01 / WORLD_PER_CM  # of a head of average size: see docs/shape.md
PNG_STEPS_PER_METRE = 10_000  # a step of a depth PNG is a tenth of a millimetre


def write_ply(path: Path, mesh: Mesh, colours: np.ndarray) -> None:
    """A binary PLY in metres, with normals and sRGB colours uint8 [V, 3]."""
    made = _in_metres(mesh)
    made.visual = trimesh.visual.ColorVisuals(made, vertex_colors=colours)
    with atomic_write(path) as file:
        file.write(trimesh.exchange.ply.export_ply(made, vertex_normal=True))


def write_glb(path: Path, mesh: Mesh, colours: np.ndarray) -> None:
    """A binary glTF 2.0 in metres, with normals and colours, of sRGB uint8 [V, 3].

    glTF wants colours of vertices to be linear. They hold the photo's light, so the material takes no other.
    """
    made = _in_metres(mesh)
    made.vertex_attributes["linear"] = _linear(colours)
    with atomic_write(path) as file:
        file.write(
            trimesh.exchange.gltf.export_glb(
                made, include_normals=True, tree_postprocessor=_colour_of_light
            )
        )


def _colour_of_light(tree: dict[str, Any]) -> None:
    # The library writes colours as bytes, which are too few for linear ones; a float attribute is renamed instead.
    for primitive in tree["meshes"][0]["primitives"]:
        attributes = primitive["attributes"]
        attributes["COLOR_0"] = attributes.pop("_linear")
        primitive["material"] = 0
    tree["materials"] = [
        {
            "pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 1},
            "extensions": {"KHR_materials_unlit": {}},
        }
    ]
    tree["extensionsUsed"] = sorted({*tree.get("extensionsUsed", ()), "KHR_materials_unlit"})


def _linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB uint8 -> linear float32 in [0, 1].   [IEC 61966-2-1]"""
    value = srgb.astype(np.float32) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(
        np.float32
    )


def _in_metres(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(
        mesh.vertices * METRES_PER_WORLD,
        mesh.faces,
        vertex_normals=mesh.normals,
        process=False,
    )


_MRC_HEADER = np.dtype(
    [
        ("size", "<i4", 3),  # columns, rows, sections: x, y, z
        ("mode", "<i4"),  # 2: float32
        ("start", "<i4", 3),
        ("sampling", "<i4", 3),  # cells of the box along x, y, z
        ("box", "<f4", 3),  # its sides
        ("angles", "<f4", 3),  # degrees
        ("axes", "<i4", 3),  # which axis columns, rows and sections are
        ("min", "<f4"),
        ("max", "<f4"),
        ("mean", "<f4"),
        ("space_group", "<i4"),
        ("extended", "<i4"),
        ("unused", "V8"),
        ("extended_type", "S4"),
        ("version", "<i4"),
        ("unused2", "V84"),
        ("origin", "<f4", 3),  # of the first cell's centre
        ("map", "S4"),
        ("machine", "u1", 4),  # little-endian
        ("deviation", "<f4"),
        ("n_labels", "<i4"),
        ("labels", "S80", 10),
    ]
)


def write_mrc(path: Path, grid: Grid) -> None:
    """The density as MRC2014, float32; what the format calls an Angstrom is a centimetre here."""
    cm = 1 / WORLD_PER_CM
    header = np.zeros((), _MRC_HEADER)
    header["size"] = header["sampling"] = len(grid.density)
    header["mode"] = 2
    header["box"] = grid.side * cm
    header["angles"] = 90
    header["axes"] = (1, 2, 3)
    header["min"], header["max"] = grid.density.min(), grid.density.max()
    header["mean"] = grid.density.mean(dtype=np.float64)
    header["deviation"] = grid.density.std(dtype=np.float64)
    header["space_group"] = 1  # a volume
    header["version"] = 20140
    header["origin"] = grid.first * cm
    header["map"] = b"MAP "
    header["machine"] = (0x44, 0x44, 0, 0)
    header["n_labels"] = 1
    header["labels"][0] = b"Export3D: density, 1 Angstrom stands for 1 cm"
    with atomic_write(path) as file:
        file.write(header.tobytes())
        file.write(np.ascontiguousarray(grid.density.transpose(2, 1, 0), "<f4").tobytes())


def write_depth_png(path: Path, depth: np.ndarray, opacity: np.ndarray) -> None:
    """Depth [h, w] in world units as 16-bit grey, tenths of a millimetre along the ray; 0 where nothing was hit."""
    steps = np.round(depth * METRES_PER_WORLD * PNG_STEPS_PER_METRE).clip(1, 2**16 - 1)
    steps = np.where(opacity > SOLID_OPACITY, steps, 0).astype(np.uint16)
    told = PngInfo()
    told.add_text(
        "Comment", f"distance along the ray, {PNG_STEPS_PER_METRE} steps per metre; 0: nothing"
    )
    with atomic_path(path) as temporary:
        Image.fromarray(steps).save(temporary, pnginfo=told)


def write_depth_exr(path: Path, depth: np.ndarray, opacity: np.ndarray) -> None:
    """Depth [h, w] in world units as float32 channel Z, metres along the ray, beside the opacity in A."""
    channels = {
        "Z": np.ascontiguousarray(depth * METRES_PER_WORLD, np.float32),
        "A": np.ascontiguousarray(opacity, np.float32),
    }
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with atomic_path(path) as temporary, OpenEXR.File(header, channels) as file:
        file.write(str(temporary))
