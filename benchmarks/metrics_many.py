"""The 10,000 pairs of `python -m benchmarks.metrics many`: made, scored clip by clip, and compared.

WORK/pred and WORK/ref hold a folder of 100 JPEG files per clip. A process appends a line to WORK/scores-P-RANK.jsonl
for every clip that it has scored, so an interrupted run loses one clip a process.
"""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch
from PIL import Image

from dnnlib.errors import UserError
from dnnlib.reading.text import read_json, read_json_lines

if TYPE_CHECKING:
    from metrics.result import ClipScores

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("psnr", "ssim", "stlpips", "csim")
SIZE = 256
FRAMES = 100  # pairs of a clip
JPEG_QUALITY = 92
FACE_CENTRE = (224.0, 130.0)  # of the portrait, pixels
MEMORY_POINTS = 10  # of a run whose peak memory is shown


def portrait() -> Image.Image:
    """The public-domain astronaut of scikit-image, 512 px."""
    import skimage.data

    return Image.fromarray(skimage.data.astronaut())


# ---- pairs -------------------------------------------------------------------------------------------------------


def frame(picture: Image.Image, clip: int, i: int, pred: bool) -> Image.Image:
    """Frame `i` of a clip: the portrait drifts, breathes and nods; a prediction is off by pixels, light and noise."""
    rng = np.random.default_rng((clip, i, int(pred)))
    of_clip = np.random.default_rng(clip)
    phase = of_clip.uniform(0, 2 * np.pi, 4)
    x, y, zoom, roll = np.sin(2 * np.pi * i / FRAMES * np.array([1, 2, 1, 3]) + phase)
    strength = np.array([2.0, 8.0, 0.2]) if pred else np.zeros(3)
    off, noise, light = (of_clip.uniform(0, 1, 3) * strength).tolist()
    scale, angle = 1.0 + 0.1 * zoom, 0.06 * roll
    a, b = scale * math.cos(angle), -scale * math.sin(angle)
    cx, cy = FACE_CENTRE[0] + 12 * x + off, FACE_CENTRE[1] + 8 * y - off / 2
    half = SIZE / 2
    coefficients = (a, b, cx - (a + b) * half, -b, a, cy - (a - b) * half)
    moved = picture.transform(
        (SIZE, SIZE), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC
    )
    pixels = np.asarray(moved, np.float32) * (1 - light)
    pixels += rng.normal(0, 1 + noise, pixels.shape).astype(np.float32)
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))


def clip_name(clip: int) -> str:
    return f"clip{clip:03d}"


def write_pairs(work: Path, n_clips: int) -> None:
    """Write the clips that are not there yet; each appears when it is complete."""
    picture = portrait()
    for clip in range(n_clips):
        for side in ("pred", "ref"):
            place = work / side / clip_name(clip)
            if place.is_dir():
                continue
            part = work / f"{side}-{clip_name(clip)}.part"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            for i in range(FRAMES):
                image = frame(picture, clip, i, side == "pred")
                image.save(part / f"{i:05d}.jpg", quality=JPEG_QUALITY)
            place.parent.mkdir(exist_ok=True)
            part.rename(place)


# ---- scores ------------------------------------------------------------------------------------------------------


def run(work: Path, n_clips: int, processes: int) -> None:
    """Score what is missing in a program of its own; its output goes to this terminal."""
    rows = list(lines(work, processes))
    left = n_clips - len({r["clip"] for r in rows} & {clip_name(i) for i in range(n_clips)})
    click.echo(f"{processes} process(es): {left} of {n_clips} clips to score", err=True)
    if not left:
        return
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    session = 1 + max((r["session"] for r in rows), default=0)
    command += ["-m", "benchmarks.metrics", "score", str(work.resolve()), str(n_clips)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(session)], cwd=ROOT, env=environment)
    if done.returncode != 0:
        raise UserError(f"scoring with {processes} process(es) stopped; the same command goes on")


