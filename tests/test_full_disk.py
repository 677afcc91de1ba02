"""A disk that is full, where one may be mounted: training goes on, the state before stays, the next one is whole."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cluster_support import Job, arguments, record
from training_support import assert_same_state, make_dataset, tiny, trainer

from dnnlib import UserError
from torch_utils.train_state import (
    latest_train_state,
    load_train_state,
    train_state_path,
    train_states,
)

STEPS = 20
OPTIONS = (f"train.total_images={STEPS * 4}", "train.eval_pairs=0", "train.image_every=2")
# for the run, and for the 16 MB that a file wants beside itself before it is written
ROOM_KB = 49152
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "heads")


@pytest.fixture(scope="module")
def namespace() -> list[str]:
    words = ["unshare", "-rm"]
    try:
        tried = subprocess.run(
            [*words, "mount", "-t", "tmpfs", "tmpfs", "/tmp"], capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("needs unshare of util-linux")
    if tried.returncode:
        pytest.skip("needs a kernel on which a user may mount a tmpfs in a namespace of his own")
    return words


def on_small_disk(
    namespace: list[str], data: Path, tmp_path: Path, kilobytes: int, inodes: int, *fill: str
) -> Job:
    disk, keep = tmp_path / "disk", tmp_path / "keep"
    disk.mkdir()
    keep.mkdir()
    here = [
        sys.executable,
        "tests/small_disk.py",
        str(disk),
        str(kilobytes),
        str(inodes),
        str(keep),
        *fill,
    ]
    command = ["tests/faulty_train.py", *arguments(data, disk / "run", *OPTIONS)]
    return Job(
        [command], tmp_path / "logs", lambda _, words: [*namespace, *here, *words], FAULT="slow"
    )


def test_training_goes_on_and_the_save_is_made_up_for(
    namespace: list[str], data: Path, tmp_path: Path
) -> None:
    job = on_small_disk(namespace, data, tmp_path, ROOM_KB, 1000, "--fill", "12000")
    ended = job.wait()
    assert ended.codes == [0], ended.output
    told = [line for line in ended.output.splitlines() if "is not saved" in line]
    assert told and "free some space or choose another folder" in told[0]
    assert "Training goes on; the next try is after step" in told[0]
    full = json.loads((tmp_path / "keep" / "full.json").read_text())
    assert full["step"] < STEPS and not [name for name in full["names"] if ".tmp-" in name]
    run = tmp_path / "keep" / "disk" / "run"
    assert not [p.name for p in run.rglob("*.tmp-*")]
    whole = tmp_path / "whole"
    trainer(tiny(data, *OPTIONS), whole).run()
    assert_same_state(train_state_path(run, STEPS), train_state_path(whole, STEPS))
    message = told[0].replace(f"{tmp_path / 'disk' / 'run'}/", "")
    record("full disk (tmpfs)", 1, ended, message, "nothing; the state is saved later")


def test_a_disk_that_stays_full_ends_in_one_sentence_and_keeps_the_state_before(
    data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    trainer(tiny(data, *OPTIONS, "train.total_images=16"), out).run()
    good = latest_train_state(out)
    assert good == train_state_path(out, 4)
    before = good.read_bytes()
    with (
        at_most(10_000),
        pytest.raises(UserError, match=r"cannot write .*state-000000008.*File too large"),
    ):  # less than any network
        trainer(tiny(data, *OPTIONS, "train.total_images=32"), out).run()
    assert good.read_bytes() == before and train_states(out)[-1] == good
    assert load_train_state(good)[0]["step"] == 4
    assert not [p.name for p in out.rglob("*.tmp-*")]
    ended = json.loads((out / "record.json").read_text())["starts"][-1]["ended"]["how"]
    assert "File too large" in ended


class at_most:
    """While the block runs no file of this process may become larger than so many bytes."""

    def __init__(self, n_bytes: int) -> None:
        self._n_bytes = n_bytes

    def __enter__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._n_bytes, self._before[1]))

    def __exit__(self, *_: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


@pytest.mark.parametrize("n_bytes", [0, 1000])  # nothing; less than the configuration
def test_first_files_that_do_not_fit_are_one_sentence(
    data: Path, tmp_path: Path, n_bytes: int
) -> None:
    out = tmp_path / "run"
    with (
        at_most(n_bytes),
        pytest.raises(UserError, match=r"cannot write .*config.*ulimit -f"),
    ):
        trainer(tiny(data, *OPTIONS), out).run()
    assert not [p.name for p in out.rglob("*.tmp-*")]
    trainer(tiny(data, *OPTIONS, "train.total_images=8"), out).run()  # with room it begins anew
    assert latest_train_state(out) == train_state_path(out, 2)


@pytest.mark.parametrize("inodes", range(2, 8))
def test_a_disk_without_room_for_the_first_files_is_one_sentence(
    namespace: list[str], data: Path, tmp_path: Path, inodes: int
) -> None:
    # one for the disk itself; then run, .lock, config.yaml, record.json, stats.jsonl and events, one after the other
    ended = on_small_disk(namespace, data, tmp_path, ROOM_KB, inodes).wait()
    assert ended.codes == [1], ended.output
    lines = [line for line in ended.output.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and "Traceback" not in ended.output, ended.output
    assert str(tmp_path / "disk") in lines[0]
    if inodes == 3:
        record(
            "no room for the first files",
            1,
            ended,
            lines[0].replace(f"{tmp_path}/disk/", ""),
            "nothing was begun",
        )


def test_a_disk_that_is_too_small_is_refused_before_the_folder(
    namespace: list[str], data: Path, tmp_path: Path
) -> None:
    ended = on_small_disk(namespace, data, tmp_path, 1000, 1000).wait()
    assert ended.codes == [1] and "free some space or choose another folder" in ended.output
    assert not (tmp_path / "keep" / "disk" / "run").exists()
