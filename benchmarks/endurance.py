"""What a long run loses beside its steps: saves, waiting for data, memory that grows, a second process.

    python -m benchmarks.endurance --data HEADS --work FOLDER --json benchmarks/results/endurance.json

Each part is a training of its own in FOLDER, killed by nobody and read from what it tells: stats.jsonl, and the memory
of its process as the kernel counts it.

    saves     seconds that the steps stand still for a save, over the seconds of `save_every` steps; `--preset`
    data      share of the time that waits for data; the same run
    memory    what the process holds, mapped files not counted, at a fifth of `--memory-steps` and at the end; tiny
    scaling   pairs a second of two processes with one thread each over those of one with as many pairs a process;
              they take turns, and the best of each is compared, since other programs can only slow a run
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

import dnnlib
import dnnlib.cli
from benchmarks.measure import machine
from benchmarks.options import PRESET, json_option
from dnnlib.errors import UserError
from dnnlib.files import write_json
from dnnlib.params import InputPath, OutputFolder, Whole, Words
from training.config import Config

PARTS = ("saves", "memory", "scaling")
_ROOT = Path(__file__).resolve().parents[1]
_WARM = 2  # lines of statistics at the start that do not count
_MIB = 2**20


class Training:
    """One call of train.py, alone or under torchrun, and the memory of its process on the way."""

    def __init__(
        self, out: Path, preset: str, data: Path, values: Mapping[str, Any], processes: int = 1
    ) -> None:
        common = {
            "model.expression.mode": "lebs", "train.standardise_clebs": False,
            "train.eval_pairs": 0, "train.image_every": 10**9, "train.log_every": 1,
        }  # fmt: skip
        given = {**common, **values, "data.path": json.dumps(str(data))}
        sets = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
        words = ["train.py", "--preset", preset, "--out", str(out), "--device", "cpu", *sets]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        self.out, self.memory = out, dict[int, int]()  # step -> bytes
        self._command = [sys.executable, *(launcher if processes > 1 else []), *words]

    def run(self) -> list[dict[str, Any]]:
        """Lines of its statistics that tell of steps. Raises UserError when it fails."""
        log = self.out.with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "w", encoding="utf-8") as file:
            process = subprocess.Popen(
                self._command, cwd=_ROOT, stdout=file, stderr=file, env=_one_thread()
            )
        watch = threading.Thread(target=self._watch, args=(process,))
        watch.start()
        if process.wait():
            raise UserError(f"a training of the measurement failed; see {log}")
        watch.join()
        return list(self._lines())

    def _lines(self) -> Iterator[dict[str, Any]]:
        path = self.out / "stats.jsonl"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for line in text.splitlines(keepends=True):
            if line.endswith("\n") and "timing/seconds_per_step" in (found := json.loads(line)):
                yield found

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            if (steps := [line["step"] for line in self._lines()]) and (now := held(process.pid)):
                self.memory[steps[-1]] = now
            time.sleep(1.0)


def held(pid: int) -> int:
    """Bytes that a process holds itself; 0: it has ended.

    Without mapped files: the pages of the data that it has seen count as resident until somebody else wants memory.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def _one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def of_saves(lines: list[dict[str, Any]], save_every: int) -> dict[str, float]:
    """Seconds that the steps stand still a save, and their share of the time at an interval of `save_every` steps.

    What the thread that writes takes from the steps beside it shows in the steps after a save, which are longer.
    """
    seconds = [line["timing/seconds_per_step"] for line in lines]
    standing = [line.get("timing/saving", 0.0) * s for line, s in zip(lines, seconds, strict=True)]
    saves = [i for i, s in enumerate(standing) if s > 0.0]
    quiet = [
        s - x for i, (s, x) in enumerate(zip(seconds, standing, strict=True)) if i - 1 not in saves
    ]
    step = statistics.median(quiet)
    beside = [
        max(0.0, seconds[i + 1] - standing[i + 1] - step) for i in saves if i + 1 < len(seconds)
    ]
    cost = statistics.median(standing[i] for i in saves) + (
        statistics.median(beside) if beside else 0.0
    )
    return {
        "saves": len(saves), "seconds_standing": statistics.median(standing[i] for i in saves), "seconds_in_all": cost,
        "seconds_a_step": step, "save_every": save_every, "share": cost / (save_every * step + cost),
    }  # fmt: skip


