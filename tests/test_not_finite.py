"""NaN and infinity in what is loaded: refused, naming the file and the frame or tensor, before anything is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from test_basel import save as save_basel
from test_data_format import spec, write_shard
from training_support import make_dataset

from dataset.joining import finalise
from dataset.reader import open_dataset
from dnnlib.errors import UserError
from pretrained.identity import identity_loss
from pretrained.inception import fid_inception
from pretrained.onnx_module import OnnxModule
from pretrained.perceptual import perceptual_loss
from pretrained.weights import read_weights
from tracking.basel import BaselModel
from tracking.deep3d import Deep3DRegressor
from train import main as train
from training.checkpoints import load_train_state, save_train_state


def _spoil(folder: Path, label: str, frame: int, value: float = np.nan) -> None:
    rows = np.load(folder / "frames.npy", mmap_mode="r+")
    rows[label][frame].reshape(-1)[-1:] = value
    rows.flush()


@pytest.mark.parametrize(
    ("label", "value"), [("camera", np.nan), ("beta", np.inf), ("beta_true", np.nan)]
)
def test_labels_are_looked_at_when_they_are_read(tmp_path: Path, label: str, value: float) -> None:
    write_shard(tmp_path / "heads", 0)
    finalise(tmp_path / "heads")
    assert "beta_true" in spec().extra_labels
    _spoil(tmp_path / "heads", label, 3, value)
    data = open_dataset(tmp_path / "heads")
    assert np.isfinite(data.label(label, 2)).all()
    with pytest.raises(UserError, match=rf"frame 3 of .*heads has NaN or infinity in its {label}"):
        data.label(label, 3)


@pytest.mark.parametrize("label", ["camera", "beta"])
def test_training_does_not_begin(tmp_path: Path, label: str) -> None:
    heads = make_dataset(tmp_path / "heads")
    _spoil(heads, label, 5)
    options = ["--preset", "tiny", "--data", str(heads), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(
        train, [*options, "--set", "model.expression.mode=lebs", "--dry-run"]
    )
    assert result.exit_code == 1, result.output
    assert f"frames.npy: frame 5 has NaN or infinity in its {label}" in result.output
    assert not (tmp_path / "run").exists()


def _state(path: Path) -> Path:
    state = {
        "features.0.weight": torch.ones(3),
        "features.0.bias": torch.tensor([1.0, float("nan")]),
    }
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "load",
    [
        read_weights,
        fid_inception,
        Deep3DRegressor,
        lambda path: identity_loss("arcface", path),
        lambda path: perceptual_loss("lpips_vgg", str(path)),
    ],
)
def test_weights_of_others(tmp_path: Path, suffix: str, load: Callable[[Path], object]) -> None:
    path = _state(tmp_path / f"w{suffix}")
    with pytest.raises(UserError, match=r"w\.\w+ cannot be used .*\(first: features\.0\.bias\)"):
        load(path)


def test_onnx_weights(tmp_path: Path) -> None:
    weight = onnx.numpy_helper.from_array(np.full((1, 1, 1, 1), np.nan, np.float32), "kernel")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "kernel"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [1, 1, 4, 4])],
        [onnx.helper.make_tensor_value_info("y", 1, [1, 1, 4, 4])],
        [weight],
    )
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "g.onnx"))
    with pytest.raises(UserError, match=r"g\.onnx cannot be used .*\(first: kernel\)"):
        OnnxModule(tmp_path / "g.onnx")


def test_basel_model(tmp_path: Path) -> None:
    path = save_basel(tmp_path / "b.mat", exBase=np.full((270, 64), np.inf, np.float32))
    with pytest.raises(UserError, match=r"b\.mat holds NaN or infinity in exBase"):
        BaselModel(path)


def test_training_state(tmp_path: Path) -> None:
    path = tmp_path / "state-000000001.safetensors"
    save_train_state(path, {"generator": {"w": torch.tensor([float("inf")])}, "step": 1}, {})
    with pytest.raises(
        UserError, match=r"state-000000001\.safetensors cannot be used .*generator\.w"
    ):
        load_train_state(path)
