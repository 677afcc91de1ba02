"""The other videos of the paper's project page, each one function: frames in, one streamed video out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dnnlib.errors import UserError
from inference.cameras import View, camera_path, orbit_label
from inference.network import Expressive, Network, direction_scales
from inference.output import Report, write_video
from inference.panels import Canvas, DepthColours, default_cell_px
from inference.tracked import Driving, Photo
from tracking.pictures import open_pictures

GRID_CELL_PX = 192  # side of a cell where many stand on a page
VIEW_FPS = 25.0  # of videos that have no driving video


def freeview(
    network: Network,
    source: Photo,
    out: Path,
    view: View,
    seconds: float = 4.0,
    panel_px: int = 0,
) -> Report:
    """Free view: the expression stays the photo's own, the camera swings around. source | generated | depth."""

    def frames() -> Iterator[np.ndarray]:
        head = Expressive(network, network.encode(source.crop, source.camera, source.beta))
        colours = DepthColours()
        canvas = Canvas(
            ("source", "generated", "depth"), 3, panel_px or default_cell_px(len(source.crop))
        )
        for t in range(n_frames):
            frame = head.frame(source.beta, orbit_label(view, t / VIEW_FPS))
            yield canvas.compose([source.crop, frame.image, colours(frame.depth, frame.opacity)])

    n_frames = max(1, round(seconds * VIEW_FPS))
    return write_video(out, frames(), VIEW_FPS, None, n_frames, "free view")


def reconstruct(
    network: Network, source: Photo, driving: Driving, out: Path, panel_px: int = 0
) -> Report:
    """Reconstruction of a clip from one of its frames: ground truth | generated | depth, with the clip's sound."""

    def frames() -> Iterator[np.ndarray]:
        head = Expressive(network, network.encode(source.crop, source.camera, source.beta))
        colours = DepthColours()
        labels = ("ground truth", "generated", "estimated depth")
        canvas = Canvas(labels, 3, panel_px or default_cell_px(len(source.crop)))
        for beta, camera, crop in zip(driving.betas, driving.cameras, driving.crops(), strict=True):
            frame = head.frame(beta, camera)
            yield canvas.compose([crop, frame.image, colours(frame.depth, frame.opacity)])

    return write_video(
        out, frames(), driving.fps, driving.sound, len(driving.betas), "reconstruction"
    )


def novel_view(
    network: Network,
    source: Photo,
    driving: Driving,
    out: Path,
    betas: np.ndarray,  # [T, D], what the source shows
    yaws_deg: Sequence[float] = (-30.0, 0.0, 30.0),
    panel_px: int = 0,
) -> Report:
    """Novel views together with expression: source | driving | one panel a view, expression from the driver."""

    def frames() -> Iterator[np.ndarray]:
        head = Expressive(network, network.encode(source.crop, source.camera, source.beta))
        views = [camera_path("fixed", View(yaw_deg=yaw))(0.0, source.camera) for yaw in yaws_deg]
        labels = ["source", "driving", *(f"{yaw:+.0f}°" if yaw else "frontal" for yaw in yaws_deg)]
        canvas = Canvas(labels, len(labels), panel_px or default_cell_px(len(source.crop)))
        for beta, crop in zip(betas, driving.crops(), strict=True):
            yield canvas.compose([source.crop, crop, *(head.frame(beta, v).image for v in views)])

    return write_video(out, frames(), driving.fps, driving.sound, len(betas), "novel view")


def grid(
    network: Network,
    sources: Sequence[Photo],
    drivers: Sequence[Driving],
    out: Path,
    betas: Sequence[Sequence[np.ndarray]],  # [driver][source] -> [T, D]
    panel_px: int = 0,
) -> Report:
    """Cross-identity transfer: sources in the first row, drivers in the first column, as long as the shortest driver.

    Expression and camera come from the driver; frame rate and sound from the first driver.
    """
    n_frames = min(len(d.betas) for d in drivers)

    def frames() -> Iterator[np.ndarray]:
        heads = [network.encode(s.crop, s.camera, s.beta) for s in sources]
        # one set of planes alive per cell and frame, none kept: memory does not grow with the grid's length
        columns = len(sources) + 1
        labels = ["", *(s.name for s in sources)] + [""] * (columns * len(drivers))
        canvas = Canvas(labels, columns, panel_px or GRID_CELL_PX)
        crops = [d.crops() for d in drivers]
        first_row: list[np.ndarray | None] = [None, *(s.crop for s in sources)]
        for t in range(n_frames):
            cells = list(first_row)
            for row, driver in enumerate(drivers):
                cells.append(next(crops[row]))
                for column, head in enumerate(heads):
                    planes = network.planes(head, betas[row][column][t])
                    cells.append(network.render(planes, driver.cameras[t]).image)
            yield canvas.compose(cells)

    return write_video(out, frames(), drivers[0].fps, drivers[0].sound, n_frames, "grid")


def directions(
    network: Network,
    source: Photo,
    out: Path,
    count: int = 10,
    amount: float = 1.0,  # 1: the range that lambda covers over single units of the expression space
    seconds: float = 3.0,
    columns: int = 5,
    panel_px: int = 0,
) -> Report:
    """Motion along each orthogonal direction: beta' + a(t) v_i, one panel for each v_i.

    a(t) is a sine of the size that the coefficient lambda_i takes when single units of the space go from 0 to 1.
    """
    rows = network.directions()[:count]  # [n, d]
    scale = direction_scales(network)[:count] * amount
    base = network.refine(source.beta)  # [1, d]
    n_frames = max(2, round(seconds * VIEW_FPS))

    def frames() -> Iterator[np.ndarray]:
        features = network.encode(source.crop, source.camera, source.beta)
        canvas = Canvas(
            [f"v{i + 1}" for i in range(len(rows))],
            min(columns, len(rows)),
            panel_px or GRID_CELL_PX,
        )
        for t in range(n_frames):
            a = math.sin(2 * math.pi * t / n_frames)
            cells: list[np.ndarray | None] = []
            for v, s in zip(rows, scale, strict=True):
                planes = network.planes_from_refined(features, base + a * float(s) * v)
                cells.append(network.render(planes, source.camera).image)
            yield canvas.compose(cells)

    return write_video(out, frames(), VIEW_FPS, None, n_frames, "directions")


def compare(
    panels: Sequence[tuple[str, Path]], out: Path, columns: int = 0, panel_px: int = 256
) -> Report:
    """Side by side: videos or folders of frames, each under its name, as long as the shortest.

    Frame rate and sound come from the first panel that has them; frames are matched by number.

    Raises:
        UserError: a panel holds no pictures, or two videos differ in frame rate.
    """
    sequences = [open_pictures(path) for _, path in panels]
    rates = {round(s.fps, 2) for s in sequences if s.fps}
    if len(rates) > 1:
        raise UserError(
            f"the videos have different frame rates ({', '.join(f'{r:g}' for r in sorted(rates))}); "
            "bring them to one rate first, frames are matched by number"
        )
    fps = next((s.fps for s in sequences if s.fps), VIEW_FPS)
    sound = next((s.sound for s in sequences if s.sound), None)

    def frames() -> Iterator[np.ndarray]:
        canvas = Canvas([label for label, _ in panels], columns or len(panels), panel_px)
        for images in zip(*(s.frames() for s in sequences), strict=False):
            yield canvas.compose(images)

    return write_video(out, frames(), fps, sound, None, "compare")
