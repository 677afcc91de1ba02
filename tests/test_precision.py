"""Half precision: what stays in float32 under autocast, and the loss scale of float16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_support import make_dataset, tiny, trainer

from running.precision import LossScale, autocast
from training.checkpoints import load_train_state, train_state_path
from training.expression.contrastive import contrastive_loss
from training.rendering.triplane import TriplaneDecoder, sample_triplane

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "heads")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_contrastive_loss_is_float32_inside(precision: str) -> None:
    torch.manual_seed(0)
    image, expression = torch.randn(2, 8, 16), torch.randn(2, 8, 16)
    gradients = []
    for kind in ("fp32", precision):
        x = image.clone().requires_grad_(True)
        with autocast(CPU, kind):
            loss = contrastive_loss(x, expression, torch.tensor(0.02).log()).loss
        loss.backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)  # nothing at all of it is in half precision


def test_density_and_colour_are_float32_under_autocast() -> None:
    torch.manual_seed(0)
    decoder = TriplaneDecoder()
    planes, points = torch.randn(1, 3, 32, 8, 8), torch.rand(1, 50, 3) - 0.5
    found = []
    for kind in ("fp32", "bf16"):
        with autocast(CPU, kind):
            found.append(decoder(sample_triplane(planes, points)))
    for exact, half in zip(*found, strict=True):
        assert half.dtype == torch.float32 and torch.equal(exact, half)


def test_the_loss_scale_halves_doubles_and_ends_at_one() -> None:
    scale = LossScale(enabled=True)
    assert scale.shrink() and scale.value == LossScale.START / 2
    for _ in range(LossScale.PATIENCE):
        scale.note_good_step()
    assert scale.value == LossScale.START
    while scale.shrink():
        pass
    assert scale.value == 1.0  # a gradient that overflows even so is no matter of scale
    off = LossScale(enabled=False)
    assert not off.shrink() and off.value == 1.0


def test_float16_trains_and_its_overflow_is_no_skip(data: Path, tmp_path: Path) -> None:
    run = trainer(tiny(data, "train.precision=fp16"), tmp_path / "run")
    run.scale.value = 2.0**40  # overflows for certain
    run.run()
    assert 1.0 < run.scale.value < 2.0**40
    assert run.history.skipped == 0
    state, _ = load_train_state(train_state_path(tmp_path / "run", run.step))
    assert state["loss_scale"]["value"] == run.scale.value
    assert all(torch.isfinite(v).all() for v in run.model.state_dict().values())


def test_a_scaled_step_is_the_step(data: Path, tmp_path: Path) -> None:
    steps = []
    for factor in (1.0, 1024.0):
        run = trainer(tiny(data, "train.warmup_images=0"), tmp_path / "run")
        run.scale = LossScale(enabled=True)
        run.scale.value = factor
        run.train_step(next(iter(run.loader())))
        steps.append(run.model.state_dict())
    for name, value in steps[0].items():
        # a power of two changes no bit of a float32 that does not under- or overflow
        assert torch.equal(value, steps[1][name]), name
