"""Floating point operations: counted as by hand, the same whatever computes them, and told from the first line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from training_support import make_dataset, run_directory_numbers, tiny, trainer

from benchmarks import costs
from dnnlib import load_config
from running.flops import PEAKS, FlopCount, peak_flops, peak_of
from running.parameters import parameter_lines, parameter_table
from running.timing import MFU, TFLOPS, Timing
from torch_utils.ops.library import references_only
from training.config import Config
from training.cost import StepCost, count_step
from training.discriminator.dual import DualDiscriminator
from training.generator.model import Export3D
from training.objectives import LossNetworks

CPU = torch.device("cpu")


def counted(run: Callable[[], object]) -> int:
    with FlopCount() as count:
        run()
    return count.total


def test_products_are_counted_as_by_hand() -> None:
    x = torch.randn(5, 3, requires_grad=True)
    layer = nn.Linear(3, 7)
    assert counted(lambda: layer(x)) == 2 * 5 * 3 * 7
    assert counted(lambda: layer(x).sum().backward()) == 3 * 2 * 5 * 3 * 7  # forward, dx, dW
    assert counted(lambda: torch.randn(4, 5, 6) @ torch.randn(4, 6, 2)) == 2 * 4 * 5 * 6 * 2
    q, k = torch.randn(2, 8, 10, 16), torch.randn(2, 8, 12, 16)
    attend = 2 * 2 * 8 * 10 * 12 * 16 * 2  # q k^T and its product with v
    assert counted(lambda: functional.scaled_dot_product_attention(q, k, k)) == attend


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_convolutions_count_their_groups(groups: int) -> None:
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    layer = nn.Conv2d(8, 16, 3, padding=1, groups=groups)
    once = 2 * 2 * 16 * 6 * 6 * (8 // groups) * 9
    assert counted(lambda: layer(x)) == once
    assert counted(lambda: layer(x).sum().backward()) == 3 * once
    up = nn.ConvTranspose2d(8, 16, 2, stride=2, groups=groups)
    once = 2 * 2 * 8 * 6 * 6 * (16 // groups) * 4  # each value of the input meets one filter
    assert counted(lambda: up(x).sum().backward()) == 3 * once


@pytest.fixture(scope="module")
def networks() -> tuple[Config, Export3D, DualDiscriminator]:
    config = load_config(Config, "tiny", ["model.expression.mode=lebs"])
    return config, Export3D(config.model, 4), DualDiscriminator(config.model)


def test_a_step_costs_the_same_whatever_computes_it(
    networks: tuple[Config, Export3D, DualDiscriminator],
) -> None:
    config, model, critic = networks
    fused = count_step(model, critic, LossNetworks(), config, CPU)
    with references_only():
        plain = count_step(model, critic, LossNetworks(), config, CPU)
    assert min(fused) > 0
    # the references blur by convolutions, which the operators do without, and multiply positions by matrices: some per
    # cent of a network of this size
    assert fused.generator == pytest.approx(plain.generator, rel=0.15)
    model.gradient_checkpointing = True  # computes again: no work of the model's
    assert count_step(model, critic, LossNetworks(), config, CPU) == fused
    assert model.gradient_checkpointing
    model.gradient_checkpointing = False
    assert all(p.grad is None for p in [*model.parameters(), *critic.parameters()])


def test_later_parts_of_a_step_add_to_the_first() -> None:
    cost = StepCost(generator=10.0, adversarial=5.0, r1=4.0)
    assert cost.of_step(3, adversarial=False, r1_interval=2) == 30
    assert cost.of_step(3, adversarial=True, r1_interval=2) == 3 * (10 + 5 + 2)


def test_peaks_are_found_by_the_words_of_a_name() -> None:
    def half(name: str) -> float | None:
        found = peak_of(name)
        return found and found.half

    assert half("NVIDIA H100 80GB HBM3") == half("NVIDIA H100 SXM5 80GB") == 989.4
    assert half("NVIDIA H200") == half("NVIDIA GH200 480GB") == 989.4
    assert half("NVIDIA H100 PCIe") == 756.0
    assert half("NVIDIA H100 NVL") == half("NVIDIA H200 NVL") == 835.5
    assert half("NVIDIA B200") == 2250.0 and half("NVIDIA GB200") == 2500.0
    assert half("NVIDIA A100-SXM4-40GB") == 312.0
    assert half("Tesla V100-SXM2-16GB") == 125.0 and half("Tesla V100-PCIE-32GB") == 112.0
    assert half("NVIDIA L40S") == 362.0 and half("NVIDIA L4") == 121.0
    assert half("NVIDIA RTX A6000") == 154.8 and half("NVIDIA A10") == 125.0
    assert half("NVIDIA GeForce RTX 4090") == 165.2
    assert peak_flops(CPU, "bf16") is None


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA A10G", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 3090 Ti", "Something Else",
    ],
)  # fmt: skip
def test_a_gpu_that_only_sounds_like_a_known_one_has_no_peak(name: str) -> None:
    assert peak_of(name) is None


def test_peaks_are_dense() -> None:
    # every tensor core does TF32 at half the rate of half precision; a sparse number would stand out as twice that
    for words, peak in PEAKS:
        assert peak.half == pytest.approx(2 * peak.tf32, rel=0.02) or peak.tf32 == 0, words


def test_a_line_tells_flops_and_their_share_of_the_peak() -> None:
    timing = Timing(CPU, 1, peak=4e12)
    timing.begin(0, 0)
    numbers = timing.numbers(2, 8, "images", {}, flops=1e12)
    assert numbers[MFU] == pytest.approx(numbers[TFLOPS] / 4, rel=1e-3)  # both are rounded
    assert MFU not in Timing(CPU, 1).numbers(2, 8, "images", {}, flops=1e12)
    assert TFLOPS not in Timing(CPU, 1).numbers(2, 8, "images", {})


def test_parts_and_what_of_them_is_trained_are_listed() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1000))
    net[0].requires_grad_(False)
    table = parameter_table({"net": net})
    assert table == {
        "net": {
            "0": {"parameters": 9, "trained": 0},
            "2": {"parameters": 4000, "trained": 4000},
        }
    }
    assert parameter_lines(table) == ["net: 4.0 k parameters (2 4.0 k, 0 9 frozen)"]


def test_a_run_tells_its_size_and_work_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    trainer(tiny(make_dataset(tmp_path / "heads"), "train.total_images=8"), out).run()
    told = capsys.readouterr().err
    assert "generator: " in told and "discriminator: " in told and "FLOP in each process" in told
    (start,) = json.loads((out / "record.json").read_text())["starts"]
    assert set(start["modules"]["generator"]) >= {"source_encoder", "expression", "vit"}
    for name, parts in start["modules"].items():
        assert sum(p["parameters"] for p in parts.values()) == start["parameters"][name]
    assert start["flops"]["generator"] > 0 and start["flops"]["step"] == pytest.approx(
        4 * start["flops"]["generator"]  # the warm-up: no discriminator yet
    )
    lines = [line for line in run_directory_numbers(out) if "total" in line]
    assert all(line[TFLOPS] > 0 for line in lines)


def test_costs_of_a_run_follow_from_those_of_a_pair() -> None:
    config = load_config(Config, "tiny", ["train.total_images=100", "train.warmup_images=40"])
    cost = StepCost(generator=10.0, adversarial=5.0, r1=4.0)  # tiny: R1 in every second step
    assert costs.of_run(cost, config) == 40 * 10 + 60 * (10 + 5 + 2)
    found = {
        "flop_of_the_run": 86_400 * 8e12,
        "batch_size": 32,
        "bytes_of_states": 1e9,
        "bytes_held_a_pair": 0.5e9,
    }
    assert costs.derived(found, 8, 1e12, 0.5) == {"days": 2.0, "gigabytes": 1 + 4 * 0.5}


def test_the_table_of_costs_is_the_computed_one() -> None:
    computed = json.loads((costs._ROOT / "benchmarks" / "results" / "costs.json").read_text())
    assert costs.table(computed) in (costs._ROOT / "docs" / "cluster.md").read_text()
