"""What goes wrong in a long run, put into it on purpose, in one process and in two: message, exit status, what is lost.

With EXPORT3D_FAULTS=FILE the findings are written there as JSON, one entry a fault; docs/training.md shows them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from cluster_support import Job, arguments, line_with, record, run_job, torchrun
from training_support import assert_same_state, make_dataset, tiny, trainer

from dataset.reader import open_dataset
from dataset.samplers import PairSampler
from dnnlib import UserError
from training.checkpoints import latest_train_state, train_state_path

STEPS = 8
OPTIONS = (f"train.total_images={STEPS * 4}", "train.eval_pairs=0", "train.save_every=2")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "heads")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    trainer(tiny(data, *OPTIONS), out).run()
    return out


def job(data: Path, out: Path, n: int, fault: str, *overrides: str) -> Job:
    command = ["tests/faulty_train.py", *arguments(data, out, *OPTIONS, *overrides)]
    return Job([command] * n, out.parent / "logs", FAULT=fault)


def statistics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("where", ["pictures", "beta", "discriminator"])
def test_a_step_that_is_not_finite(data: Path, tmp_path: Path, where: str, processes: int) -> None:
    out = tmp_path / "run"
    ended = job(data, out, processes, f"{where}:3").wait()
    assert set(ended.codes) == {0}, ended.output
    told = line_with(ended, "is left out")
    (line,) = (out / "skipped.jsonl").read_text().splitlines()
    assert [part["rank"] for part in json.loads(line)["batch"]] == list(range(processes))
    assert latest_train_state(out) == train_state_path(out, STEPS)
    record(f"NaN in {where}", processes, ended, told, "the step")


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_once_and_ends_with_75(
    data: Path, tmp_path: Path, whole: Path, number: signal.Signals, processes: int
) -> None:
    out = tmp_path / "run"
    running = job(data, out, processes, "slow", "train.save_every=1000")
    running.wait_for(out / "stats.jsonl", '"step": 2')
    since = time.monotonic()
    running.processes[-1].send_signal(number)  # to one of them: the others hear of it in the step
    ended = running.wait(since)
    assert set(ended.codes) == {75}, ended.output
    told = line_with(ended, "which is saved; the same command goes on")
    assert "Traceback" not in ended.output
    newest = latest_train_state(out)
    assert newest is not None and newest != train_state_path(out, STEPS)
    record(number.name, processes, ended, told, "nothing")
    if processes == 1:  # two sum in another order
        trainer(tiny(data, *OPTIONS), out).run()
        assert_same_state(train_state_path(out, STEPS), train_state_path(whole, STEPS))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_defect_in_a_worker(data: Path, tmp_path: Path, processes: int) -> None:
    out = tmp_path / "run"
    ended = job(data, out, processes, "worker-raises:5", "data.num_workers=1").wait()
    assert set(ended.codes) == {1}, ended.output
    assert "a defect in a worker" in ended.output
    if processes == 2:
        assert re.search(r"\[rank 1, \S+\] RuntimeError", ended.outputs[1])
        assert "Traceback" not in ended.outputs[0]
    record("exception in a worker", processes, ended, "`RuntimeError: a defect in a worker`, with its traceback",
           "steps since the last state")  # fmt: skip


@pytest.mark.parametrize("processes", [1, 2])
def test_a_worker_that_hangs(data: Path, tmp_path: Path, processes: int) -> None:
    out = tmp_path / "run"
    options = ("data.num_workers=1", "train.hang_limit_s=8")
    ended = job(data, out, processes, "worker-hangs:5", *options).wait()
    assert set(ended.codes) == {1}, ended.output
    told = line_with(ended, "no progress for")
    assert f"[rank {processes - 1}, " in told and "waiting for data" in told
    record("worker hangs", processes, ended, told, "steps since the last state")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk(data: Path, tmp_path: Path, processes: int) -> None:
    out = tmp_path / "run"
    ended = job(data, out, processes, "full-disk:4").wait()
    assert set(ended.codes) == {0}, ended.output
    told = line_with(ended, "Training goes on")
    assert latest_train_state(out) == train_state_path(out, STEPS)
    record("full disk", processes, ended, told, "nothing; the state is saved later")


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("what", ["truncated", "deleted"])
def test_a_shard(data: Path, tmp_path: Path, what: str, processes: int) -> None:
    own = make_dataset(tmp_path / "heads")
    shard = own / "shards" / "00000.zip"
    if what == "deleted":
        shard.unlink()
    else:
        os.truncate(shard, 1000)
    out = tmp_path / "run"
    ended = job(own, out, processes, "slow", "data.num_workers=1").wait()
    assert set(ended.codes) == {1}, ended.output
    assert "Traceback" not in ended.output
    told = line_with(ended, "restore the file")
    assert processes == 1 or re.search(r"\[rank \d, \S+\] ", told)
    record(f"shard {what}", processes, ended, told, "steps since the last state")


def test_one_unreadable_frame_is_replaced_counted_and_named(data: Path, tmp_path: Path) -> None:
    own = make_dataset(tmp_path / "heads")
    heads = open_dataset(own)
    frame = int(PairSampler(heads, "train", 0, 4).batch(0).driving[0])
    row = heads.row(frame)
    at, size = int(row["image_offset"]), int(row["image_size"])
    with open(own / "shards" / "00000.zip", "r+b") as file:
        file.seek(at)
        file.write(bytes(size))
    out = tmp_path / "run"
    ended = job(own, out, 1, "slow").wait()
    assert ended.codes == [0], ended.output
    told = line_with(ended, "takes its place")
    assert f"frame {frame} (" in told
    record("one unreadable frame", 1, ended, told, "nothing")
    with pytest.raises(UserError, match=r"more than data\.unreadable_limit=0"):
        trainer(tiny(own, *OPTIONS, "data.unreadable_limit=0"), tmp_path / "strict").run()


def test_a_rank_that_is_killed(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    running = job(data, out, 2, "slow")
    running.wait_for(out / "stats.jsonl", '"step": 3')
    since = time.monotonic()
    running.processes[1].kill()
    ended = running.wait(since)
    assert ended.codes == [1, -signal.SIGKILL], ended.output
    told = line_with(ended, "another process of the run is gone")
    assert re.search(r"\[rank 0, \S+\]", told) and "Traceback" not in ended.output
    record("SIGKILL of a process", 2, ended, told, "steps since the last state")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1, signal.SIGTERM])
def test_a_launcher_that_ends_leaves_no_process_behind(
    data: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    words = [
        *torchrun(2)[1:],
        "tests/faulty_train.py",
        *arguments(data, out, *OPTIONS, "train.save_every=1000"),
    ]
    running = Job([words], tmp_path / "logs", FAULT="slow")
    running.wait_for(out / "stats.jsonl", '"step": 2')
    since = time.monotonic()
    running.processes[0].send_signal(number)
    running.wait_for(running.logs[0], "which is saved")  # the launcher may be gone before
    ended = running.wait(since)
    assert json.loads((out / "record.json").read_text())["starts"][0]["ended"]["how"] == "saved"
    assert latest_train_state(out) is not None
    assert ended.output.count("which is saved; the same command goes on") == 1
    record(f"{number.name} to torchrun", 2, ended, line_with(ended, "which is saved"), "nothing")


@pytest.mark.parametrize("where", ["truncated", "tensor", "header"])
def test_a_damaged_state_falls_back_to_the_one_before(
    data: Path, tmp_path: Path, whole: Path, where: str
) -> None:
    out = tmp_path / "run"
    trainer(tiny(data, *OPTIONS, "train.total_images=24"), out).run()
    path = train_state_path(out, 6)
    content = bytearray(path.read_bytes())
    if where == "truncated":
        content = content[: len(content) // 2]
    elif where == "tensor":
        content[-7] ^= 0x10
    else:  # a number that the tensors do not hold: the step itself, in "step": 6
        at = content.index(b'\\"step\\": 6')
        content[at + len(b'\\"step\\": ')] ^= 0x01
    path.write_bytes(content)
    ended = run_job([["train.py", *arguments(data, out, *OPTIONS)]], tmp_path / "logs")
    assert ended.codes == [0], ended.output
    told = line_with(ended, "going on from state-000000004.safetensors")
    assert_same_state(train_state_path(out, STEPS), train_state_path(whole, STEPS))
    assert path.with_suffix(".damaged").is_file()
    record(f"newest state damaged ({where})", 1, ended, told, "steps since the state before")
