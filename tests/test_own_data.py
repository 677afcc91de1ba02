"""From clips to a video: the six commands of the page, in a space of three numbers, and what they rest on."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from animate_support import save_tiny
from click.testing import CliRunner
from PIL import Image
from preparation_support import moving, portrait, write_video
from training_support import TOY, make_dataset, tiny, trainer

import gen_videos
from conventions.spaces import BFM64, same_tracker
from dataset.loader import PairLoader
from dataset.preparation.results import ImportedResults
from dataset.reader import open_dataset
from dnnlib import UserError, load_config
from inference.stored import open_clip
from tracking.media import VideoReader
from tracking.plugins import load_plugin
from training.config import Config
from training.preflight import check_training, open_training_data, unseen_people

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")

# What makes each command small, and what the space of three numbers needs.
SMALL = {
    "dataset_tool.py video": "--resolution 64 --min-frames 4 --workers 0 --tracker my_tracker.py:make",
    "dataset_tool.py validate": "",
    "pretrain.py": "--set data.mirror=false",
    "train.py": "--set data.mirror=false --set train.total_images=8 --set train.eval_pairs=0",
    "gen_videos.py reconstruct": "--max-frames 2 --panel-px 32",
    "gen_videos.py animate": "--max-frames 2 --tracker my_tracker.py:make",
}


@pytest.mark.slow
def test_the_six_commands_of_the_page_end_in_a_video(tmp_path: Path) -> None:
    for name in ("clips/anna.mp4", "clips/eve.mp4", "clip.mp4"):
        write_video(tmp_path / name, moving(9, mirrored="eve" in name))  # no clip twice
    Image.fromarray(portrait(160)).save(tmp_path / "photo.jpg")
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    (tmp_path / "my_tracker.py").write_text(code)
    commands = re.findall(r"^    python (.*)$", PAGE, re.M)
    assert len(commands) == len(SMALL)
    said = ""
    for command, (start, more) in zip(commands, SMALL.items(), strict=True):
        assert command.startswith(start)
        script, *words = shlex.split(f"{command.replace('demo_real', 'tiny')} {more}")
        done = subprocess.run(
            [sys.executable, str(ROOT / script), *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        said += done.stdout + done.stderr
    assert len(VideoReader(tmp_path / "out/own/animated.mp4")) == 2
    assert len(VideoReader(tmp_path / "out/own/anna.mp4")) == 2
    assert "got nobody" in said and "holds nobody out" in said  # when made, and when trained on
    space = open_dataset(tmp_path / "out/own/data").space
    assert space is not None and (space.name, space.dim) == ("darkness3", 3)


# ---- presets and refusals ----------------------------------------------------------------------------------------


def test_demo_real_asks_for_nothing_that_videos_lack(tmp_path: Path) -> None:
    path = make_dataset(tmp_path / "data", 128)
    config = load_config(Config, "demo_real", [f"data.path={path}", "train.clebs=some"])
    dataset = open_dataset(path)
    dataset.spec.__dict__["channels"] = ("image",)  # as of dataset_tool.py video
    check_training(config, dataset, 1)


def test_all_that_does_not_fit_is_told_at_once(tmp_path: Path) -> None:
    dataset = open_dataset(make_dataset(tmp_path / "data", 48))
    dataset.spec.__dict__["channels"] = ("image",)
    config = tiny(
        tmp_path / "data", "loss.depth=1", "loss.opacity=1", "train.batch_size=5",
        "train.accumulate=2", "model.expression.mode=clebs",
    )  # fmt: skip
    with pytest.raises(UserError) as refused:
        check_training(config, dataset, 1)
    sentence = str(refused.value)
    for part in (
        "4 things do not fit",
        "train.batch_size=5 is not divisible",
        "has 48 px but model.resolution is 32",
        "loss.opacity=0, loss.depth=0",
        "give --clebs",
    ):
        assert part in sentence


def test_nobody_held_out_is_said(tmp_path: Path) -> None:
    dataset = open_dataset(make_dataset(tmp_path / "data"))
    assert unseen_people(dataset) == []
    dataset.clips["split"] = 0
    (sentence,) = unseen_people(dataset)
    assert "dataset_tool.py split" in sentence


# ---- larger data -------------------------------------------------------------------------------------------------


def test_data_shrink_on_loading(tmp_path: Path) -> None:
    path = make_dataset(tmp_path / "data", 64)
    whole, small = open_dataset(path), open_training_data(tiny(path))
    assert (whole.resolution, small.resolution) == (64, 32)
    image = whole.image(3).astype(np.float64).reshape(3, 32, 2, 32, 2).mean(axis=(2, 4))
    assert np.abs(small.image(3) - image).max() <= 0.5  # rounding
    mask = whole.mask(3).reshape(32, 2, 32, 2).mean(axis=(1, 3))
    assert np.allclose(small.mask(3), mask, atol=1e-6)  # float32
    assert set(np.unique(small.depth(3))) <= set(np.unique(whole.depth(3)))  # no depth in between
    batch = next(iter(PairLoader(small, "train", 0, 4, mirror=False)))
    assert batch["driving"].shape == batch["source"].shape == (4, 3, 32, 32)
    assert batch["depth"].shape == (4, 1, 32, 32)
    run = trainer_of(tiny(path, "train.total_images=4"), tmp_path / "run")
    assert np.isfinite(run.train_step(next(iter(run.loader())))["total"])
    with pytest.raises(UserError, match="no multiple of the 48 px"):
        whole.shrunk_to(48)


def trainer_of(config: Config, out: Path):  # type: ignore[no-untyped-def]
    from training.trainer import Trainer

    return Trainer(config, open_training_data(config), out, torch.device("cpu"))


# ---- video commands in a space of one's own ----------------------------------------------------------------------


def test_a_clip_of_a_data_set_drives_without_a_tracker(tmp_path: Path) -> None:
    """The toy space has no tracker at all."""
    data = make_dataset(tmp_path / "data")
    run = trainer(tiny(data, "train.total_images=4"), tmp_path / "run")
    run.run()
    network = tmp_path / "run" / "network-latest.safetensors"
    words = ["reconstruct", "--driving", f"{data}:person2", "--network", network, "--panel-px", 32]
    out = tmp_path / "out.mp4"
    result = CliRunner().invoke(gen_videos.main, [*map(str, words), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert len(VideoReader(out)) == 6
    wrong = [str(w).replace("person2", "person22") for w in words]
    result = CliRunner().invoke(gen_videos.main, [*wrong, "--out", str(tmp_path / "no.mp4")])
    assert result.exit_code == 1 and "did you mean 'person2'" in result.output
    animate = ["animate", "--source", data, "--driving", f"{data}:person2", "--network", network]
    Image.fromarray(portrait(96)).save(tmp_path / "photo.png")
    animate[2] = tmp_path / "photo.png"
    result = CliRunner().invoke(gen_videos.main, [*map(str, animate), "--out", str(out)])
    assert result.exit_code == 1 and "--tracker module:factory or --results" in result.output


def test_a_clip_of_another_space_is_refused(tmp_path: Path) -> None:
    data, net = make_dataset(tmp_path / "data"), save_tiny(tmp_path / "net.safetensors")
    words = ["reconstruct", "--driving", f"{data}:person0", "--network", str(net)]
    result = CliRunner().invoke(gen_videos.main, [*words, "--out", str(tmp_path / "a.mp4")])
    assert result.exit_code == 1 and "different expression spaces" in result.output


def test_a_stored_clip_has_the_labels_and_times_of_the_data(tmp_path: Path) -> None:
    dataset = open_dataset(make_dataset(tmp_path / "data"))
    clip = open_clip(tmp_path / "data", "person1", 64, max_frames=4)
    assert clip.space == TOY and clip.betas.shape == (4, 4) and len(clip.times_s) == 5
    assert (clip.betas[2] == dataset.beta(6 + 2)).all()
    assert (clip.cameras[3] == dataset.camera(6 + 3)).all()
    assert clip.times_s[0] == 0 and (np.diff(clip.times_s) > 0).all()
    crops = list(clip.crops())
    assert len(crops) == 4 and crops[0].shape == (64, 64, 3)


# ---- who measured ------------------------------------------------------------------------------------------------


def test_only_hashes_of_one_tracker_contradict_each_other() -> None:
    one = {"name": "deep3dfacerecon", "hash": "a"}
    assert same_tracker(one, one) and same_tracker(one, {**one, "hash": ""})
    assert same_tracker(one, {"name": "painter", "hash": "b"}) and same_tracker({}, one)
    assert not same_tracker(one, {**one, "hash": "b"})
    # what judged labels and changed none: older records
    assert same_tracker({**one, "hash": "a/basel"}, one)
    assert not same_tracker({**one, "hash": "b/basel"}, {**one, "hash": "a/basel"})


def test_results_of_any_folder_are_of_one_tracker(tmp_path: Path) -> None:
    made = []
    for name, frames in (("a", 3), ("b", 5)):
        (tmp_path / name).mkdir()
        numbers = {"exp": np.zeros((frames, 64)), "angle": np.zeros((frames, 3))}
        np.savez(tmp_path / name / "photo.npz", **numbers, trans=np.ones((frames, 3)))
        made.append(ImportedResults(tmp_path / name))
    records = [{"name": BFM64.tracker, "hash": results.hash} for results in made]
    assert same_tracker(*records)
    assert made[0].files != made[1].files  # a data set is not continued with other results
    made[0].begin("photo.jpg")  # of a photo too


# ---- trackers by name --------------------------------------------------------------------------------------------


def test_a_tracker_is_found_in_a_file_and_mistakes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Mine:\n"
        "    space: str = 'x'\n    hash: str = ''\n    smooth: bool = True\n"
        "    def begin(self, video): pass\n"
        "    def measure(self, frame, parameters): return None\n"
        "class Half: space = 'x'\n"
    )
    assert load_plugin(f"{path}:Mine").smooth is True
    for name, message in (
        (f"{path}:Half", "has no 'hash'"),
        (f"{path}:Other", "cannot be loaded"),
        (f"{tmp_path}/none.py:Mine", "cannot be loaded"),
        ("nowhere:Mine", "cannot be loaded"),
        ("mediapipes", "there is no tracker"),
    ):
        with pytest.raises(UserError, match=message):
            load_plugin(name)
