"""What a run writes into its folder, and who may write there."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from training_support import (
    SIZE,
    TOY,
    finished_run,
    make_dataset,
    run_directory_numbers,
    tiny,
    trainer,
)

from dataset.loader import PairLoader
from dataset.reader import open_dataset
from dnnlib import UserError, load_config
from running.records import RunDirectory, board_tag
from training.checkpoints import (
    load_checkpoint,
    load_model,
    train_state_path,
)
from training.config import Config
from training.keys import KEY_RULES


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "heads")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(data, tmp_path_factory.mktemp("finished") / "run")


def test_statistics_that_a_kill_cut_short_are_dropped(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    lines = [b'{"step": 4}', b'{"step": 8}', b'{"step": 4, "\xff', b"\x00\x00"]
    (tmp_path / "run" / "stats.jsonl").write_bytes(b"\n".join(lines))
    run = RunDirectory(tmp_path / "run", tiny(data), KEY_RULES)
    run.begin(4)
    run.close()
    assert (tmp_path / "run" / "stats.jsonl").read_bytes() == b'{"step": 4}\n'


@pytest.mark.parametrize("name", [".lock", "stats.jsonl"])
@pytest.mark.parametrize("what", ["pipe", "device", "loop", "folder"])
def test_what_lies_in_the_place_of_its_files_is_told(
    name: str, what: str, data: Path, tmp_path: Path
) -> None:
    place = tmp_path / name
    make = {"pipe": os.mkfifo, "folder": Path.mkdir}.get(what)
    make(place) if make else place.symlink_to("/dev/zero" if what == "device" else name)
    with pytest.raises(UserError, match=re.escape(name)):
        RunDirectory(tmp_path, tiny(data), KEY_RULES).begin(0)


def test_the_run_directory_says_what_was_done(finished: Path, data: Path) -> None:
    assert load_config(Config, finished / "config.yaml") == tiny(data, "train.total_images=16")
    start = json.loads((finished / "record.json").read_text())["starts"][0]
    assert start["command"] and start["versions"]["torch"] == torch.__version__.split("+")[0]
    assert "git" in start
    assert start["loss_networks"] == dict.fromkeys(("perceptual", "identity", "expression"))
    first, *_, last = [line for line in run_directory_numbers(finished) if "total" in line]
    assert last["n_images"] == 16 and last["adversarial_factor"] == 1.0
    assert "adversarial" not in first and {"adversarial", "discriminator_real"} <= last.keys()
    with Image.open(finished / "images" / "000000004.png") as grid:
        assert grid.size == (5 * SIZE, 4 * SIZE)
    assert list(finished.glob("events.out.tfevents.*"))


def test_the_network_file_is_complete_in_itself(finished: Path, data: Path) -> None:
    path = finished / "network-latest.safetensors"
    metadata = load_checkpoint(path, "model").metadata
    assert metadata["n_images"] == 16
    assert metadata["expression"] == TOY.to_dict()
    assert metadata["crop"] == {"name": "painted", "version": 1}
    model = load_model(path)
    batch = next(iter(PairLoader(open_dataset(data), "test", batch_size=2)))
    with torch.no_grad():
        out = model(batch["source"], batch["beta"], batch["camera"])
    assert out.image.shape == (2, 3, SIZE, SIZE)
    evaluation = json.loads((finished / "evaluation.json").read_text())
    assert evaluation["n_pairs"] == 4 and np.isfinite(evaluation["psnr"])


def test_a_folder_of_another_configuration_is_refused(data: Path, finished: Path) -> None:
    with pytest.raises(UserError, match=r"train\.lr=0\.0002 .* 0\.001"):
        trainer(tiny(data, "train.total_images=16", "train.lr=1e-3"), finished)
    # what does not touch the steps already taken may change
    trainer(tiny(data, "train.total_images=24", "train.log_every=2"), finished)


def test_a_run_does_not_go_on_with_data_of_another_crop(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    other = make_dataset(tmp_path / "other")
    text = (other / "dataset.json").read_text()
    (other / "dataset.json").write_text(text.replace('"painted"', '"cropped"'))
    run = trainer(tiny(other, "train.total_images=16"), finished)
    with pytest.raises(UserError, match="crop"):
        run.run()


def test_two_processes_cannot_train_in_one_folder(data: Path, tmp_path: Path) -> None:
    config = tiny(data)
    first = RunDirectory(tmp_path / "run", config, KEY_RULES)
    with pytest.raises(UserError, match="another process is training"):
        RunDirectory(tmp_path / "run", config, KEY_RULES)
    first.close()
    RunDirectory(tmp_path / "run", config, KEY_RULES).close()


def test_a_child_of_a_killed_owner_does_not_keep_the_lock(data: Path, tmp_path: Path) -> None:
    config = tiny(data)
    first = RunDirectory(tmp_path / "run", config, KEY_RULES)
    reading, writing = os.pipe()
    child = os.fork()  # as loader processes are made; they outlive an owner that is killed
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    first._lock.close()  # as the owner's death does
    try:
        RunDirectory(tmp_path / "run", config, KEY_RULES).close()
    finally:
        os.close(writing)
        os.waitpid(child, 0)
        os.close(reading)


def test_a_file_system_without_locks_is_trained_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("running.records.fcntl.flock", no_locks)
    RunDirectory(tmp_path / "run", tiny(data), KEY_RULES).close()
    assert "without locks" in capsys.readouterr().err


def test_states_for_good_and_the_best_network_are_kept(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = (
        "train.save_every=1",
        "train.keep_last=1",
        "train.keep_every=2",
        "train.eval_every=1",
    )
    run = trainer(tiny(data, "train.total_images=20", *options), out)
    run.run()
    assert [int(p.stem[-9:]) for p in sorted(out.glob("state-*"))] == [2, 4, 5]
    assert {8, 16, 20} <= {int(p.stem[-9:]) for p in out.glob("network-0*")}
    scores = {x["step"]: x["eval/psnr"] for x in run_directory_numbers(out) if "eval/psnr" in x}
    best = load_checkpoint(out / "network-best.safetensors").metadata
    assert scores[best["step"]] == max(scores.values()) == run.history.best


def test_a_state_that_is_not_finite_is_never_saved(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = trainer(tiny(data), out)
    true_step = run.train_step

    def spoiled(batch: Any) -> dict[str, float]:
        values = true_step(batch)
        if run.step == 4:  # the numbers of the step were finite, what it left is not
            with torch.no_grad():
                next(run.average.module.parameters()).view(-1)[0] = torch.inf
        return values

    run.train_step = spoiled  # type: ignore[method-assign]
    with pytest.raises(UserError, match="holds? NaN or infinity"):
        run.run()
    assert not train_state_path(out, 4).exists() and train_state_path(out, 2).is_file()


def test_tensorboard_has_groups() -> None:
    tags = {"l1": "loss/l1", "lr": "schedule/lr", "grad_norm_d": "gradients/grad_norm_d"}
    tags |= {"n_images": "progress/n_images"}
    tags |= {"images_per_s": "progress/images_per_s", "timing/data_wait": "timing/data_wait"}
    assert {name: board_tag(name) for name in tags} == tags
