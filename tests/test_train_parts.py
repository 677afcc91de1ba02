"""The parts of the training loop by hand-worked numbers: schedule, weight average, noise, evaluation."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from training_support import TOY, make_dataset, tiny, trainer

from dataset.reader import open_dataset
from dnnlib import UserError
from running.ema import WeightAverage
from training import objectives
from training.config import LossConfig, TrainConfig
from training.evaluation import depth_correlation, evaluate, psnr
from training.generator.model import Export3D
from training.generator.model import Volume as TriPlanes
from training.generator.planes import SourceFeatures
from training.grids import depth_picture, tile
from training.noise import draw_noise
from training.preflight import stand_ins
from training.schedule import adversarial_factor, learning_rate_factor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "heads")


def test_learning_rate_warms_up_stays_and_decays() -> None:
    config = TrainConfig(
        batch_size=10, total_images=1000, lr=1.0, lr_warmup_images=100, lr_decay_images=200, lr_final=0.1
    )  # fmt: skip
    factors = {n: learning_rate_factor(config, n) for n in (0, 50, 90, 500, 800, 900, 1000)}
    assert factors == pytest.approx(
        {0: 0.1, 50: 0.6, 90: 1.0, 500: 1.0, 800: 1.0, 900: 0.55, 1000: 0.1}
    )
    assert learning_rate_factor(TrainConfig(lr_warmup_images=0), 0) == 1.0


def test_the_adversarial_loss_comes_in_after_the_warm_up() -> None:
    config = TrainConfig(batch_size=10, warmup_images=100, adversarial_ramp_images=50)
    factors = [adversarial_factor(config, n) for n in (0, 90, 100, 120, 140, 500)]
    assert factors == pytest.approx([0, 0, 0.2, 0.6, 1, 1])
    assert adversarial_factor(TrainConfig(warmup_images=0, adversarial_ramp_images=0), 0) == 1.0


def test_the_weight_average_has_its_half_life() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    module.register_buffer("mean", torch.zeros(1))
    average = WeightAverage(module, half_life_images=100)
    nn.init.ones_(module.weight)
    module.get_buffer("mean").fill_(3.0)
    for n in range(1, 11):  # 100 images, long after the start
        average.update(module, n_images=10_000 + 10 * n, batch_size=10)
    assert average.module.weight.item() == pytest.approx(0.5, rel=1e-5)
    assert average.module.get_buffer("mean").item() == 3.0  # buffers are copied
    assert not average.module.weight.requires_grad
    fresh = nn.Linear(1, 1, bias=False)
    early = WeightAverage(fresh, half_life_images=100)
    nn.init.ones_(fresh.weight)
    early.update(fresh, n_images=10, batch_size=10)
    # after the first batch the half-life is one image: random weights count 2^-10
    assert early.module.weight.item() == pytest.approx(1.0, abs=2e-3)


def test_noise_belongs_to_the_sample_not_to_the_process(data: Path) -> None:
    config = tiny(data)
    whole = draw_noise(5, 7, range(4), config.model, config.loss, CPU)
    second = draw_noise(5, 7, range(2, 4), config.model, config.loss, CPU)
    for a, b in zip(whole, second, strict=True):
        assert torch.equal(a[2:], b)
    next_step = draw_noise(5, 8, range(4), config.model, config.loss, CPU)
    other_seed = draw_noise(6, 7, range(4), config.model, config.loss, CPU)
    for other in (next_step, other_seed):
        assert not torch.equal(whole.coarse, other.coarse)
    assert not torch.equal(whole.coarse[0], whole.coarse[1])
    assert whole.coarse.min() >= 0 and whole.coarse.max() < 1
    assert whole.tv_points.abs().max() <= 0.5


def test_every_generator_term_is_a_weight_of_the_configuration(data: Path) -> None:
    config = tiny(data).loss
    for name in objectives.GENERATOR_TERMS:
        assert isinstance(getattr(config, name), float), name
    terms = {"l1": torch.tensor(2.0), "adversarial": torch.tensor(10.0), "depth": torch.tensor(5.0)}
    total = objectives.weighted_sum(terms, config, 0.5)
    assert total.item() == pytest.approx(2.0 * config.l1 + 10.0 * config.adversarial * 0.5)


# ---- evaluation --------------------------------------------------------------------------------------------------


def test_psnr_by_hand() -> None:
    real = torch.zeros(1, 3, 4, 4)
    everywhere = torch.ones(1, 1, 4, 4)
    # 0.2 in [-1, 1] is 0.1 in [0, 1]: 20 dB
    assert psnr(real + 0.2, real, everywhere).item() == pytest.approx(20.0, abs=1e-5)
    left = everywhere.clone()
    left[..., 2:] = 0
    half_wrong = real.clone()
    half_wrong[..., :2] = 0.2
    assert psnr(half_wrong, real, left).item() == pytest.approx(20.0, abs=1e-5)
    assert psnr(half_wrong, real, everywhere).item() == pytest.approx(
        20 + 10 * math.log10(2), abs=1e-5
    )
    # an output beyond the range is clamped, as it would be when saved
    assert psnr(real + 9, real + 1, everywhere).item() == 100.0


def test_depth_correlation_by_hand() -> None:
    truth = torch.linspace(2.4, 2.8, 64).view(1, 1, 8, 8)
    mask = torch.ones_like(truth)
    mask[..., :4] = 0
    small = nn.functional.avg_pool2d(truth, 2)
    assert depth_correlation(2 * small + 1, truth, mask).item() == pytest.approx(1, abs=1e-5)
    assert depth_correlation(-small, truth, mask).item() == pytest.approx(-1, abs=1e-5)
    assert depth_correlation(torch.ones_like(small), truth, mask).item() == pytest.approx(
        0, abs=1e-6
    )
    outside = small.clone()
    outside[..., :2] = torch.rand(1, 1, 4, 2) * 100  # not the person
    assert depth_correlation(outside, truth, mask).item() == pytest.approx(1, abs=1e-5)


class Listening(Export3D):
    """A fresh network whose density follows beta_0."""

    def planes(self, source: SourceFeatures, beta: torch.Tensor) -> TriPlanes:
        out = super().planes(source, beta)
        return out._replace(planes=out.planes + 4 * beta[:, 0].view(-1, 1, 1, 1, 1))


def test_evaluation_is_deterministic_and_hears_what_the_model_hears(data: Path) -> None:
    dataset = open_dataset(data)
    model = Export3D(tiny(data).model, TOY.dim).eval()
    found = evaluate(model, dataset, "test", n_pairs=6, batch_size=4)
    assert found == evaluate(model, dataset, "test", n_pairs=6, batch_size=4)
    assert found["n_pairs"] == 6 and found["n_clips"] == 2
    assert found["gain_over_copy_db"] == found["psnr"] - found["psnr_copy"]
    assert -1 <= found["depth_r"] <= 1
    # EAdaLN starts at zero: a fresh model is deaf, so exchanged expressions cost nothing
    assert found["exchange_psnr_db"] == pytest.approx(0, abs=1e-4)
    listening = evaluate(Listening(tiny(data).model, TOY.dim).eval(), dataset, "test", n_pairs=6)
    assert abs(listening["exchange_psnr_face_db"]) > 1e-3


def test_evaluation_refuses_data_of_another_kind(data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(data)
    with pytest.raises(UserError, match="32 px but the network works at 64 px"):
        evaluate(Export3D(tiny(data, "model.resolution=64").model, TOY.dim), dataset)
    with pytest.raises(UserError, match="4 where the network wants 52 expression parameters"):
        evaluate(Export3D(tiny(data).model, 52), dataset)


def test_pictures_show_near_as_white() -> None:
    depth = torch.tensor([2.3, 2.7, 3.1, 9.0]).view(1, 1, 2, 2)
    assert torch.allclose(
        depth_picture(depth, 2.3, 3.1).flatten(), torch.tensor([1.0, 0, -1, -1]), atol=1e-6
    )
    rows = torch.stack([torch.full((3, 2, 5), -1.0), torch.full((3, 2, 5), 1.0)])
    picture = tile(rows)
    assert picture.shape == (4, 5, 3)
    assert picture[:2].max() == 0 and picture[2:].min() == 255


def test_a_space_that_cannot_be_mirrored_is_refused_before_the_folder(tmp_path: Path) -> None:
    space = replace(TOY, names=("a", "b", "c", "d"))
    heads = make_dataset(tmp_path / "heads", space=space)
    with pytest.raises(UserError, match=r"cannot be mirrored; set data\.mirror=false"):
        trainer(tiny(heads), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    trainer(tiny(heads, "data.mirror=false"), tmp_path / "run")


def test_networks_in_place_of_the_papers_are_told() -> None:
    both = stand_ins(LossConfig())
    assert [s.split(" is ")[1].split(",")[0] for s in both] == ["ST-LPIPS", "SFace"]
    own = LossConfig(perceptual_weights="vgg.safetensors", identity_weights="arc.onnx")
    assert stand_ins(own) == [] and stand_ins(LossConfig(perceptual=0, identity=0)) == []
