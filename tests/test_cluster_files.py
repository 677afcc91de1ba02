"""The files of docs/cluster: what a user copies runs, with srun and scontrol played by short scripts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster_support import ROOT, TIMEOUT, arguments, environment, faults_table, free_port
from training_support import assert_same_state, make_dataset, tiny, trainer

from training.checkpoints import latest_train_state, train_state_path

FILES = ROOT / "docs" / "cluster"
OPTIONS = ("train.total_images=32", "train.eval_pairs=0", "train.save_every=1000")
# as srun: each task with its number; the status is the highest
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
pids=()
for i in 0 1; do SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_NTASKS=2 "$@" & pids+=($!); done
echo "${pids[@]}" > "$PIDS"
status=0
for p in "${pids[@]}"; do wait "$p"; s=$?; [ $s -gt $status ] && status=$s; done
exit $status
"""
SCONTROL = '#!/bin/bash\necho "$@" >> "$CALLS"\n'


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "heads")


def test_shell_files_are_shell() -> None:
    files = [*FILES.glob("*.sh"), FILES / "train.sbatch"]
    assert len(files) == 3
    for path in files:
        subprocess.run(["bash", "-n", str(path)], check=True)
        assert os.access(path, os.X_OK), path


@pytest.mark.slow
def test_the_slurm_job_goes_back_into_the_queue_and_on(data: Path, tmp_path: Path) -> None:
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    calls, pids, out = tmp_path / "calls", tmp_path / "pids", tmp_path / "run"
    variables = {
        **environment(), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "CALLS": str(calls), "PIDS": str(pids),
        "SLURM_JOB_ID": "17", "SLURM_SUBMIT_DIR": str(ROOT), "MASTER_ADDR": "127.0.0.1",
        "PYTHON": sys.executable, "SCRIPT": "tests/faulty_train.py", "FAULT": "slow",
    }  # fmt: skip
    command = [str(FILES / "train.sbatch"), *arguments(data, out, *OPTIONS)]
    with open(tmp_path / "log", "w") as log:
        job = subprocess.Popen(
            command, cwd=ROOT, env=variables | {"MASTER_PORT": str(free_port())}, stdout=log, stderr=log
        )  # fmt: skip
    deadline = time.monotonic() + TIMEOUT
    while not (
        (out / "stats.jsonl").is_file() and '"step": 2' in (out / "stats.jsonl").read_text()
    ):
        assert time.monotonic() < deadline and job.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.02)
    for pid in pids.read_text().split():  # Slurm signals every process of the step
        os.kill(int(pid), signal.SIGUSR1)
    assert job.wait(timeout=TIMEOUT) == 75, (tmp_path / "log").read_text()
    assert calls.read_text() == "requeue 17\n"
    assert latest_train_state(out) is not None
    again = subprocess.run(
        command, cwd=ROOT, env=variables | {"MASTER_PORT": str(free_port())}, capture_output=True, text=True,
        timeout=TIMEOUT,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert train_state_path(out, 8).is_file() and calls.read_text() == "requeue 17\n"
    starts = json.loads((out / "record.json").read_text())["starts"]
    assert [s["ended"]["how"] for s in starts] == ["saved", "done"]


@pytest.mark.slow
def test_a_node_under_torchrun(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    variables = {
        **environment(), "NODES": "1", "PROCESSES": "1", "FIRST": f"127.0.0.1:{free_port()}", "RESTARTS": "0",
        "PYTHON": sys.executable,
    }  # fmt: skip
    done = subprocess.run(
        [str(FILES / "node.sh"), *arguments(data, out, *OPTIONS)], cwd=ROOT, env=variables, capture_output=True,
        text=True, timeout=TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    whole = tmp_path / "whole"
    trainer(tiny(data, *OPTIONS), whole).run()
    assert_same_state(train_state_path(out, 8), train_state_path(whole, 8))


def test_data_are_staged_once_and_anew_when_they_changed(data: Path, tmp_path: Path) -> None:
    def stage() -> Path:
        words = [str(FILES / "stage.sh"), str(source), str(tmp_path / "disk")]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return Path(done.stdout.strip())

    source = tmp_path / "heads"
    make_dataset(source)
    place = stage()
    assert place == tmp_path / "disk" / "heads"
    assert (place / "frames.npy").read_bytes() == (source / "frames.npy").read_bytes()
    (place / "mark").touch()
    assert (stage() / "mark").exists()  # not copied again
    text = (source / "dataset.json").read_text()
    (source / "dataset.json").write_text(text.replace("painted", "cropped"))
    assert "cropped" in (stage() / "dataset.json").read_text()


def test_the_table_of_faults_is_the_recorded_one() -> None:
    recorded = json.loads((ROOT / "benchmarks" / "results" / "faults.json").read_text())
    assert faults_table(recorded) in (ROOT / "docs" / "training.md").read_text()
