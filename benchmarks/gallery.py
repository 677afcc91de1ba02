"""The pictures of README.md and docs/videos.md: synthetic people, through the commands that the pages show.

    python dataset_tool.py synth out/people --identities 6 --frames-per-clip 40 --stride 0.1 --resolution 256 \\
        --wild 0 --seed 4 --test 0 --val 0
    python -m benchmarks.gallery out/people --out docs/images

Each picture is a few moments of one video, one below the other. `moving.webp` is the video of `make demo`, half of its
frames: its portrait is in the public domain.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
from PIL import Image

import dnnlib.cli
from dataset.reader import open_dataset
from dnnlib.errors import UserError
from dnnlib.files import atomic_path
from dnnlib.params import InputFile, InputFolder, Numbers, OutputFolder, Whole
from dnnlib.reading.pictures import read_picture
from inference.options import SHIPPED
from inference.output import write_image
from inference.panels import fit
from tracking.media import VideoReader

ROOT = Path(__file__).resolve().parents[1]
PEOPLE = ("a", "b", "c")  # of the page: the first clips of these people of the data
DRIVERS = ("d1", "d2")
WIDTH_PX = 960  # of a picture, at most
QUALITY = 84  # of WebP
MOVING = "moving"

# name -> words of gen_videos.py; a, b, c are photos, d1 and d2 clips, NAME/ the frames that an earlier line made
VIDEOS = {
    "freeview": "freeview -s b --seconds 0.48 --orbit-seconds 0.48 --orbit-yaw 30",
    "reconstruct": "reconstruct -d d1",
    "grid": "grid -s a -s b -s c -d d1 -d d2 --background photo",
    "result": "animate -s c -d d1 --layout result",
    "still": "animate -s c -d d1 --layout result --background photo",
    "blue": "animate -s c -d d1 --layout result --background #3a6ea5",
    "compare": "compare --panel network=result/ --panel photo=still/ --panel colour=blue/ --columns 3",
    "directions": "directions -s c --seconds 0.32",
    "novel-view": "novel-view -s c -d d1 --yaws -30,0,30 --background photo",
    "right": "animate -s b -d d1 --layout result --gaze 35,0",
    "left": "animate -s b -d d1 --layout result --gaze -35,0",
    "camera": "animate -s b -d d1 --layout result --gaze camera",
    "gaze": "compare --panel left=left/ --panel camera=camera/ --panel right=right/",
}
SHOWN = ("freeview", "reconstruct", "grid", "compare", "directions", "novel-view", "gaze")
MOMENTS = {"grid": (0.5,), "directions": (0.25, 0.75), "gaze": (0.0,), "compare": (0.1, 0.6)}
_THREE = (0.15, 0.5, 0.85)


def made(name: str, work: Path, network: Path, frames: int) -> list[np.ndarray]:
    """The frames of one of VIDEOS, which it also leaves in work/NAME.

    Raises:
        UserError: the command failed.
    """
    words = VIDEOS[name].split()
    places = {**{p: work / f"{p}.png" for p in PEOPLE}, **{d: work / d for d in DRIVERS}}
    call = []
    for word in words[1:]:
        label, equals, value = word.rpartition("=")
        if value.endswith("/"):
            value = str(work / value)
        call.append(f"{label}{equals}{places.get(value, value)}")
    out = work / name
    if words[0] != "compare":
        call += ["--network", str(network)]
    if "-d" in words:
        call += ["--max-frames", str(frames)]
    _run([words[0], *call, "-o", str(out)])
    return [read_picture(p) for p in sorted(out.glob("*.png"))]


def _run(words: list[str]) -> None:
    command = [sys.executable, "gen_videos.py", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"gen_videos.py {' '.join(words)} failed: {done.stderr.strip()[-300:]}")


def sheet(frames: list[np.ndarray], at: tuple[float, ...]) -> np.ndarray:
    """Some of the frames, at these parts of the whole, one below the other."""
    page = np.concatenate([frames[min(len(frames) - 1, int(a * len(frames)))] for a in at])
    height, width = page.shape[:2]
    share = min(1.0, WIDTH_PX / width)
    return fit(page, round(width * share), round(height * share))


@dnnlib.cli.command("gallery")
@click.argument("data", type=InputFolder("a data set of dataset_tool.py synth"))
@click.option("--out", required=True, type=OutputFolder("*.webp"), help="Folder of the pictures.")
@click.option(
    "--network", default=SHIPPED, type=InputFile("a checkpoint of train.py"), help="Who paints."
)
@click.option("--frames", default=30, type=Whole(2, 1000), help="Of each clip.")
@click.option(
    "--people",
    default="0,3,5",
    type=Numbers(0, 1_000_000, len(PEOPLE)),
    metavar="N,N,N",
    help="Clips whose people are shown; the last two drive.",
)
def main(data: Path, out: Path, network: Path, frames: int, people: tuple[float, ...]) -> None:
    """Make the pictures of the pages from synthetic people."""
    dataset = open_dataset(data)
    numbers = [int(n) for n in people]
    if len(numbers) != len(PEOPLE) or max(numbers) >= len(dataset.clips):
        raise UserError(
            f"--people {','.join(map(str, numbers))} are no {len(PEOPLE)} clips of {data}, which has "
            f"{len(dataset.clips)}; count from 0"
        )
    clips = [dataset.clips[n] for n in numbers]
    with TemporaryDirectory() as folder:
        work = Path(folder)
        for name, clip in zip(PEOPLE, clips, strict=True):
            write_image(
                work / f"{name}.png", dataset.image(int(clip["first_frame"])).transpose(1, 2, 0)
            )
        for driver, clip in zip(DRIVERS, clips[1:], strict=True):
            (work / driver).mkdir()
            for i in range(min(frames, int(clip["n_frames"]))):
                image = dataset.image(int(clip["first_frame"]) + i).transpose(1, 2, 0)
                write_image(work / driver / f"{i:04d}.png", image)
        out.mkdir(parents=True, exist_ok=True)
        for name in VIDEOS:
            pages = made(name, work, network.resolve(), frames)
            if name in SHOWN:
                _save(out / f"{name}.webp", [sheet(pages, MOMENTS.get(name, _THREE))])
        _save(out / f"{MOVING}.webp", demo_video(work, network.resolve()))
    click.echo(f"wrote {', '.join(f'{n}.webp' for n in (*SHOWN, MOVING))} into {out}")


def demo_video(work: Path, network: Path) -> list[np.ndarray]:
    """Every second frame of what `make demo` shows.

    Raises:
        UserError: the command failed.
    """
    _run(["demo", "--network", str(network), "--out", str(work / "demo")])
    return [
        frame.image for i, frame in enumerate(VideoReader(work / "demo" / "demo.mp4")) if i % 2 == 0
    ]


def _save(path: Path, pages: list[np.ndarray]) -> None:
    first, *more = (Image.fromarray(p) for p in pages)
    with atomic_path(path) as temporary:
        moves = {"save_all": True, "append_images": more, "duration": 80, "loop": 0} if more else {}
        first.save(temporary, "WEBP", quality=QUALITY if not more else 70, method=6, **moves)


if __name__ == "__main__":
    main()
