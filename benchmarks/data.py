"""Speed of data: opening a large index, reading random frames, preparing videos.

    python -m benchmarks.data index --json benchmarks/results/data_index.json
    python -m benchmarks.data read DATASET --json benchmarks/results/data_read.json
    python -m benchmarks.data video FOLDER --json benchmarks/results/data_video.json
    python -m benchmarks.data profile FOLDER --json benchmarks/results/data_profile.json

`index` writes a synthetic index of 16,000 clips and 3,000,000 frames (1.1 GB, gone afterwards). Processor seconds do
not depend on what else the machine does; wall seconds do, and the load is stored with them.
"""

from __future__ import annotations

import contextlib
import json
import os
import pkgutil
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np

import dnnlib.cli
from benchmarks.frame import machine
from benchmarks.options import json_option
from dataset.reader import open_dataset
from dataset.spec import CLIP_DTYPE, DatasetSpec, frame_dtype
from dnnlib.errors import UserError
from dnnlib.files import write_json
from dnnlib.params import InputPath, Whole
from dnnlib.reading.text import read_json

VIDEOS = InputPath("a folder, a list or an archive of videos, or one video")


@dnnlib.cli.group()
def main() -> None:
    """Measure the data path."""


def _store(figures: dict[str, Any], path: Path | None) -> None:
    content = {"machine": machine(), "load": os.getloadavg()[0], **figures}
    click.echo(json.dumps(content, indent=1))
    if path is not None:
        write_json(path, content)


# ---- a large index -----------------------------------------------------------------------------------------------

_OPEN = """
import json, sys, time, resource
def memory():  # resident, MiB
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
from dataset.reader import open_dataset
import conventions.spaces
before = memory()
start = time.perf_counter()
data = open_dataset(sys.argv[1])
opened = time.perf_counter() - start
middle = memory()
import numpy as np
rng = np.random.default_rng(0)
for i in rng.integers(0, len(data), 100_000):
    data.row(int(i))
print(json.dumps({"open_s": opened, "open_mib": middle - before, "rows_100k_mib": memory() - before,
                  "process_mib": memory(), "frames": len(data), "clips": len(data.clips)}))
"""


def write_index(folder: Path, n_clips: int, n_frames: int) -> None:
    """An index without pictures."""
    from conventions.spaces import BFM64

    spec = DatasetSpec(256, BFM64, channels=("image", "mask"))
    clips = np.zeros(n_clips, CLIP_DTYPE)
    clips["name"] = [f"clip{i}" for i in range(n_clips)]
    clips["n_frames"] = n_frames // n_clips
    clips["n_frames"][-1] += n_frames - int(clips["n_frames"].sum())
    clips["first_frame"] = np.cumsum(clips["n_frames"]) - clips["n_frames"]
    clips["fps"] = 25
    np.save(folder / "clips.npy", clips)
    frames = np.lib.format.open_memmap(
        folder / "frames.npy", "w+", dtype=frame_dtype(spec), shape=(n_frames,)
    )
    frames["clip"] = np.repeat(np.arange(n_clips), clips["n_frames"])
    frames.flush()
    counts = {"n_clips": n_clips, "n_frames": n_frames}
    (folder / "dataset.json").write_text(json.dumps({**spec.to_dict(), **counts}))


@main.command("index")
@click.option("--clips", default=16_000, type=Whole(1, 10_000_000), help="Clips.")
@click.option("--frames", default=3_000_000, type=Whole(1, 1_000_000_000), help="Frames.")
@json_option
def index_command(clips: int, frames: int, json_path: Path | None) -> None:
    """Open a large index in a fresh process, then read 100,000 random rows."""
    with tempfile.TemporaryDirectory() as name:
        write_index(Path(name), clips, frames)
        done = subprocess.run(
            [sys.executable, "-c", _OPEN, name], capture_output=True, text=True, check=True
        )
    _store({"index": json.loads(done.stdout.splitlines()[-1])}, json_path)


# ---- random frames -----------------------------------------------------------------------------------------------


