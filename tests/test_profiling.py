"""--profile: the run is the same run, and its folder says where time goes and what waits."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from training_support import assert_same_state, make_dataset, tiny, trainer

from running.profiling import STEPS, Waits
from training.checkpoints import train_state_path

OPTIONS = (f"train.total_images={4 * STEPS}", "train.eval_pairs=0", f"train.save_every={STEPS}")


def test_what_the_cpu_waits_for_is_found_with_its_line() -> None:
    x = torch.arange(4.0, requires_grad=True)
    with Waits() as waits:
        (x * 2).sum().backward()
        assert not waits.found
        float(x.detach().sum())
        x[x > 1]
    names = [name for name, _ in waits.found]
    assert names == ["aten::_local_scalar_dense", "aten::index"]
    assert all("tests/test_profiling.py:" in line for _, line in waits.found)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "heads")


def test_a_profiled_run_is_the_same_run(data: Path, tmp_path: Path) -> None:
    plain, profiled = tmp_path / "plain", tmp_path / "profiled"
    trainer(tiny(data, *OPTIONS), plain).run()
    run = trainer(tiny(data, *OPTIONS), profiled)
    run.profile = True
    run.run()
    assert_same_state(train_state_path(plain, STEPS), train_state_path(profiled, STEPS))
    text = (profiled / "profile" / f"step-{STEPS:09d}.txt").read_text()
    assert "aten::convolution" in text and "aten::copy_" in text
    # Adam's counters are on the CPU here, and nothing else is asked for in a step
    waits = [line for line in text.partition("Synchronisations")[2].splitlines()[1:] if line]
    assert waits and all("in apply_step" in line for line in waits), waits
    with gzip.open(profiled / "profile" / f"step-{STEPS:09d}.trace.json.gz") as file:
        assert json.load(file)["traceEvents"]
    assert not (plain / "profile").exists()


def test_a_run_that_is_too_short_says_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trainer(tiny(data, "train.total_images=4", "train.eval_pairs=0"), tmp_path / "run")
    run.profile = True
    run.run()
    assert f"needs {STEPS} steps, this start had 1" in capsys.readouterr().err
