"""The other videos of the paper's project page, each one function: frames in, one streamed video out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from inference.background import NETWORK, Background
from inference.cameras import View, camera_path, orbit_label
from inference.network import Expressive, Network
from inference.output import Report, write_video
from inference.panels import Canvas, DepthColours, default_cell_px
from inference.photo import Photo
from inference.showing import showing
from inference.steering import Steering
from inference.tracked import Driving, write_driven
from tracking.pictures import Pictures, open_pictures
from tracking.timeline import SLACK_S, Playhead, shown_at

GRID_CELL_PX = 192  # side of a cell where many stand on a page
VIEW_FPS = 25.0  # of videos that have no driving video


def freeview(
    network: Network,
    source: Photo,
    out: Path,
    view: View,
    seconds: float = 4.0,
    panel_px: int = 0,
    background: Background = NETWORK,
) -> Report:
    """Free view: the expression stays the photo's own, the camera swings around. source | generated | depth."""

    def frames() -> Iterator[np.ndarray]:
        head = Expressive(network, network.encode(source.crop, source.camera, source.beta))
        colours = DepthColours()
        canvas = Canvas(
            ("source", "generated", "depth"), 3, panel_px or default_cell_px(len(source.crop))
        )
        shown = showing(source, head, background)
        for t in range(n_frames):
            label = shown.view(orbit_label(view, t / VIEW_FPS))
            frame = head.frame(source.beta, label)
            depth = colours(frame.depth, frame.opacity)
            yield canvas.compose([source.crop, shown.picture(frame, label), depth])

    n_frames = max(1, round(seconds * VIEW_FPS))
    return write_video(out, frames(), VIEW_FPS, None, n_frames, "free view")


def reconstruct(
    network: Network,
    source: Photo,
    driving: Driving,
    out: Path,
    panel_px: int = 0,
    background: Background = NETWORK,
) -> Report:
    """Reconstruction of a clip from one of its frames: ground truth | generated | depth, with the clip's sound."""

    def frames() -> Iterator[np.ndarray]:
        head = Expressive(network, network.encode(source.crop, source.camera, source.beta))
        colours = DepthColours()
        labels = ("ground truth", "generated", "estimated depth")
        canvas = Canvas(labels, 3, panel_px or default_cell_px(len(source.crop)))
        shown = showing(source, head, background)
        for beta, camera, crop in zip(driving.betas, driving.cameras, driving.crops(), strict=True):
            label = shown.view(camera)
            frame = head.frame(beta, label)
            depth = colours(frame.depth, frame.opacity)
            yield canvas.compose([crop, shown.picture(frame, label), depth])

    return write_driven(out, frames(), driving, "reconstruction")


def novel_view(
    network: Network,
    source: Photo,
    driving: Driving,
    out: Path,
    steering: Steering,  # of the driver
    yaws_deg: Sequence[float] = (-30.0, 0.0, 30.0),
    panel_px: int = 0,
    background: Background = NETWORK,
) -> Report:
    """Novel views together with expression: source | driving | one panel a view, expression from the driver."""

    def frames() -> Iterator[np.ndarray]:
        head = Expressive(network, network.encode(source.crop, source.camera, source.beta))
        shown = showing(source, head, background)
        views = [camera_path("fixed", View(yaw_deg=yaw))(0.0, source.camera) for yaw in yaws_deg]
        views = [shown.view(view) for view in views]
        labels = ["source", "driving", *(f"{yaw:+.0f}°" if yaw else "frontal" for yaw in yaws_deg)]
        canvas = Canvas(labels, len(labels), panel_px or default_cell_px(len(source.crop)))
        for t, crop in enumerate(driving.crops()):
            seen = (head.frame(steering.beta(t, source, v), v) for v in views)
            pictures = [shown.picture(frame, v) for frame, v in zip(seen, views, strict=True)]
            yield canvas.compose([source.crop, crop, *pictures])

    return write_driven(out, frames(), driving, "novel view")


