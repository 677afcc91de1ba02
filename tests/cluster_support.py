"""Several processes of train.py as a cluster starts them, for the tests of what goes wrong there."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnnlib import write_json

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 240.0  # seconds until a test gives up; no statement about speed


def arguments(data: Path, out: Path, *overrides: str) -> list[str]:
    """Those of train.py that give the configuration of `training_support.tiny`."""
    base = ("model.expression.mode=lebs", "train.warmup_images=4")
    sets = [part for o in (*base, *overrides) for part in ("--set", o)]
    return ["--preset", "tiny", "--data", str(data), "--out", str(out), "--device", "cpu", *sets]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(rank: int = 0, world: int = 1, port: int = 0) -> dict[str, str]:
    """As srun (one task a process) or torchrun sets it."""
    common = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    common["EXPORT3D_LISTING_S"] = (
        "5"  # where folders differ for good, nobody waits a minute for it
    )
    common["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    if world == 1:
        return common
    return common | {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip


@dataclass
class Ended:
    """How the processes of one run ended."""

    codes: list[int]
    outputs: list[str]
    seconds: float

    @property
    def output(self) -> str:
        return "\n".join(self.outputs)


class Job:
    """Processes of one run; each has its own arguments, as nodes with different files have."""

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        logs: Path,
        place: Callable[[int, list[str]], list[str]] = lambda rank, words: words,  # where it runs
        **variables: str,
    ) -> None:
        port, world = free_port(), len(commands)
        logs.mkdir(parents=True, exist_ok=True)
        self.logs = [logs / f"rank{rank}.log" for rank in range(world)]
        self.processes = []
        self.begun = time.monotonic()
        for rank, (command, log) in enumerate(zip(commands, self.logs, strict=True)):
            with open(log, "w") as file:
                process = subprocess.Popen(
                    place(rank, [sys.executable, *command]), cwd=ROOT,
                    env=environment(rank, world, port) | variables, stdout=file, stderr=subprocess.STDOUT,
                    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background has it off
                )  # fmt: skip
            self.processes.append(process)

    def wait_for(self, path: Path, text: str) -> None:
        """Until `path` holds `text`."""
        while not (path.is_file() and text in path.read_text()):
            assert time.monotonic() < self.begun + TIMEOUT, self.ended_output()
            time.sleep(0.01)

    def ended_output(self) -> str:
        return "\n".join(log.read_text() for log in self.logs)

    def wait(self, since: float | None = None) -> Ended:
        """Until all have ended; `seconds` count from `since`, by default from the start."""
        try:
            codes = [p.wait(timeout=TIMEOUT) for p in self.processes]
        finally:
            for process in self.processes:
                if process.poll() is None:
                    process.kill()
        seconds = time.monotonic() - (since or self.begun)
        return Ended(codes, [log.read_text() for log in self.logs], seconds)


def run_job(commands: Sequence[Sequence[str]], logs: Path, **variables: str) -> Ended:
    return Job(commands, logs, **variables).wait()


def torchrun(processes: int, *options: str) -> list[str]:
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *options
    ]  # fmt: skip


def record(fault: str, processes: int, ended: Ended, message: str, lost: str) -> None:
    """For the table of docs/training.md."""
    if not (place := os.environ.get("EXPORT3D_FAULTS")):
        return
    path = Path(place)
    known = json.loads(path.read_text()) if path.is_file() else {}
    known[f"{fault}, {processes}"] = {
        "fault": fault, "processes": processes, "message": message, "exit_status": sorted(set(ended.codes)),
        "seconds": round(ended.seconds, 1), "lost": lost,
    }  # fmt: skip
    write_json(path, known)


def line_with(ended: Ended, text: str) -> str:
    lines = [line for line in ended.output.splitlines() if text in line]
    assert len(lines) == 1, ended.output  # told once, by one process
    return re.sub(r"/\S+/", "", lines[0]).replace(platform.node(), "host")


def faults_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """What tests/test_faults.py recorded, as the table of docs/training.md."""
    lines = [
        "| fault | processes | message | exit status | seconds from the signal | lost |",
        "|---|---|---|---|---|---|",
    ]
    for entry in found.values():
        signalled = entry["fault"].startswith("SIG")
        cells = (
            entry["fault"], entry["processes"], entry["message"].removeprefix("Error: ").replace("|", "/"),
            ", ".join(map(str, entry["exit_status"])), entry["seconds"] if signalled else "", entry["lost"],
        )  # fmt: skip
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def nodes_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """What tests/test_nodes.py recorded, as the table of docs/cluster.md."""
    lines = ["| event | end | exit status | seconds |", "|---|---|---|---|"]
    for event, entry in found.items():
        status = ", ".join(map(str, entry["exit_status"]))
        lines.append(f"| {event} | {entry['end']} | {status} | {entry['seconds']} |")
    return "\n".join(lines) + "\n"
