"""`gen_videos.py export-shape`: a photo's head as meshes, density and depth (docs/shape.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

import dnnlib.cli
from dnnlib.effects import refuse_unused
from dnnlib.options import gathered, option
from dnnlib.params import Number, OutputFolder, Whole
from inference.options import NetworkChoice, OptionalDriverChoice, SourceChoice
from inference.view_options import ExpressionChoice

# What is heavy is imported when it is called, so that --help is quick.

FORMATS = ("glb", "ply", "mrc", "png", "exr")
MADE = tuple(f"{stem}*.{suffix}" for stem in ("head", "depth") for suffix in FORMATS)


@dataclass(frozen=True, kw_only=True)
class ShapeChoice:
    formats: tuple[str, ...] = option(
        "--format",
        default=("glb",),
        multiple=True,
        type=click.Choice(FORMATS),
        help="glb, ply: the mesh. mrc: the density. png, exr: the depth. Repeatable.",
    )
    resolution: int = option(
        "--resolution",
        default=192,
        type=Whole(8, 1024),
        help="Cells along each side of the cube that the network fills.",
    )
    level: float = option(
        "--level",
        default=0.0,
        type=Number(0, 1e6),
        help="Density of the surface, per world unit; 0: the highest at which the photo's view has no holes.",
    )
    depth_px: int = option(
        "--depth-px",
        default=0,
        type=Whole(0, 2048),
        help="Side of depth maps; 0: the photo's crop.",
    )

    def check(self) -> None:
        """Raises UserError for an option without effect."""
        formats = set(self.formats)
        meshes = formats & {"glb", "ply"}
        refuse_unused("depth_px", bool(formats & {"png", "exr"}), "without --format png or exr")
        refuse_unused("level", bool(meshes), "without --format glb or ply")
        refuse_unused(
            "resolution", bool(meshes or "mrc" in formats), "without --format glb, ply or mrc"
        )


@dnnlib.cli.command("export-shape")
@gathered("source", SourceChoice)
@gathered("driver", OptionalDriverChoice)
@gathered("network", NetworkChoice)
@click.option(
    "--out", required=True, type=OutputFolder(*MADE), help="Folder of head.glb, depth.png, ..."
)
@gathered("shape", ShapeChoice)
@gathered("expression", ExpressionChoice)
def export_shape(
    source: SourceChoice,
    driver: OptionalDriverChoice,
    network: NetworkChoice,
    out: Path,
    shape: ShapeChoice,
    expression: ExpressionChoice,
) -> None:
    """Write a photo's head as a closed coloured mesh, its density, and its depth; over a clip too."""
    from inference.shapes.export import ShapeOptions
    from inference.shapes.export import export_shape as run
    from inference.steering import Steering

    driver.check()
    shape.check()
    model, tracker = network.load()
    photo = source.track(tracker)
    clip = betas = None
    if driver.driving is not None:
        clip = driver.load(driver.driving, model, tracker)
        steering = Steering(model.space, clip, expression.steer(), model.name)
        betas = np.stack([steering.beta(t, photo, clip.cameras[t]) for t in range(len(clip.betas))])
    how = ShapeOptions(shape.formats, shape.resolution, shape.level, shape.depth_px)
    for line in run(model, photo, out, how, clip, betas).lines():
        click.echo(line)