def grid(
    network: Network,
    sources: Sequence[Photo],
    drivers: Sequence[Driving],
    out: Path,
    steerings: Sequence[Steering],  # of the drivers
    panel_px: int = 0,
    background: Background = NETWORK,
) -> Report:
    """Cross-identity transfer: sources in the first row, drivers in the first column, as long as the shortest driver.

    Expression and camera come from the driver, sound from the first one. All play side by side in time: the fastest
    driver sets the times of the frames, the others show what they show then.
    """
    leader = max(drivers, key=lambda d: len(d.betas) / d.times_s[-1])
    end_s = min(float(d.times_s[-1]) for d in drivers)
    times_s = leader.times_s[:-1][leader.times_s[:-1] < end_s - SLACK_S]
    moments = [shown_at(d.times_s, times_s) for d in drivers]  # [driver] -> [frame]

    def frames() -> Iterator[np.ndarray]:
        heads = [network.encode(s.crop, s.camera, s.beta) for s in sources]
        shown_as = [
            showing(s, Expressive(network, h), background)
            for s, h in zip(sources, heads, strict=True)
        ]
        # one set of planes alive per cell and frame, none kept: memory does not grow with the grid's length
        columns = len(sources) + 1
        labels = ["", *(s.name for s in sources)] + [""] * (columns * len(drivers))
        canvas = Canvas(labels, columns, panel_px or GRID_CELL_PX)
        crops = [enumerate(d.crops()) for d in drivers]
        rows: list[list[np.ndarray | None]] = [[] for _ in drivers]
        for i in range(len(times_s)):
            for row, steering in enumerate(steerings):
                t = int(moments[row][i])
                if i and t == moments[row][i - 1]:
                    continue  # a slower driver: its row stands still
                rows[row] = [next(crop for number, crop in crops[row] if number == t)]
                for source, head, as_ in zip(sources, heads, shown_as, strict=True):
                    view = as_.view(steering.camera(t, source))
                    planes = network.planes(head, steering.beta(t, source, view))
                    rows[row].append(as_.picture(network.render(planes, view), view))
            yield canvas.compose([None, *(s.crop for s in sources), *chain.from_iterable(rows)])

    ends_s = np.append(times_s, end_s)
    return write_video(
        *(out, frames(), leader.fps, drivers[0].sound, len(times_s), "grid"),
        time_of=lambda i: float(ends_s[i]),
    )


def compare(
    panels: Sequence[tuple[str, Path]], out: Path, columns: int = 0, panel_px: int = 256
) -> Report:
    """Side by side: videos or folders of frames, each under its name, as long as the shortest.

    Videos play side by side in time, and the fastest sets the times of the frames. The pictures of a folder have no
    times: they belong to the frames of the first video, by number. Sound comes from the first panel that has it.

    Raises:
        UserError: a panel holds no pictures.
    """
    sequences = [open_pictures(path) for _, path in panels]
    sound = next((s.sound for s in sequences if s.sound), None)
    times_s = [0.0]  # of the frames so far, and the end of the last

    def frames() -> Iterator[np.ndarray]:
        canvas = Canvas([label for label, _ in panels], columns or len(panels), panel_px)
        for images, end_s in _side_by_side(sequences):
            times_s.append(end_s)
            yield canvas.compose(images)

    fps = max(s.fps for s in sequences) or VIEW_FPS
    return write_video(out, frames(), fps, sound, None, "compare", times_s.__getitem__)


def _side_by_side(sequences: Sequence[Pictures]) -> Iterator[tuple[list[np.ndarray], float]]:
    """(what each shows, until when) for the frames of the fastest, until one has ended."""
    heads = [Playhead(s.timed()) for s in sequences]
    videos = [head for head, s in zip(heads, sequences, strict=True) if s.fps] or heads[:1]
    leader = heads[max(range(len(heads)), key=lambda i: sequences[i].fps)]
    while leader.step():
        assert leader.frame is not None
        time_s = leader.frame.time_s
        if not all(head.seek(time_s) for head in videos if head is not leader):
            return
        number = videos[0].frame.index if videos[0].frame is not None else 0
        for head in heads:
            while head not in videos and (head.frame is None or head.frame.index < number):
                if not head.step():
                    return
        yield [head.frame.image for head in heads if head.frame is not None], leader.end_s