def score(work: Path, n_clips: int, session: int) -> None:
    """Score the clips that no process of a run of this size has scored yet; called in every process."""
    from metrics.calc import Options, calculate
    from metrics.networks import Networks
    from metrics.registry import get_metric
    from torch_utils import distributed

    torch.set_num_threads(1)
    networks = Networks()
    networks.load([e for name in NAMES for e in get_metric(name).extractors])
    with distributed.session("cpu"):
        world, rank = distributed.world_size(), distributed.rank()
        known = {row["clip"] for row in lines(work, world)}
        distributed.barrier()  # everybody has read before anybody writes
        names = [clip_name(i) for i in range(n_clips) if clip_name(i) not in known]
        start, cpu = time.perf_counter(), time.process_time()
        with open(work / f"scores-{world}-{rank}.jsonl", "a", encoding="utf-8") as file:

            def note(name: str, scores: ClipScores) -> None:
                row = {
                    "session": session,
                    "clip": name,
                    "pairs": scores.n_pairs,
                    "sums": scores.sums,
                    "counts": scores.counts,
                    "failures": scores.failures.lines(),
                    "seconds": scores.seconds,
                    "wall_s": time.perf_counter() - start,
                    "cpu_s": time.process_time() - cpu,
                    "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                }
                file.write("\n" + json.dumps(row))
                file.flush()
                click.echo(f"rank {rank}: {name}", err=True)

            options = Options(networks, clips=names, after_clip=note)
            result = calculate(work / "pred", work / "ref", NAMES, options)
        if distributed.is_main() and not known:  # in one go: what a user would have been told
            told = {name: result.mean(name) for name in NAMES}
            (work / f"result-{world}.json").write_text(json.dumps(told))


def lines(work: Path, processes: int) -> Iterator[dict[str, Any]]:
    """What the processes of a run have noted, a row a clip; an unfinished line is skipped."""
    seen: set[str] = set()
    for file in sorted(work.glob(f"scores-{processes}-*.jsonl")):
        for row in read_json_lines(file, finite=False):
            if row["clip"] in seen:  # a process outlived the run that had started it
                continue
            seen.add(row["clip"])
            yield {**row, "rank": int(file.stem.rpartition("-")[2])}


# ---- numbers -----------------------------------------------------------------------------------------------------


def summary(work: Path, n_clips: int) -> dict[str, Any]:
    """Every run as far as it has come, and how far it is from the run of one process on the clips of all."""
    wanted = [clip_name(i) for i in range(n_clips)]
    runs: dict[int, list[dict[str, Any]]] = {}
    for file in work.glob("scores-*-0.jsonl"):
        processes = int(file.stem.split("-")[1])
        rows = [row for row in lines(work, processes) if row["clip"] in wanted]
        if rows:
            runs[processes] = rows
    common = set(wanted).intersection(*({row["clip"] for row in rows} for rows in runs.values()))
    shared = {n: [r for r in rows if r["clip"] in common] for n, rows in runs.items()}
    difference = {}
    if 1 in runs and len(runs) > 1 and common:
        for name in NAMES:
            scores = {n: {r["clip"]: _mean([r], name) for r in rows} for n, rows in shared.items()}
            totals = {n: _total(work, n, rows, name, wanted) for n, rows in shared.items()}
            difference[name] = max(
                max(abs(scores[n][clip] - scores[1][clip]) for n in runs for clip in common),
                max(abs(totals[n] - totals[1]) for n in runs),
            )
    return {
        "metrics": NAMES,
        "pairs": n_clips * FRAMES,
        "clips": n_clips,
        "size_px": SIZE,
        "compared_pairs": sum(row["pairs"] for row in shared[1]) if difference else 0,
        "largest_difference": difference,  # of any clip's score or of the mean, between one process and more
        "runs": {str(n): _run(work, n, runs[n], wanted) for n in sorted(runs)},
    }


def _run(
    work: Path, processes: int, rows: list[dict[str, Any]], wanted: list[str]
) -> dict[str, Any]:
    pairs = sum(row["pairs"] for row in rows)
    used = {key: sum(row["seconds"].get(key, 0.0) for row in rows) for key in ("reading", *NAMES)}
    last = {(row["session"], row["rank"]): row for row in rows}
    sessions = {session for session, _ in last}
    wall = sum(max(r["wall_s"] for (s, _), r in last.items() if s == this) for this in sessions)
    return {
        "processes": processes,
        "pairs": pairs,  # fewer than all: it has not come to its end
        "sessions": len(sessions),  # 1: never interrupted
        "wall_s": wall,
        "cpu_s": sum(row["cpu_s"] for row in last.values()),
        "pairs_per_s": pairs / wall,
        "seconds": used,  # inside the processes, added up
        "pairs_per_process_s": {key: pairs / value for key, value in used.items() if value},
        "scores": {name: _total(work, processes, rows, name, wanted) for name in NAMES},
        "not_measured": {n: pairs - sum(r["counts"].get(n, 0) for r in rows) for n in NAMES},
        "peak_mib": [
            {"rank": rank, "session": session, "pairs_and_mib": _series(rows, session, rank)}
            for session, rank in sorted(last)
        ],
    }


def _series(rows: list[dict[str, Any]], session: int, rank: int) -> list[list[float]]:
    """[pairs scored so far, peak memory so far] of a process: after its first clip, then evenly."""
    mine = [r for r in rows if (r["session"], r["rank"]) == (session, rank)]
    done = np.cumsum([r["pairs"] for r in mine]).tolist()
    at = sorted({round(i) for i in np.linspace(0, len(mine) - 1, MEMORY_POINTS + 1)})
    return [[done[i], round(mine[i]["peak_mib"], 1)] for i in at]


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    count = sum(row["counts"].get(name, 0) for row in rows)
    return math.fsum(row["sums"].get(name, 0.0) for row in rows) / max(count, 1)


def _total(
    work: Path, processes: int, rows: list[dict[str, Any]], name: str, wanted: list[str]
) -> float:
    """The score of the whole: as `calculate` told it when the run came to its end in one go."""
    place = work / f"result-{processes}.json"
    whole = len(rows) == len(wanted) and len({row["session"] for row in rows}) == 1
    if place.is_file() and whole:
        return float(read_json(place)[name])
    return _mean(rows, name)
