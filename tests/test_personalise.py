"""From a network to one person's: it begins as the network was, learns its own model, and is drawn back to it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from training_support import TOY, make_dataset, tiny, trainer

from dnnlib import UserError, load_config
from dnnlib.typed import to_dict
from running.anchor import Anchor
from train import model_of
from training import objectives
from training.checkpoints import load_model, save_checkpoint
from training.config import Config
from training.generator.model import Export3D
from training.noise import draw_noise


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "heads")


@pytest.fixture(scope="module")
def network(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of mode clebs whose lambda is far from mean 0 and deviation 1."""
    config = tiny(data, "model.expression.mode=clebs", "model.generator.depth=1")
    torch.manual_seed(3)
    model = Export3D(config.model, TOY.dim)
    with torch.no_grad():
        for parameter in model.parameters():
            if not bool(parameter.any()):
                parameter.normal_(0, 0.2)
        model.plane_mean.normal_(0, 1)
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    about = {"kind": "model", "config": to_dict(config), "expression": TOY.to_dict()}
    save_checkpoint(path, model.state_dict(), about)
    return path


def from_network(data: Path, network: Path, *overrides: str) -> Config:
    words = ("model.expression.mode=clebs", "model.generator.depth=1")
    return tiny(data, *words, f"train.init_from={network}", *overrides)


def test_the_first_loss_is_the_networks(data: Path, network: Path, tmp_path: Path) -> None:
    config = from_network(data, network, "train.standardise_clebs=true")
    run = trainer(config, tmp_path / "run")
    batch = next(iter(run.loader()))
    model = load_model(network).train()

    def loss() -> float:
        count = config.train.batch_size
        noise = draw_noise(
            config.train.seed, 0, range(count), config.model, config.loss, torch.device("cpu")
        )
        done = objectives.generator_pass(model, batch, noise)
        losses = objectives.generator_losses(
            model, done, batch, noise, config.loss, objectives.LossNetworks()
        )
        return float(objectives.weighted_sum(losses, config.loss, 0.0).detach())

    first = run.train_step(batch)["total"]
    assert first == pytest.approx(loss(), rel=1e-5)  # float32 sums in another order at most
    # the test would see it: with a new lambda the loss is another
    assert model.expression.scaling is not None
    model.expression.scaling.standardise(batch["beta"])
    assert abs(loss() - first) > 1e-4 * first


def test_an_encoder_that_is_new_is_standardised_all_the_same(
    data: Path, network: Path, tmp_path: Path
) -> None:
    clebs = tmp_path / "clebs.safetensors"
    state = {k: 0.5 * v for k, v in load_model(network).expression.state_dict().items()}
    about = {"kind": "clebs", "config": to_dict(from_network(data, network))}
    save_checkpoint(clebs, state, {**about, "expression": TOY.to_dict()})
    words = (f"train.clebs={clebs}", "train.standardise_clebs=true")
    run = trainer(from_network(data, network, *words), tmp_path / "run")
    betas = torch.from_numpy(run.dataset.frames["beta"][:24].copy())  # of the training split
    assert run.model.expression.scaling is not None
    coefficients = run.model.expression.scaling.coefficients(betas)
    # by construction, up to the rounding of float32
    assert coefficients.std(dim=0).tolist() == pytest.approx([1.0] * 4, abs=1e-3)


def test_the_model_is_that_of_the_network_changed_by_preset_and_options(
    data: Path, network: Path
) -> None:
    base = {"model": model_of(str(network))}
    config = load_config(Config, "personalise", ["model.render.samples_coarse=7"], base)
    assert config.model.resolution == 32 and config.model.generator.depth == 1  # the network's
    assert config.model.generator.plane_mean_decay == 1.0  # the preset's
    assert config.model.render.samples_coarse == 7
    with pytest.raises(UserError, match="give --init-from"):
        model_of("")


def test_what_personalise_must_not_change_stays(data: Path, network: Path, tmp_path: Path) -> None:
    base = {"model": model_of(str(network))}
    words = [f"data.path={data}", f"train.init_from={network}", "train.total_images=16"]
    words += ["train.batch_size=4", "loss.perceptual=0", "train.lr_warmup_images=0"]
    run = trainer(load_config(Config, "personalise", words, base), tmp_path / "run")
    before = {k: v.clone() for k, v in run.model.state_dict().items()}
    run.run()
    after = run.model.state_dict()
    kept = {k for k in before if k.startswith("expression.") or k == "plane_mean"}
    assert len(kept) > 3 and all(torch.equal(before[k], after[k]) for k in kept)
    assert not all(torch.equal(before[k], after[k]) for k in before.keys() - kept)


def test_an_anchor_draws_weights_back_and_leaves_frozen_ones() -> None:
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    start = layer.weight.detach().clone()
    anchor = Anchor(layer, 0.5)
    with torch.no_grad():
        layer.weight.add_(1.0)
        layer.bias.add_(1.0)
    moved = layer.bias.clone()
    anchor.pull(lr=0.1)
    # w - lr anchor (w - w_0) = w_0 + 0.95
    assert torch.allclose(layer.weight, start + 0.95, atol=1e-6)  # float32
    assert torch.equal(layer.bias, moved)
    anchor.pull(lr=100.0)  # never beyond where it started
    assert torch.equal(layer.weight, start)
