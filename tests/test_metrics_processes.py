"""Two processes give the numbers of one; memory does not grow with the number of frames."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def clips(folder: Path, n_clips: int, n_frames: int, size: int, seed: int) -> Path:
    """A portrait with noise, one folder a clip, of 3, 4, ... frames."""
    rng = np.random.default_rng(seed)
    portrait = skimage.data.astronaut()[:256, 96:352]
    portrait = np.asarray(Image.fromarray(portrait).resize((size, size)), np.int16)
    for clip in range(n_clips):
        place = folder / f"clip{clip}"
        place.mkdir(parents=True)
        for i in range(n_frames + clip):
            image = np.clip(portrait + rng.integers(-20, 21, portrait.shape), 0, 255)
            Image.fromarray(image.astype(np.uint8)).save(place / f"{i:05d}.png")
    return folder


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(tmp_path: Path) -> None:
    for side, seed in (("pred", 0), ("ref", 1)):
        clips(tmp_path / side, 5, 2, 96, seed)
    (tmp_path / "pred" / "clip1" / "00000.png").write_bytes(b"")  # a failure of the second process
    found = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for n in (1, 2):
        out = tmp_path / f"{n}.json"
        run = [sys.executable]
        if n > 1:
            run += ["-m", "torch.distributed.run", f"--nproc-per-node={n}", "--master-port=29555"]
        command = [
            *(*run, str(ROOT / "calc_metrics.py"), "calc", "--pred", str(tmp_path / "pred")),
            *("--ref", str(tmp_path / "ref"), "--json", str(out)),
            *("--metrics", "psnr,ssim,stlpips,csim,jitter,fd_stalex", "--device", "cpu"),
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("prediction  ") == 1  # one process prints
        found.append(json.loads(out.read_text()))
    one, two = found
    for name, score in one["scores"].items():
        other = two["scores"][name]
        assert other["value"] == pytest.approx(score["value"], rel=1e-6, abs=1e-9), name
        assert other["n"] == score["n"] > 0
        if score["interval_95"] is not None:
            assert other["interval_95"] == pytest.approx(score["interval_95"], rel=1e-6), name
    assert one["scores"]["csim"]["value"] > 0.5
    assert one["failures"] == two["failures"] and one["n_failures"] == 1
    assert one["per_clip"].keys() == two["per_clip"].keys()


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """Peak memory after 40 and after 400 frames of one clip: a file repeated by links."""
    from metrics.calc import calculate

    clips(tmp_path / "a", 1, 1, 128, 0)
    frame = tmp_path / "a" / "clip0" / "00000.png"
    peaks = []
    for n in (40, 400):
        for side in ("pred", "ref"):
            place = tmp_path / f"{side}{n}"
            place.mkdir()
            for i in range(n):
                os.link(frame, place / f"{i:05d}.png")
        result = calculate(tmp_path / f"pred{n}", tmp_path / f"ref{n}", ["psnr", "l1", "flicker"])
        assert result.n_pairs == n and result.mean("psnr") == 100.0
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # KiB on Linux
    # 400 frames of 128 px would take 20 MB as bytes and 79 MB as float32
    assert peaks[1] - peaks[0] < 8_000
