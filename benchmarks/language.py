"""What the tracker reads from synthetic heads, unit by unit, and from real clips where there are some.

    python -m benchmarks.language --data out/heads --clips ../shared/data/clips --json benchmarks/results/language.json

`response`: how much each unit's own reading rises when a head goes from rest to that unit at 1, mean over people.
`spread`: median and 98th percentile of a unit's reading over frames, and its deviation within clips, of a dataset and
of videos. Only these aggregate numbers are kept of the videos.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

import dnnlib.cli
from benchmarks.measure import machine
from benchmarks.options import PEOPLE, json_option
from conventions.cameras import camera_label
from conventions.spaces import ARKIT52
from dataset.reader import open_dataset
from dataset.synthesis.heads import SyntheticHeads
from dataset.synthesis.motion import units_to_beta
from dnnlib.errors import UserError
from dnnlib.files import write_json
from dnnlib.listing import VIDEO_SUFFIXES, listed
from dnnlib.params import InputFolder, Whole
from tracking.landmarker import Landmarker
from tracking.media import VideoReader

EVERY = 10  # frames of a video from one reading to the next
AT_MOST = 40  # readings of a video


def paired_units() -> dict[str, tuple[int, ...]]:
    """Name without its side -> places of its units in beta; `_neutral` is left out."""
    found: dict[str, list[int]] = {}
    for i, name in enumerate(ARKIT52.names[1:], start=1):
        paired = not name.startswith(("jaw", "mouthLeft", "mouthRight"))
        base = name.removesuffix("Left").removesuffix("Right") if paired else name
        found.setdefault(base, []).append(i)
    return {name: tuple(places) for name, places in found.items()}


def response(people: int, seed: int, resolution: int) -> dict[str, float]:
    """Mean rise of each unit's own reading from rest to 1, frontal."""
    heads, landmarker, camera = SyntheticHeads(seed, 0.0), Landmarker(), camera_label(0.0, 0.0)
    rises: dict[str, list[float]] = {}
    for person in range(people):
        rest = _read(landmarker, heads.render(person, np.zeros(52), camera, resolution).image)
        for name, places in paired_units().items():
            beta = units_to_beta(**{name: 1.0})
            if name == "mouthClose":  # it shuts the lips over an open jaw
                beta += units_to_beta(jawOpen=1.0)
            said = _read(landmarker, heads.render(person, beta, camera, resolution).image)
            if rest is not None and said is not None:
                rises.setdefault(name, []).append(float((said - rest)[list(places)].mean()))
    return {name: round(float(np.mean(values)), 3) for name, values in rises.items()}


def _read(landmarker: Landmarker, image: np.ndarray) -> np.ndarray | None:
    faces = landmarker.detect(image)
    return max(faces, key=lambda face: face.area).blendshapes if faces else None


def spread(beta: np.ndarray, clip: np.ndarray) -> dict[str, dict[str, float]]:
    """Of readings [M, 52] that belong to clips [M]."""
    clips = [beta[clip == k] for k in np.unique(clip)]
    within = np.sqrt(np.mean([b.var(axis=0) for b in clips if len(b) > 5], axis=0))
    middle, high = np.quantile(beta, [0.5, 0.98], axis=0)
    return {
        name: {
            key: round(float(values[list(places)].mean()), 3)
            for key, values in (("median", middle), ("q98", high), ("within_clip", within))
        }
        for name, places in paired_units().items()
    }


def read_clips(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Readings [M, 52] of a folder's videos, and the number of the video of each. Raises UserError: none."""
    landmarker, betas, clips = Landmarker(), [], []
    for number, path in enumerate(listed(folder, VIDEO_SUFFIXES)):
        for frame in VideoReader(path):
            if frame.index >= EVERY * AT_MOST:
                break
            said = _read(landmarker, frame.image) if frame.index % EVERY == 0 else None
            if said is not None:
                betas.append(said)
                clips.append(number)
    if not betas:
        raise UserError(f"{folder} holds no video that shows a face; give a folder of such videos")
    return np.stack(betas), np.array(clips)


@dnnlib.cli.command()
@click.option("--people", default=8, type=PEOPLE, help="Heads of the response.")
@click.option("--seed", default=1, type=Whole(0, 2**31), help="Of those heads.")
@click.option("--resolution", default=128, type=Whole(64, 2048), help="Pixels a side.")
@click.option(
    "--data", type=InputFolder("a data set of synthetic heads"), help="Data set of heads."
)
@click.option("--clips", type=InputFolder("a folder of videos"), help="Folder of real videos.")
@json_option
def main(
    people: int,
    seed: int,
    resolution: int,
    data: Path | None,
    clips: Path | None,
    json_path: Path | None,
) -> None:
    """Measure what the tracker reads from synthetic heads, and from real clips."""
    record: dict[str, Any] = {"machine": machine(), "people": people, "resolution": resolution}
    record["response"] = response(people, seed, resolution)
    if data is not None:
        frames = open_dataset(data).frames
        record["heads"] = {
            "frames": len(frames),
            "units": spread(np.array(frames["beta"]), np.array(frames["clip"])),
        }
    if clips is not None:
        beta, clip = read_clips(clips)
        record["clips"] = {"frames": len(beta), "units": spread(beta, clip)}
    for name, rise in record["response"].items():
        shown = [f"{name:16s} response {rise:+.2f}"]
        for what in ("heads", "clips"):
            if what in record:
                unit = record[what]["units"][name]
                shown.append(f"{what} within clip {unit['within_clip']:.2f}, q98 {unit['q98']:.2f}")
        click.echo("   ".join(shown))
    if json_path is not None:
        write_json(json_path, record)


if __name__ == "__main__":
    main()