@main.command("read")
@click.argument("dataset", type=InputPath("a dataset of dataset_tool.py"))
@click.option("--frames", default=4000, type=Whole(32, 1_000_000_000), help="Frames read.")
@click.option("--workers", default=2, type=Whole(0, 1024), help="Loader processes.")
@json_option
def read_command(dataset: Path, frames: int, workers: int, json_path: Path | None) -> None:
    """Random pairs through the training loader: frames per second, processor time, memory growth."""
    from dataset.loader import PairLoader

    data = open_dataset(dataset)
    batch = 16
    loader = iter(PairLoader(data, None, batch_size=batch, num_workers=workers))
    for _ in range(4):  # processes start
        next(loader)
    start, cpu = time.perf_counter(), _cpu_of_children()
    for _ in range(frames // (2 * batch)):
        next(loader)
    wall = time.perf_counter() - start
    worker_cpu = _cpu_of_children() - cpu
    one = _decode_cpu(data)
    _store(
        {
            "read": {
                "resolution": data.resolution,
                "codec": data.spec.image_codec,
                "workers": workers,
                "frames": frames,
                "frames_per_wall_s": frames / wall,
                "worker_cpu_s": worker_cpu,
                "frames_per_worker_cpu_s": frames / worker_cpu if worker_cpu > 0 else None,
                **one,
            }
        },
        json_path,
    )


def _cpu_of_children() -> float:
    """Processor seconds of the living child processes (Linux)."""
    total = 0.0
    tick = os.sysconf("SC_CLK_TCK")
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            total += (int(fields[11]) + int(fields[12])) / tick
    return total


def _decode_cpu(data: Any, n: int = 2000, reads: int = 100_000) -> dict[str, float]:
    """One process: frames per processor second, and memory over many reads of encoded pictures and rows."""
    rng = np.random.default_rng(0)
    start = time.process_time()
    for i in rng.integers(0, len(data), n):
        data.image(int(i))
        data.row(int(i))
    seconds = time.process_time() - start
    memory = []
    for _ in range(2):
        for i in rng.integers(0, len(data), reads // 2):
            data.encoded(int(i))
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return {
        "frames_per_cpu_s_of_one_process": n / seconds,
        "reads": reads,
        "peak_mib_after_half": memory[0],
        "peak_mib_after_all": memory[1],
    }


# ---- preparing videos --------------------------------------------------------------------------------------------


@main.command("video")
@click.argument("folder", type=VIDEOS)
@click.option("--resolution", default=256, type=Whole(32, 2048), help="Pixels a side of the crops.")
@json_option
def video_command(folder: Path, resolution: int, json_path: Path | None) -> None:
    """Prepare the videos of FOLDER with one and with two workers."""
    figures = {}
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as name:
            dest = Path(name)
            command = [sys.executable, "dataset_tool.py", "video", "--source", str(folder)]
            command += ["--dest", str(dest / "d"), "--workers", str(workers)]
            command += ["--resolution", str(resolution)]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            wall = time.perf_counter() - start
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            report = read_json(dest / "d" / "report.json")
        n_frames = report["summary"]["frames_read"]
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        figures[f"workers_{workers}"] = {
            "frames": n_frames,
            "wall_s": wall,
            "cpu_s": cpu,
            "frames_per_wall_s": n_frames / wall,
            "frames_per_cpu_s": n_frames / cpu,
        }
    _store({"video": figures}, json_path)


# Step -> where its function is looked up when it is called.
_STEPS = {
    "track": ("dataset.preparation.people.Follower", "__call__"),
    "shots": ("dataset.preparation.shots.ShotDetector", "is_cut"),
    "crop": ("conventions.crop.CropTransform", "apply"),
    "camera": ("tracking.tracker", "fit_camera"),
    "judge": ("dataset.preparation.video", "judge"),
    "identity": ("dataset.preparation.people", "embed"),
    "encode": ("dataset.preparation.rows", "encode_image"),
}


class _Clock:
    """Seconds that named calls take, of the wall and of the processor. The calls do not contain each other."""

    def __init__(self) -> None:
        self.wall_s: Counter[str] = Counter()
        self.cpu_s: Counter[str] = Counter()

    def timed(self, name: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                self.wall_s[name] += time.perf_counter() - wall
                self.cpu_s[name] += time.process_time() - cpu

        return call

    @contextlib.contextmanager
    def steps(self) -> Iterator[None]:
        """Measure the steps of the preparation in this process."""
        from tracking.media import VideoReader

        with contextlib.ExitStack() as stack:
            for name, (owner, attribute) in _STEPS.items():
                function = getattr(pkgutil.resolve_name(owner), attribute)
                timed = self.timed(name, function)
                stack.enter_context(mock.patch(f"{owner}.{attribute}", timed))
            frames = VideoReader.frames

            def decoded(reader: Any, *arguments: Any) -> Iterator[Any]:
                step = self.timed("decode", frames(reader, *arguments).__next__)
                with contextlib.suppress(StopIteration):
                    while True:
                        yield step()

            stack.enter_context(mock.patch.object(VideoReader, "frames", decoded))
            yield


@main.command("profile")
@click.argument("folder", type=VIDEOS)
@click.option("--resolution", default=256, type=Whole(32, 2048), help="Pixels a side of the crops.")
@json_option
def profile_command(folder: Path, resolution: int, json_path: Path | None) -> None:
    """Where the time goes: milliseconds a frame of each step, in one process without its start."""
    from dataset.preparation.finding import find_sources
    from dataset.preparation.options import VideoOptions
    from dataset.preparation.tools import Toolbox
    from dataset.preparation.video import Job, prepare_video

    options = VideoOptions(resolution=resolution)
    begin = time.perf_counter()
    toolbox = Toolbox(options)
    load_s = time.perf_counter() - begin
    clock, sizes, n_frames = _Clock(), set(), 0
    with tempfile.TemporaryDirectory() as dest, clock.steps():
        wall, cpu = time.perf_counter(), time.process_time()
        for number, source in enumerate(find_sources(folder)):
            record = prepare_video(Job(number, source, number), Path(dest), options, toolbox)
            n_frames += record["frames"]
            sizes.add(f"{record['width']} x {record['height']}")
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if n_frames == 0:
        raise UserError(f"{folder} gave no frames; give videos that can be read")
    steps = {
        name: {"wall_ms": 1e3 * clock.wall_s[name] / n_frames, "cpu_ms": 1e3 * s / n_frames}
        for name, s in clock.cpu_s.most_common()
    }
    steps["rest"] = {
        "wall_ms": 1e3 * (wall - clock.wall_s.total()) / n_frames,
        "cpu_ms": 1e3 * (cpu - clock.cpu_s.total()) / n_frames,
    }
    figures = {"resolution": resolution, "videos": sorted(sizes), "frames": n_frames}
    speed = {"frames_per_wall_s": n_frames / wall, "frames_per_cpu_s": n_frames / cpu}
    _store({"profile": {**figures, "load_s": load_s, **speed, "per_frame": steps}}, json_path)


if __name__ == "__main__":
    main()
