"""Processes that would train different things refuse before the first step, and name the host."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from cluster_support import arguments, run_job
from training_support import finished_run, make_dataset, tiny, trainer

from dataset.frames import fingerprint
from dataset.reader import open_dataset
from dnnlib import UserError
from running import states
from training.checkpoints import train_state_path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "heads")


@pytest.mark.parametrize("what", ["learning rate", "data", "run directory"])
def test_ranks_that_disagree_refuse(data: Path, tmp_path: Path, what: str) -> None:
    first = second = tmp_path / "run"
    changes: list[str] = []
    other = data
    if what == "learning rate":
        changes, key = ["train.lr=1e-3"], r"train\.lr=0\.001 but rank 0 on \S+ has 0\.0002"
    elif what == "data":
        other, key = make_dataset(tmp_path / "other", frames=5), "the data's fingerprint="
    else:  # each node has its own disk, and the nodes stopped at different steps
        second = tmp_path / "own"
        trainer(tiny(data, "train.total_images=16"), first).run()
        shutil.copytree(first, second)
        train_state_path(second, 4).unlink()
        key = r"the newest state=state-000000002\.safetensors but rank 0"
    before = sorted(p.name for p in tmp_path.rglob("state-*"))
    commands = [
        ["train.py", *arguments(data, first)],
        ["train.py", *arguments(other, second, *changes)],
    ]
    ended = run_job(commands, tmp_path / "logs")
    assert ended.codes == [1, 1], ended.output
    assert len(re.findall(rf"rank 1 on \S+ has {key}", ended.output)) == 1, ended.output
    assert "Traceback" not in ended.output
    assert sorted(p.name for p in tmp_path.rglob("state-*")) == before  # no step was taken


def test_a_copy_of_the_data_is_the_same_data(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "local")
    assert fingerprint(open_dataset(tmp_path / "local")) == fingerprint(open_dataset(data))
    other = make_dataset(tmp_path / "other", frames=7)
    assert fingerprint(open_dataset(other)) != fingerprint(open_dataset(data))


def test_a_listing_that_is_behind_is_waited_for(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = finished_run(data, tmp_path / "run")
    behind = iter(["state-000000002.safetensors", None, "state-000000004.safetensors"])

    def gather(own: dict[str, Any]) -> list[dict[str, Any]]:
        return [own, {**own, "newest": next(behind)}] if "newest" in own else [own]

    monkeypatch.setattr(states, "_LOOK_S", 0.01)
    monkeypatch.setattr(states.distributed, "gather_json", gather)
    found = states.find_state(out)
    assert found is not None and found.path == train_state_path(out, 4)
    assert next(behind, "all seen") == "all seen"
    monkeypatch.setattr(states, "LISTING_S", 0.05)  # never the same: the others refuse by name
    monkeypatch.setattr(
        states.distributed, "gather_json", lambda own: [own, {**own, "newest": None}]
    )
    assert states._listed_alike(out)[-1] == train_state_path(out, 4)
    assert "waiting up to" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_patience_that_is_no_number_of_seconds_is_refused(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("EXPORT3D_LISTING_S", text)
    with pytest.raises(UserError, match="EXPORT3D_LISTING_S"):
        states._patience_s()
    monkeypatch.setenv("EXPORT3D_LISTING_S", "2.5")
    assert states._patience_s() == 2.5
