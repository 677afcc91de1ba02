"""`gen_videos.py demo`: a public-domain portrait, a network and a motion that ship with the project."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from dnnlib.errors import UserError
from dnnlib.places import check_new_file
from inference.motion import Motion, load_motion
from inference.network import Expressive, Network, direction_scales
from inference.options import SHIPPED
from inference.output import Report, write_image, write_video
from inference.panels import PAGE, Canvas, DepthColours, default_cell_px
from inference.photo import Photo

MODELS_DIR = Path(__file__).resolve().parents[1] / "models"
NETWORK = SHIPPED
MOTION = MODELS_DIR / "demo_motion.json"


def astronaut() -> np.ndarray:
    """Eileen Collins, photographed by NASA, public domain; scikit-image's test picture, uint8 [512, 512, 3]."""
    from skimage.data import astronaut as picture  # here: slow to import

    image: np.ndarray = np.asarray(picture())
    return image


def load_demo_network(
    path: Path = NETWORK,
    device: str = "auto",
    precision: str = "auto",
    overrides: Sequence[str] = (),
) -> Network:
    """The shipped network. Raises UserError when it is not there."""
    if not path.exists():
        raise UserError(
            f"{path} is missing; take a checkout that holds it, train one (docs/training.md) or give --network"
        )
    return Network.load(path, device, precision, overrides)


def run_demo(
    network: Network, source: Photo, out_dir: Path, motion: Motion | None = None
) -> tuple[Report, Path]:
    """Write out_dir/demo.mp4 and its contact sheet out_dir/demo.png; returns the report and the sheet's path."""
    motion = motion or load_motion(MOTION)
    motion.check_space(network.space, len(network.directions()), network.name)
    video, sheet = out_dir / "demo.mp4", out_dir / "demo.png"
    for path in (video, sheet):
        check_new_file(path)
    kept: list[tuple[str, np.ndarray, np.ndarray]] = []
    frames = _frames(network, source, motion, kept)
    report = write_video(video, frames, motion.fps, None, motion.n_frames, "demo")
    write_image(sheet, contact_sheet(source.crop, kept))
    return report, sheet


def _frames(
    network: Network,
    source: Photo,
    motion: Motion,
    kept: list[
        tuple[str, np.ndarray, np.ndarray]
    ],  # filled: (label, image, depth) of the motion's moments
) -> Iterator[np.ndarray]:
    head = Expressive(network, network.encode(source.crop, source.camera, source.beta))
    colours = DepthColours()
    canvas = Canvas(("source", "generated", "depth"), 3, default_cell_px(len(source.crop)))
    moments = {round(time_s * motion.fps): label for time_s, label in motion.moments}
    rows = network.directions() * direction_scales(network)[:, None]  # [n, d]
    for t in range(motion.n_frames):
        time_s = t / motion.fps
        refined = network.refine(motion.beta(time_s, source.beta, network.space))
        refined = refined + torch.from_numpy(motion.along(time_s, len(rows))).to(refined) @ rows
        frame = head.frame_from_refined(refined, motion.label(time_s))
        depth = colours(frame.depth, frame.opacity)
        if t in moments:
            kept.append((moments[t], frame.image, depth))
        yield canvas.compose([source.crop, frame.image, depth])


def contact_sheet(
    source: np.ndarray, kept: list[tuple[str, np.ndarray, np.ndarray]], cell_px: int = 256
) -> np.ndarray:
    """The source and the kept moments in one row, their depth below, uint8 [H, W, 3]."""
    labels = ["source", *(label for label, _, _ in kept)]
    blank = [""] * len(labels)
    canvas = Canvas([*labels, *blank], len(labels), cell_px)
    images: list[np.ndarray | None] = [source, *(image for _, image, _ in kept)]
    blank_cell = np.full((1, 1, 3), PAGE, np.uint8)
    return canvas.compose([*images, blank_cell, *(depth for _, _, depth in kept)])
