"""--tune: what is chosen, that it fits, and that nothing of a run is touched."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Collection
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import Cli
from training_support import finished_run, make_dataset, tiny

import pretrain
import train
from dnnlib import UserError
from training.config import Config
from training.trainer import Trainer
from tuning import tuner
from tuning.trial import Measured, try_out
from tuning.tuner import HALF_PAYS, Setting, Trial, Tuning

CPU = torch.device("cpu")
FEW = 10**6  # bytes; less than the weights of any network with what belongs to them


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "heads")


def trial(rate: float, precision: str = "fp32", accumulate: int = 1, workers: int = 0) -> Trial:
    found = Measured(1.0 / rate, 10**9) if rate else None
    return Trial(Setting(precision, accumulate, workers=workers), 1, found)


# ---- the choice --------------------------------------------------------------------------------------------------


def test_the_fastest_that_fits_is_chosen() -> None:
    chosen = tuner.faster([trial(0), trial(3, accumulate=2), trial(4, accumulate=4)])
    assert chosen is not None and chosen.setting.accumulate == 4
    assert tuner.faster([trial(0), trial(0, "bf16")]) is None


def test_half_precision_has_to_pay() -> None:
    for rate, expected in ((HALF_PAYS - 0.01, "fp32"), (HALF_PAYS + 0.01, "bf16")):
        chosen = tuner.faster([trial(1.0), trial(rate, "bf16")])
        assert chosen is not None and chosen.setting.precision == expected
    chosen = tuner.faster([trial(0), trial(1.0, "bf16")])
    assert chosen is not None and chosen.setting.precision == "bf16"  # only it fits


def test_further_loader_processes_have_to_pay() -> None:
    rates = [(0, 1.0), (1, 2.0), (2, 2.02), (4, 1.9)]
    chosen = tuner.fewest_workers([trial(rate, workers=n) for n, rate in rates])
    assert chosen.setting.workers == 1


@pytest.mark.parametrize(
    "words", ["--tune --a b", "--a b --tune", "--tune 8 --a b", "--a --tune=8 b"]
)
def test_the_command_is_the_given_one_without_tune(words: str) -> None:
    found = tuner.command(["python", "train.py", *words.split()], ["x=1", "y=a b"])
    assert found == "python train.py --a b --set x=1 --set 'y=a b'"


# ---- on a training -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train.py", "pretrain.py"])
def test_the_printed_command_is_a_run_of_the_same_batch(
    data: Path, tmp_path: Path, cli: Cli, script: str
) -> None:
    out = tmp_path / "run"
    words = [
        "--preset",
        "tiny",
        "--data",
        data,
        "--out",
        out,
        "--device",
        "cpu",
        "--set",
        "model.expression.mode=lebs",
    ]
    done = cli(script, *words, "--tune", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    batch = "train.batch_size=4" if script == "train.py" else "pretrain.videos_per_batch=2"
    assert lines[0].startswith(f"{batch} in all, {batch[-1]}"[:-1])
    assert not list(tmp_path.iterdir())
    printed = shlex.split(lines[-1])
    assert printed[0] == "python" and "--tune" not in printed
    chosen = dict(word.split("=") for word in printed if "=" in word)
    section = script.removesuffix(".py")
    assert {f"{section}.precision", "data.num_workers"} <= set(chosen)
    assert "train.batch_size" not in chosen and "pretrain.videos_per_batch" not in chosen
    again = cli(script, *printed[2:], "--dry-run")
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_passes_are_made_smaller_until_they_fit(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tuner, "quick_half", lambda device: "")
    monkeypatch.setattr(Tuning, "_with_workers", lambda self, setting: [setting])
    config = tiny(data, "train.batch_size=256", "train.total_images=51200")
    # a pass of 256 pairs of this preset takes 440 MB, one of 128 takes 280
    tuned = Tuning(train.make, config, "train", tmp_path / "run", CPU, 1, int(350e6 / 0.8))
    setting = tuned.run().setting
    assert setting.accumulate > 1 and not setting.checkpointing
    rows = capsys.readouterr().out.splitlines()[2:]
    assert "does not fit" in rows[0] and "does not fit" not in rows[-2]
    assert f"train.accumulate={setting.accumulate}" in tuned.overrides(setting)


@pytest.mark.slow
def test_what_fits_nowhere_is_one_sentence(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuner, "quick_half", lambda device: "")
    with pytest.raises(UserError, match="a single sample does not fit into the memory"):
        Tuning(train.make, tiny(data), "train", tmp_path / "run", CPU, 1, FEW).run()
    config = tiny(data, "pretrain.videos_per_batch=2")
    with pytest.raises(UserError, match=r"videos_per_batch=2 in all, .* does not fit"):
        Tuning(pretrain.make, config, "pretrain", tmp_path / "run", CPU, 1, FEW).run()


def make_defective(
    config: Config, out: Path, device: torch.device, allowed: Collection[str] = ()
) -> Trainer:
    raise ValueError("a defect")


def make_refused(
    config: Config, out: Path, device: torch.device, allowed: Collection[str] = ()
) -> Trainer:
    raise UserError("the data do not fit")


def make_killed(
    config: Config, out: Path, device: torch.device, allowed: Collection[str] = ()
) -> Trainer:
    os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory ends
    raise AssertionError


def test_a_trial_that_fails_is_not_taken_for_one_that_does_not_fit(
    data: Path, tmp_path: Path
) -> None:
    def end(make: tuner.Make) -> Measured | None:
        return try_out(make, tiny(data), "train", tmp_path, CPU, None)

    assert end(make_killed) is None
    with pytest.raises(RuntimeError, match=r"make_defective[\s\S]*ValueError: a defect"):
        end(make_defective)
    with pytest.raises(UserError, match="the data do not fit"):
        end(make_refused)


# ---- refusals ----------------------------------------------------------------------------------------------------


def test_a_run_that_has_begun_is_refused(data: Path, tmp_path: Path) -> None:
    out = finished_run(data, tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    with pytest.raises(UserError, match=r"has begun \(state-000000004"):
        Tuning(train.make, tiny(data), "train", out, CPU, 1)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_what_does_not_go_with_tune_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "--preset",
        "tiny",
        "--data",
        str(data),
        "--out",
        str(tmp_path / "run"),
        "--device",
        "cpu",
    ]

    def refusal(*more: str) -> str:
        done = CliRunner().invoke(train.main, [*words, *more])
        assert done.exit_code == 1, done.output
        return done.output

    assert "--profile has no effect with --tune 1" in refusal("--tune", "--profile")
    assert "--dry-run has no effect with --tune 2" in refusal("--tune", "2", "--dry-run")
    assert "train.batch_size=4 is not divisible by 3 processes" in refusal("--tune", "3")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "start it without torchrun" in refusal("--tune")
