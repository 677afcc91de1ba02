"""On a GPU: the network, its gradients, a training and a frame are those of the CPU; a run resumes there.

Convolutions on the GPU may use TF32, whose ten bits of mantissa would hide what is compared here; the tests switch it
off. The reference is the CPU with the same weights, batches and noise.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from training_support import leaves, make_dataset, tiny

from conventions.cameras import camera_label
from conventions.spaces import ARKIT52
from dataset.reader import open_dataset
from dnnlib import load_config
from inference.network import Network
from torch_utils.ops import library
from training import noise as noises
from training import objectives
from training.checkpoints import load_train_state, train_state_path
from training.config import Config
from training.generator.model import Export3D
from training.trainer import Trainer

pytestmark = pytest.mark.cuda


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if not library.use_library("cuda", explicit=True):
        pytest.fail(f"the CUDA operators do not build: {library.load('cuda').cause}")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return torch.device("cuda")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "heads")


def stirred(preset: str, dim: int, *overrides: str) -> tuple[Config, Export3D]:
    """A network out of its zero initialisations, as after some training."""
    config = load_config(Config, preset, list(overrides))
    torch.manual_seed(0)
    model = Export3D(config.model, dim)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.02)
    return config, model


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    got, want = got.detach().cpu().double(), want.detach().cpu().double()
    assert got.shape == want.shape and bool(torch.isfinite(got).all())
    return float((got - want).norm() / want.norm().clamp_min(1e-12))


def batch_of(resolution: int, dim: int, n: int = 2) -> dict[str, torch.Tensor]:
    labels = torch.stack([torch.from_numpy(camera_label(0.2 * i, 0.1)) for i in range(n)])
    image = torch.rand(n, 3, resolution, resolution) * 2 - 1
    return {
        "source": image,
        "source_camera": labels.flip(0),
        "source_beta": torch.rand(n, dim),
        "driving": image.flip(0),
        "camera": labels,
        "beta": torch.rand(n, dim),
        "mask": torch.ones(n, 1, resolution, resolution),
        "depth": torch.full((n, 1, resolution, resolution), 2.6),
    }


@pytest.mark.parametrize("preset", ["tiny", "demo", "base512"])
def test_a_frame_is_the_cpu_s(preset: str, gpu: torch.device) -> None:
    _, model = stirred(preset, 52, "model.expression.mode=lebs")
    batch = batch_of(model.config.resolution, 52)

    def frame(device: torch.device) -> object:
        moved = model.to(device).eval()
        x = {name: value.to(device) for name, value in batch.items()}
        with torch.inference_mode():
            source = moved.encode_source(x["source"], x["source_camera"], x["source_beta"])
            return moved.render(moved.planes(source, x["beta"]), x["camera"])

    want, got = frame(torch.device("cpu")), frame(gpu)
    for name, a, b in zip(got._fields, got, want, strict=True):  # type: ignore[attr-defined,call-overload]
        # float32 through some forty layers; inverse-CDF samples move by whole cells where the CDF is flat
        assert relative(a, b) < 2e-3, name


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_the_cpu_s(checkpointing: bool, gpu: torch.device) -> None:
    config, model = stirred("demo", 52, "model.expression.mode=lebs", "loss.perceptual=0")
    model.gradient_checkpointing = checkpointing
    batch = batch_of(config.model.resolution, 52)
    noise = noises.draw_noise(
        0, 0, range(2), config.model, config.loss, torch.device("cpu")
    )  # the GPU's own generator would draw other numbers

    def gradients(device: torch.device) -> dict[str, torch.Tensor]:
        moved = model.to(device)
        moved.zero_grad(set_to_none=True)
        x = {name: value.to(device) for name, value in batch.items()}
        same = noises.StepNoise(*(value.to(device) for value in noise))
        done = objectives.generator_pass(moved, x, same)
        networks = objectives.LossNetworks()
        losses = objectives.generator_losses(moved, done, x, same, config.loss, networks)
        objectives.weighted_sum(losses, config.loss, 0.0).backward()
        return {n: p.grad.cpu() for n, p in moved.named_parameters() if p.grad is not None}

    want, got = gradients(torch.device("cpu")), gradients(gpu)
    assert got.keys() == want.keys() and len(got) > 50
    whole = [torch.cat([g[name].ravel() for name in want]) for g in (got, want)]
    assert relative(*whole) < 1e-2  # L1 has kinks: a sign may turn where two pixels are equal
    scale = whole[1].norm() / len(want) ** 0.5
    for name, gradient in want.items():
        if gradient.norm() > 1e-2 * scale:  # what is small beside the rest is rounding
            assert relative(got[name], gradient) < 5e-2, name


def losses_of(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]


def test_a_training_follows_the_cpu_s(
    data: Path, tmp_path: Path, gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = noises.draw_noise

    def same_noise(*args: object) -> noises.StepNoise:
        made = draw(*args[:-1], torch.device("cpu"))  # type: ignore[arg-type]
        return noises.StepNoise(*(x.to(args[-1]) for x in made))  # type: ignore[call-overload]

    monkeypatch.setattr("training.trainer.draw_noise", same_noise)
    config = tiny(data, "train.total_images=16")
    for name in ("cpu", "cuda"):
        Trainer(config, open_dataset(data), tmp_path / name, torch.device(name)).run()
    cpu, cuda = (losses_of(tmp_path / name) for name in ("cpu", "cuda"))
    assert len(cpu) == len(cuda) > 3
    for a, b in zip(cpu, cuda, strict=True):
        for name in ("l1", "l1_raw", "density_tv", "r1", "critic_real", "total"):
            if name in a:
                # four steps of Adam with beta_1 = 0, whose first steps are signs of gradients
                assert b[name] == pytest.approx(a[name], rel=2e-2, abs=1e-4), (a["step"], name)


def test_a_run_resumes_on_the_gpu(data: Path, tmp_path: Path, gpu: torch.device) -> None:
    def run(out: Path, *images: int) -> dict[str, object]:
        for n in images:
            config = tiny(data, f"train.total_images={n}")
            Trainer(config, open_dataset(data), out, gpu).run()
        return dict(leaves(load_train_state(train_state_path(out, 4))[0]))

    whole, parted = run(tmp_path / "whole", 16), run(tmp_path / "parted", 8, 16)
    assert whole.keys() == parted.keys()
    # The backward pass adds with atomics: two runs differ by rounding, which Adam's first steps enlarge.
    for name, value in whole.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            other = parted[name]
            assert isinstance(other, torch.Tensor)
            if ".exp_avg" not in name:
                assert torch.allclose(value, other, atol=5e-3), name


@pytest.mark.parametrize("options", ["train.precision=bf16", "train.accumulate=2"])
def test_options_train_to_finite_losses(
    options: str, data: Path, tmp_path: Path, gpu: torch.device
) -> None:
    config = tiny(data, "train.total_images=16", options)
    Trainer(config, open_dataset(data), tmp_path / "run", gpu).run()
    assert all(
        np.isfinite(line["total"]) for line in losses_of(tmp_path / "run") if "total" in line
    )


def test_inference_in_both_precisions(gpu: torch.device) -> None:
    _, model = stirred("demo", 52, "model.expression.mode=lebs")
    photo = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    beta, label = np.full(52, 0.2, np.float32), camera_label(0.2, 0.0)
    images = {}
    for device, precision in (("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "bf16")):
        network = Network(model, ARKIT52, {}, "stirred", device, precision, False)
        source = network.encode(photo, label, beta)
        images[device, precision] = network.render(network.planes(source, beta), label).image
    want = images["cpu", "fp32"].astype(np.float64)
    for key, off_by in (("cuda", "fp32"), 0.1), (("cuda", "bf16"), 2.0):
        assert np.abs(images[key] - want).mean() < off_by, key  # levels of 255
