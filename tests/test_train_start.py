"""train.py before the first step: what it refuses, and the weights that it starts from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from training_support import (
    TOY,
    finished_run,
    make_dataset,
    tiny,
    trainer,
)

import train as train_script
from dataset.reader import open_dataset
from dnnlib import UserError, load_config
from training import objectives
from training.checkpoints import (
    load_checkpoint,
    save_checkpoint,
)
from training.config import Config
from training.expression.clebs import ExpressionEncoder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "heads")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(data, tmp_path_factory.mktemp("finished") / "run")


# ---- the command line and its refusals ---------------------------------------------------------------------------


def test_dry_run_checks_everything_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    arguments = [
        "--preset",
        "tiny",
        "--data",
        str(data),
        "--out",
        str(tmp_path / "run"),
        "--dry-run",
    ]
    done = CliRunner().invoke(
        train_script.main,
        [*arguments, "--set", "model.expression.mode=identity", "--device", "cpu"],
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["total_steps"] == 8
    assert not (tmp_path / "run").exists()
    done = CliRunner().invoke(train_script.main, arguments)  # mode clebs without an encoder
    assert done.exit_code == 1 and "--clebs" in done.output


def test_dry_run_refuses_clips_of_one_frame(tmp_path: Path) -> None:
    make_dataset(tmp_path / "d", frames=1)
    arguments = ["--preset", "tiny", "--data", str(tmp_path / "d"), "--out", str(tmp_path / "run")]
    arguments += ["--set", "model.expression.mode=identity", "--device", "cpu", "--dry-run"]
    done = CliRunner().invoke(train_script.main, arguments)
    assert done.exit_code == 1 and "a pair needs two frames of one clip" in done.output


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.batch_size=6", "train.accumulate=4"], "not divisible"),
        (["train.total_images=2"], "less than one batch"),
        (["train.save_every=0"], "save_every"),
        (["loss.l1=-1"], r"loss\.l1 is negative"),
        (["loss.perceptual=1", "loss.perceptual_net=lpps"], "no perceptual network 'lpps'"),
        (["model.expression.mode=clebs"], "give --clebs"),
        (["train.clebs=x.safetensors"], "does not use it"),
        (["train.init_from=/nowhere.safetensors"], "does not exist"),
    ],
)
def test_mistakes_are_found_before_the_first_step(
    data: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        trainer(tiny(data, *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_data_that_do_not_fit_are_refused(data: Path, tmp_path: Path) -> None:
    from training.preflight import check_training, open_training_data

    larger = tiny(data, "model.resolution=64")
    with pytest.raises(UserError, match="32 px but model.resolution is 64"):
        check_training(larger, open_training_data(larger), 1)
    with pytest.raises(UserError, match="does not exist"):
        open_training_data(tiny(tmp_path / "nothing"))
    with pytest.raises(UserError, match="give --data"):
        open_training_data(load_config(Config, "tiny"))
    without_depth = replace(open_dataset(data).spec, channels=("image",))
    with pytest.raises(UserError, match=r"loss\.depth needs the channel"):
        objectives.check_terms(tiny(data, "loss.depth=1").loss, without_depth.channels, "the data")


# ---- expression modes and starting weights -----------------------------------------------------------------------


def save_clebs(path: Path, data: Path, **changes: Any) -> ExpressionEncoder:
    config = tiny(data, "model.expression.mode=clebs")
    encoder = ExpressionEncoder(config.model.expression, TOY.dim)
    metadata = {
        "kind": "clebs",
        "config": {"model": {"expression": {"n_bases": 4, "dim": 16, "hidden": 16, "layers": 2}}},
        "expression": TOY.to_dict(),
        "crop": {"name": "painted", "version": 1},
        "tracker": {"name": "painter", "hash": "0"},
        **changes,
    }
    save_checkpoint(path, encoder.state_dict(), metadata)
    return encoder


def test_the_pretrained_encoder_stays_frozen(data: Path, tmp_path: Path) -> None:
    encoder = save_clebs(tmp_path / "clebs.safetensors", data)
    config = tiny(
        data, "model.expression.mode=clebs", f"train.clebs={tmp_path}/clebs.safetensors",
        "train.total_images=8", "train.weight_decay=0.1",
    )  # fmt: skip
    run = trainer(config, tmp_path / "run")
    before = run.model.plane_head.state_dict()
    before = {k: v.clone() for k, v in before.items()}
    run.run()
    state = load_checkpoint(tmp_path / "run" / "network-latest.safetensors").state
    for name, value in encoder.state_dict().items():
        assert torch.equal(state[f"expression.{name}"], value), name
    after = run.model.plane_head.state_dict()
    assert any(not torch.equal(after[k], v) for k, v in before.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expression": replace(TOY, tracker_version="2").to_dict()}, "tracker versions"),
        ({"crop": {"name": "other", "version": 1}}, "the crop"),
        ({"config": {"model": {"expression": {"n_bases": 9, "dim": 16, "hidden": 16, "layers": 2}}}},
         r"--set model\.expression\.n_bases=9"),
    ],
)  # fmt: skip
def test_an_encoder_of_other_data_is_refused(
    data: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    save_clebs(tmp_path / "clebs.safetensors", data, **changes)
    with pytest.raises(UserError, match=message):
        trainer(
            tiny(data, "model.expression.mode=clebs", f"train.clebs={tmp_path}/clebs.safetensors"),
            tmp_path / "run",
        )


def test_init_from_starts_anew_from_weights(data: Path, finished: Path, tmp_path: Path) -> None:
    network = finished / "network-latest.safetensors"
    run = trainer(
        tiny(data, f"train.init_from={network}", "train.total_images=8"), tmp_path / "run"
    )
    weights = load_checkpoint(network).state
    assert run.step == 0 and not run.optimiser.state_dict()["state"]
    for module in (run.model, run.average.module):
        assert all(torch.equal(v, weights[k]) for k, v in module.state_dict().items())
    run.run()
    assert run.step == 2
