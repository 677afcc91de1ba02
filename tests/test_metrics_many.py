"""The benchmark of 10,000 pairs: its pictures, how it goes on, and what it compares; no test asserts seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks import metrics as script
from benchmarks import metrics_many as many
from metrics.calc import Options, calculate
from metrics.result import ClipScores


def note(work: Path, processes: int, rank: int, clip: int, score: float, session: int = 1) -> None:
    """What a process writes about a clip."""
    row = {
        "session": session,
        "clip": many.clip_name(clip),
        "pairs": 100,
        "sums": dict.fromkeys(many.NAMES, 100 * score),
        "counts": dict.fromkeys(many.NAMES, 100),
        "failures": [],
        "seconds": {"reading": 1.0, **dict.fromkeys(many.NAMES, 2.0)},
        "wall_s": 10.0 * (clip + 1),
        "cpu_s": 9.0 * (clip + 1),
        "peak_mib": 700.0,
    }
    with open(work / f"scores-{processes}-{rank}.jsonl", "a") as file:
        file.write("\n" + json.dumps(row))


def test_pairs_are_distinct_and_the_same_every_time(tmp_path: Path) -> None:
    picture = many.portrait()
    frames = [
        np.asarray(many.frame(picture, clip, i, pred))
        for clip in (0, 1)
        for i in (0, 1, 50)
        for pred in (False, True)
    ]
    assert len({f.tobytes() for f in frames}) == len(frames)
    assert all(f.shape == (many.SIZE, many.SIZE, 3) for f in frames)
    assert np.array_equal(frames[1], np.asarray(many.frame(picture, 0, 0, True)))
    assert 2 < np.abs(frames[1].astype(float) - frames[0]).mean() < 40


def test_clips_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "FRAMES", 2)
    many.write_pairs(tmp_path, 2)
    files = sorted(tmp_path.rglob("*.jpg"))
    assert len(files) == 8 and not list(tmp_path.glob("*.part"))
    before = [f.stat().st_mtime_ns for f in files]
    files[0].unlink()
    many.write_pairs(tmp_path, 2)
    assert [f.stat().st_mtime_ns for f in files[1:]] == before[1:] and not files[0].exists()


def test_the_summary_finds_the_largest_difference(tmp_path: Path) -> None:
    for clip in range(4):
        note(tmp_path, 1, 0, clip, 0.5)
        note(tmp_path, 2, clip % 2, clip, 0.5 + 1e-5 * (clip == 2))
    found = many.summary(tmp_path, 4)
    assert found["largest_difference"] == pytest.approx(dict.fromkeys(many.NAMES, 1e-5))
    one, two = found["runs"]["1"], found["runs"]["2"]
    assert one["scores"]["psnr"] == 0.5 and one["sessions"] == 1
    assert one["pairs_per_s"] == pytest.approx(400 / 40) and one["cpu_s"] == 36
    assert one["seconds"] == {"reading": 4.0, **dict.fromkeys(many.NAMES, 8.0)}
    assert one["pairs_per_process_s"]["csim"] == 50
    assert one["peak_mib"][0]["pairs_and_mib"] == [[100 * i, 700.0] for i in (1, 2, 3, 4)]
    assert [p["rank"] for p in two["peak_mib"]] == [0, 1]
    assert two["pairs_per_s"] == pytest.approx(400 / 40)  # the slower process decides


def test_runs_are_compared_on_the_clips_of_both(tmp_path: Path) -> None:
    for clip in range(3):
        note(tmp_path, 2, clip % 2, clip, 0.5 + 0.1 * clip)
    note(tmp_path, 1, 0, 1, 0.6 + 1e-7)
    assert many.summary(tmp_path, 3)["largest_difference"] == pytest.approx(
        dict.fromkeys(many.NAMES, 1e-7)
    )
    assert many.summary(tmp_path, 3)["compared_pairs"] == 100


def test_a_run_that_was_interrupted_keeps_what_it_has(tmp_path: Path) -> None:
    note(tmp_path, 1, 0, 0, 0.5)
    note(tmp_path, 1, 0, 1, 0.5)
    with open(tmp_path / "scores-1-0.jsonl", "a") as file:
        file.write('\n{"session": 1, "clip": "cl')  # killed while it wrote
    assert [row["clip"] for row in many.lines(tmp_path, 1)] == ["clip000", "clip001"]
    assert many.summary(tmp_path, 3)["runs"]["1"]["pairs"] == 200  # of 300
    note(
        tmp_path, 1, 0, 1, 0.9, session=2
    )  # a process that outlived its run: the first word counts
    note(tmp_path, 1, 0, 2, 0.5, session=2)
    run = many.summary(tmp_path, 3)["runs"]["1"]
    assert run["sessions"] == 2 and run["scores"]["psnr"] == 0.5
    assert run["wall_s"] == 20 + 30


def test_a_difference_is_an_error_and_other_parts_of_the_file_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "write_pairs", lambda work, clips: None)
    for clip in range(2):
        note(tmp_path, 1, 0, clip, 0.5)
        note(tmp_path, 2, clip, clip, 0.5 + 2e-6)
    out = tmp_path / "m.json"
    out.write_text('{"pairs": 3}')
    words = ["many", "--clips", "2", "--work", str(tmp_path), "--json", str(out)]
    done = CliRunner().invoke(script.main, words)
    assert done.exit_code == 1 and "one process and two differ by 2e-06" in done.output
    found = json.loads(out.read_text())
    assert found["pairs"] == 3 and set(found["many"]["runs"]) == {"1", "2"}


def test_calculate_tells_every_clip_and_its_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for side in ("pred", "ref"):
        for clip in ("a", "b", "c"):
            (tmp_path / side / clip).mkdir(parents=True)
            image = Image.fromarray(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8))
            image.save(tmp_path / side / clip / "0.png")
    told: list[tuple[str, ClipScores]] = []
    options = Options(clips=["b", "c"], after_clip=lambda name, s: told.append((name, s)))
    result = calculate(tmp_path / "pred", tmp_path / "ref", ["psnr", "l1"], options)
    assert [name for name, _ in told] == ["b", "c"]
    for name, scores in told:
        assert scores.sums == result.clips[name].sums
        assert set(scores.seconds) == {"reading", "psnr", "l1"}
        assert all(s >= 0 for s in scores.seconds.values())
