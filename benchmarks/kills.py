"""A training killed again and again against one that was left alone: the same bits at the end, and no folder lost.

    python -m benchmarks.kills --data HEADS --work FOLDER --json benchmarks/results/kills.json

Each start of train.py ends by SIGKILL: at a random time since its beginning, or at the moment when a file of a state
lies half-written in the folder. The same command then goes on. A run that ends before is compared and begun anew.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch

import dnnlib.cli
from benchmarks.measure import machine
from benchmarks.options import PRESET, json_option
from dataset.reader import open_dataset
from dnnlib.config import load_config
from dnnlib.errors import UserError
from dnnlib.files import write_json
from dnnlib.params import InputPath, OutputFolder, Whole
from torch_utils.train_state import load_train_state, train_state_path, train_states
from training.config import Config

_ROOT = Path(__file__).resolve().parents[1]
_GIVE_UP_S = 600.0


def command(data: Path, out: Path, preset: str, steps: int, batch: int) -> list[str]:
    """train.py with a state after every step."""
    values = {
        "model.expression.mode": "lebs",
        "train.batch_size": batch,
        "train.total_images": steps * batch,
        "train.save_every": 1,
        "train.eval_pairs": 0,
        "train.image_every": 10**6,
    }
    sets = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    words = ["--preset", preset, "--data", str(data), "--out", str(out), "--device", "cpu", *sets]
    return [sys.executable, "train.py", *words]


def run(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    with open(log, "ab") as file:
        return subprocess.Popen(words, cwd=_ROOT, stdout=file, stderr=file, start_new_session=True)


def killed_at_random(words: list[str], out: Path, longest_s: float, choice: random.Random) -> bool:
    """One start that is killed after a while; False when it ended before."""
    process = run(words, out.with_suffix(".log"))
    try:
        process.wait(timeout=choice.uniform(0, longest_s))
    except subprocess.TimeoutExpired:
        return _kill(process)
    return False


def killed_in_writing(words: list[str], out: Path, choice: random.Random) -> bool:
    """One start that is killed while a state is being written, after a few that were not."""
    process = run(words, out.with_suffix(".log"))
    skip, before = choice.randrange(3), set(_unfinished(out))
    give_up = time.monotonic() + _GIVE_UP_S
    seen = set(before)
    while process.poll() is None:
        if time.monotonic() > give_up:
            _kill(process)
            raise UserError(f"no state of {out} is being written; see {out.with_suffix('.log')}")
        if new := set(_unfinished(out)) - seen:
            seen |= new
            if len(seen - before) > skip:
                return _kill(process)
    return False


def _unfinished(out: Path) -> list[str]:
    return [p.name for p in out.glob(".state-*.tmp-*")] if out.is_dir() else []


def _kill(process: subprocess.Popen[bytes]) -> bool:
    os.kill(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def differing(a: Path, b: Path) -> list[str]:
    """Names of what is not the same, to the bit, in two states."""
    one, other = (dict(_leaves(load_train_state(path)[0], "")) for path in (a, b))
    return sorted(
        {name for name in one.keys() & other.keys() if not _same(one[name], other[name])}
        | (one.keys() ^ other.keys())
    )


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{path}.{number}")
    else:
        yield path, value


def finish(words: list[str], out: Path) -> None:
    """Let the run come to its end. Raises UserError when it does not."""
    done = subprocess.run(words, cwd=_ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{out} does not go on: {done.stderr.strip().splitlines()[-1:]}")


def compare(out: Path, whole: Path, steps: int) -> dict[str, Any]:
    """A finished run against the one that was left alone."""
    logged = [json.loads(x)["step"] for x in (out / "stats.jsonl").read_text().splitlines()]
    return {
        "differing": differing(train_state_path(out, steps), train_state_path(whole, steps)),
        "every_step_logged_once": logged == list(range(1, steps + 1)),
        "damaged_states": len(list(out.glob("*.damaged"))),
    }


def measure(
    data: Path, work: Path, preset: str, steps: int, batch: int, at_random: int, in_writing: int, seed: int
) -> dict[str, Any]:  # fmt: skip
    """Kill and compare."""
    choice = random.Random(seed)
    whole = work / "whole"
    begun = time.monotonic()
    finish(command(data, whole, preset, steps, batch), whole)
    alone_s = longest_s = time.monotonic() - begun
    kinds = ["random"] * at_random + ["writing"] * in_writing
    choice.shuffle(kinds)
    runs: list[dict[str, Any]] = []
    kills: list[dict[str, Any]] = []
    out = work / f"killed{len(runs)}"
    while kinds:
        words, since = command(data, out, preset, steps, batch), time.monotonic()
        killed = (
            killed_at_random(words, out, longest_s, choice)
            if kinds[0] == "random"
            else killed_in_writing(words, out, choice)
        )
        if killed:
            newest = train_states(out)[-1:] if out.is_dir() else []
            step = int(newest[0].stem.rpartition("-")[2]) if newest else 0
            kind = kinds.pop(0)
            kills.append({"kind": kind, "step": step, "unfinished_files": len(_unfinished(out))})
            click.echo(f"{len(kills):3d}  {kind:8} newest state: step {step}")
        else:  # the machine is less busy than it was
            longest_s = min(longest_s, time.monotonic() - since)
        if not killed or not kinds:
            finish(words, out)
            runs.append(compare(out, whole, steps))
            out = work / f"killed{len(runs)}"
    return {
        "preset": preset,
        "steps": steps,
        "seconds_alone": round(alone_s, 1),
        "kills": kills,
        "runs": runs,
        "identical": all(not r["differing"] and r["every_step_logged_once"] for r in runs),
    }


@dnnlib.cli.command()
@click.option("--data", required=True, type=InputPath("a dataset"), help="What is trained on.")
@click.option("--work", required=True, type=OutputFolder(), help="Folder for the runs.")
@click.option("--preset", default="tiny", type=PRESET, help="Preset of the runs.")
@click.option("--steps", default=40, type=Whole(2, 100_000), help="Of a run.")
@click.option("--batch", default=4, type=Whole(1, 1024), help="Pairs a step.")
@click.option("--random", "at_random", default=20, type=Whole(0, 10_000), help="Kills at any time.")
@click.option(
    "--writing", default=10, type=Whole(0, 10_000), help="Kills while a state is written."
)
@click.option("--seed", default=0, type=Whole(0, 2**31), help="Of the times.")
@json_option
def main(
    data: Path,
    work: Path,
    preset: str,
    steps: int,
    batch: int,
    at_random: int,
    writing: int,
    seed: int,
    json_path: Path | None,
) -> None:
    """Kill trainings and compare them with one that was left alone."""
    load_config(Config, preset)
    open_dataset(data)  # before a folder is made
    work.mkdir(parents=True, exist_ok=True)
    found = measure(data, work, preset, steps, batch, at_random, writing, seed)
    click.echo(f"{len(found['kills'])} kills, identical: {found['identical']}")
    if json_path is not None:
        write_json(json_path, {"machine": machine(), **found})
    if not found["identical"]:
        raise UserError(f"a run that was killed differs: {found['runs']}")


if __name__ == "__main__":
    main()
