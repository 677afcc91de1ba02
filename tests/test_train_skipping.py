"""Steps that are not finite change nothing; too many of them end the run."""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path
from typing import Any

import pytest
import torch
from training_support import (
    leaves,
    make_dataset,
    run_directory_numbers,
    tiny,
    trainer,
)

from dataset.reader import open_dataset
from dnnlib import UserError
from running.history import SpikeWatch
from training import objectives
from training.checkpoints import (
    load_checkpoint,
    train_state_path,
)
from training.keys import KEY_RULES
from training.trainer import Trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "heads")


def poison(
    run: Trainer, monkeypatch: pytest.MonkeyPatch, where: str, steps: Container[int]
) -> None:
    """NaN in the pictures, in beta, in the gradient of the discriminator or in T_EMA, in some of the steps."""
    if where in ("driving", "beta"):
        true_step = run.train_step

        def spoiled(batch: Any) -> dict[str, float]:
            if run.step in steps:
                batch = {**batch, where: batch[where] * torch.nan}
            return true_step(batch)

        monkeypatch.setattr(run, "train_step", spoiled)
    elif where == "discriminator":
        assert run.discriminator is not None

        def spoil(gradient: torch.Tensor) -> torch.Tensor:
            return gradient * torch.nan if run.step in steps else gradient

        next(run.discriminator.parameters()).register_hook(spoil)
    else:
        true_pass = objectives.generator_pass

        def spoiled_pass(*args: Any) -> objectives.GeneratorPass:
            done = true_pass(*args)
            bad = done.mean_residual * torch.nan
            return done._replace(mean_residual=bad) if run.step in steps else done

        run._generate = spoiled_pass


@pytest.mark.parametrize("where", ["driving", "beta", "discriminator", "plane mean"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    out = tmp_path / "run"
    run = trainer(tiny(data, "train.total_images=20", "train.warmup_images=0"), out)
    poison(run, monkeypatch, where, {2})
    before: dict[str, torch.Tensor] = {}
    true_leaves_out = run.leaves_out

    def watched(values: Any, batch: Any) -> bool:
        states = {"model": run.model.state_dict(), "average": run.average.state_dict()}
        before.update({k: v.clone() for k, v in leaves(states) if isinstance(v, torch.Tensor)})
        left_out = true_leaves_out(values, batch)
        assert left_out == (run.step == 2)
        return left_out

    monkeypatch.setattr(run, "leaves_out", watched)
    run.run()
    assert run.step == 5 and run.history.skipped == 1 and run.history.skipped_in_a_row == 0
    (line,) = (out / "skipped.jsonl").read_text().splitlines()
    told = json.loads(line)
    assert told["step"] == 2 and len(told["batch"][0]["frames"]) == 4
    assert all(clip.startswith("person") for clip in told["batch"][0]["clips"])
    for tensors in (load_checkpoint(out / "network-latest.safetensors").state,):
        assert all(torch.isfinite(v).all() for v in tensors.values())
    assert [x["step"] for x in run_directory_numbers(out) if x.get("total")] == [1, 2, 4, 5]


def test_too_many_such_steps_in_a_row_stop_the_run_and_it_goes_on_with_another_rate(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    run = trainer(tiny(data, "train.skip_limit=2"), out)
    poison(run, monkeypatch, "driving", range(2, 100))
    with pytest.raises(UserError, match=r"at step 3, the 2\. step in a row; state-000000002.*lr="):
        run.run()
    assert train_state_path(out, 2).is_file() and not train_state_path(out, 4).exists()
    # the step that failed changed nothing
    assert all(torch.isfinite(v).all() for v in run.model.state_dict().values())
    changed = tiny(data, "train.lr=1e-4", "train.total_images=16")
    with pytest.raises(UserError, match=r"--allow-change train\.lr=0\.0001"):
        trainer(changed, out)
    again = Trainer(changed, open_dataset(data), out, torch.device("cpu"), allowed=["train.lr"])
    again.run()
    assert again.step == 4
    starts = json.loads((out / "record.json").read_text())["starts"]
    assert {"key": "train.lr", "was": 2e-4, "is": 1e-4} in starts[-1]["changes"]
    trainer(changed, out)  # from now on this is the run's configuration


def test_only_what_leaves_the_state_fitting_may_change() -> None:
    assert KEY_RULES.check_changeable("train.lr") == "train.lr"
    for key in ("train.batch_size", "model.resolution", "pretrain.seed"):
        with pytest.raises(UserError, match="for good"):
            KEY_RULES.check_changeable(key)


def test_a_leap_of_the_loss_is_told() -> None:
    watch = SpikeWatch()
    assert [watch(1.0 + 0.1 * (i % 3)) for i in range(40)] == [None] * 40
    assert "leaps to 9" in str(watch(9.0))
    assert watch(1.0) is None