def measure_saves(data: Path, work: Path, preset: str, steps: int) -> dict[str, Any]:
    """A run that saves more often than by default; what a save costs is set against the default interval."""
    default = dnnlib.load_config(Config, preset).train
    often = max(1, steps // 8)
    values = {
        "train.total_images": steps * default.batch_size,
        "train.save_every": often,
        "train.threads": 1,
    }
    lines = Training(work / "saves", preset, data, values).run()[_WARM:]
    waits = [line["timing/data_wait"] * line["timing/seconds_per_step"] for line in lines]
    total = sum(line["timing/seconds_per_step"] for line in lines)
    return {
        "preset": preset, "steps": len(lines), "workers": dnnlib.load_config(Config, preset).data.num_workers,
        **of_saves(lines[:-1], default.save_every),  # not the last one, which also ends the run
        "data_wait": sum(waits) / total,
    }  # fmt: skip


def measure_memory(data: Path, work: Path, steps: int) -> dict[str, Any]:
    """The tiny preset with saves, pictures and both phases: what it holds at a fifth and at the end."""
    values = {
        "train.total_images": 4 * steps, "train.save_every": 20, "train.image_every": 20, "model.resolution": 32,
    }  # fmt: skip
    training = Training(work / "memory", "tiny", data, values)
    training.run()
    early = max((s for s in training.memory if s <= steps // 5), default=min(training.memory))
    late = max(training.memory)
    grown = training.memory[late] - training.memory[early]
    return {
        "steps": [early, late], "mib": [round(training.memory[s] / _MIB, 1) for s in (early, late)],
        "grown_mib": round(grown / _MIB, 1), "grown_share": grown / training.memory[early],
    }  # fmt: skip


def measure_scaling(data: Path, work: Path, preset: str, steps: int, turns: int) -> dict[str, Any]:
    """The same number of pairs a process, one thread each, in one process and in two, by turns."""
    batch = 4  # a process
    rates: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(turns):
        for processes in (1, 2) if turn % 2 == 0 else (2, 1):
            values = {
                "train.batch_size": batch * processes, "train.total_images": batch * processes * steps,
                "train.threads": 1, "train.save_every": 10**9,
            }  # fmt: skip
            lines = Training(
                work / f"scaling-{turn}-{processes}", preset, data, values, processes
            ).run()[_WARM:]
            seconds = [line["timing/seconds_per_step"] for line in lines[:-1]]
            rates[processes].append(batch * processes / min(seconds))
    best = {n: max(found) for n, found in rates.items()}
    return {
        "preset": preset,
        "pairs_per_s": {str(n): r for n, r in rates.items()},
        "times": best[2] / best[1],
    }


def table(figures: Mapping[str, Any]) -> str:
    """The table of docs/training.md."""
    lines = ["| what | measured | from | load of the two cores |", "|---|---|---|---|"]

    def row(part: str, *cells: str) -> None:
        load = " to ".join(f"{value:g}" for value in figures[part]["load"])
        lines.append(f"| {' | '.join((*cells, load))} |")

    if "saves" in figures:
        f = figures["saves"]
        at = f"every {f['save_every']} steps of `{f['preset']}`"
        cost = f"{f['seconds_in_all']:.2f} s, {f['share']:.2%} of the time at {f['seconds_a_step']:.1f} s a step"
        row("saves", f"a save, {at}", cost, f"{f['saves']} saves")
        row(
            "saves", f"waiting for data, `{f['preset']}` with {f['workers']} loader processes", f"{f['data_wait']:.1%}",
            f"{f['steps']} steps",
        )  # fmt: skip
    if "memory" in figures:
        f = figures["memory"]
        early, late = f["mib"]
        row(
            "memory", "memory of the process, `tiny` with saves and pictures", f"{early:g} MiB, then {late:g} MiB",
            f"steps {f['steps'][0]} and {f['steps'][1]}",
        )  # fmt: skip
    if "scaling" in figures:
        f = figures["scaling"]
        row(
            "scaling", f"two processes against one, `{f['preset']}`, a thread each", f"{f['times']:.2f} times as fast",
            f"the best of {len(f['pairs_per_s']['1'])} runs",
        )  # fmt: skip
    return "\n".join(lines) + "\n"


@dnnlib.cli.command()
@click.option(
    "--data",
    required=True,
    type=InputPath("a dataset of dataset_tool.py"),
    help="Data of the preset's size.",
)
@click.option(
    "--work", required=True, type=OutputFolder("*"), help="Folder for the runs; should be new."
)
@click.option("--preset", default="demo", type=PRESET, help="Preset of saves and scaling.")
@click.option("--parts", default=",".join(PARTS), type=Words(PARTS), help="Which of them.")
@click.option("--steps", default=60, type=Whole(12, 100_000), help="Steps of the part saves.")
@click.option(
    "--memory-steps", default=500, type=Whole(10, 100_000), help="Steps of the part memory."
)
@click.option(
    "--scaling-steps",
    default=8,
    type=Whole(4, 100_000),
    help="Steps of each run of the part scaling.",
)
@click.option(
    "--turns", default=3, type=Whole(1, 100), help="How often one and two processes are measured."
)
@json_option
def main(
    data: Path, work: Path, preset: str, parts: tuple[str, ...], steps: int, memory_steps: int,
    scaling_steps: int, turns: int, json_path: Path | None,
) -> None:  # fmt: skip
    """Measure what saves, data and a second process cost, and whether memory stays flat."""
    figures: dict[str, Any] = {"machine": machine()}
    runs = {
        "saves": lambda: measure_saves(data, work, preset, steps),
        "memory": lambda: measure_memory(data, work, memory_steps),
        "scaling": lambda: measure_scaling(data, work, preset, scaling_steps, turns),
    }
    for part in parts:
        before = os.getloadavg()[0]
        # programs that wanted a core in the minute before and at the end: with others beside it a run is slower
        figures[part] = {**runs[part](), "load": [round(before, 1), round(os.getloadavg()[0], 1)]}
        click.echo(f"{part}: {json.dumps(figures[part])}")
    click.echo(table(figures))
    if json_path is not None:
        write_json(json_path, figures)


if __name__ == "__main__":
    main()
