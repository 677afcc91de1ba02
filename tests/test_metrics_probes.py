"""Probes of expression vectors on made-up people whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import calc_metrics
from conventions.cameras import camera_label
from conventions.spaces import ExpressionSpace
from dataset.frames import FrameDataset
from dataset.joining import finalise
from dataset.reader import open_dataset
from dataset.spec import DatasetSpec
from dataset.writer import ShardWriter
from training.config import ExpressionConfig
from training.expression.clebs import ExpressionEncoder
from training.expression.probes import (
    expression_r2,
    identity_accuracy,
    nearest_neighbour_purity,
    principal,
    probe_expression,
    standardise,
)

PEOPLE, FRAMES, UNITS = 20, 12, 6
CHANCE = 1 / PEOPLE
SPACE = ExpressionSpace(
    "made-up", UNITS + PEOPLE, "nobody", "1", tuple(f"number{i}" for i in range(UNITS + PEOPLE))
)


def made_up(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expressions [N, UNITS], the code of each frame's person (1 at the person's own place), and the person [N]."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(PEOPLE), FRAMES)
    return rng.uniform(0, 1, (len(who), UNITS)), np.eye(PEOPLE)[who], who


def measured(beta: np.ndarray) -> tuple[float, float, float]:
    """Accuracy for the person, R^2 for the expression, purity."""
    expression, _, who = made_up()
    x = standardise(beta)
    return (
        identity_accuracy(x, who, FRAMES),
        expression_r2(x, expression),
        nearest_neighbour_purity(x, who),
    )


def test_expression_with_a_person_code_tells_both() -> None:
    expression, code, _ = made_up()
    accuracy, r2, purity = measured(np.concatenate([expression, code], axis=1))
    assert accuracy == 1 and purity == 1
    assert r2 > 0.98  # a ridge of 0.01 of the variance takes 1 % of the answer


def test_expression_alone_leaves_the_person_at_chance() -> None:
    expression, _, _ = made_up()
    accuracy, r2, purity = measured(expression)
    # 120 answers at 1 in 20: 6 right, standard deviation 2.4; three of them are 0.06. Purity: of 240.
    assert accuracy < CHANCE + 0.06 and purity < CHANCE + 0.045
    assert r2 > 0.98


def test_a_person_code_alone_says_nothing_of_the_expression() -> None:
    _, code, _ = made_up()
    accuracy, r2, purity = measured(code)
    assert accuracy == 1 and purity == 1
    assert (
        abs(r2) < 0.05
    )  # the mean of 120 frames is all that is left, off by 1 / sqrt(120) of the deviation


def test_r2_is_the_share_of_the_signal() -> None:
    """With noise of the signal's variance the best linear map finds half; of three times the variance, a quarter."""
    rng = np.random.default_rng(1)
    signal = rng.normal(size=(8000, 3))
    for noise, share in ((1.0, 0.5), (3.0, 0.25)):
        x = signal + np.sqrt(noise) * rng.normal(size=signal.shape)
        # 12,000 values of the second half: standard error of the share below 0.01
        assert expression_r2(standardise(x), signal) == pytest.approx(share, abs=0.03)


def test_principal_components_keep_what_varies_most_and_lambda_is_probed_as_well(
    data: Path,
) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4000, 4)) * [3, 0.1, 2, 0.01]
    kept = principal(x, 2)
    assert kept.var(axis=0) == pytest.approx(
        [9, 4], rel=0.1
    )  # of 4,000 draws: 2 % of standard error
    assert abs(np.corrcoef(kept[:, 0], x[:, 0])[0, 1]) > 0.999
    encoder = ExpressionEncoder(
        ExpressionConfig(n_bases=4, dim=8, hidden=8, layers=2), UNITS + PEOPLE
    )
    found = probe_expression(encoder, open_dataset(data), "test")
    # four components of six equal units and a code: some of the expression, not all of it
    assert 0.2 < found["expression_pca"] < 0.9
    assert {"identity_lambda", "purity_lambda", "expression_lambda", "identity_pca"} <= found.keys()


# ---- from a dataset to the report --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of the made-up people, beta = expression and code; the pictures show nothing."""
    dest = tmp_path_factory.mktemp("probes") / "data"
    expression, code, who = made_up()
    spec = DatasetSpec(
        resolution=8,
        expression=SPACE,
        channels=("image",),
        extra_labels={"beta_true": UNITS},
        crop={"name": "none", "version": 1},
        tracker={"name": "nobody", "hash": "0"},
    )
    with ShardWriter(dest, 0, spec) as shard:
        for person in range(PEOPLE):
            shard.add_clip(f"person{person}", person, "test", 25.0)
            for i in np.flatnonzero(who == person):
                shard.add_frame(
                    image=np.zeros((8, 8, 3), np.uint8),
                    camera=camera_label(0.0, 0.0),
                    beta=np.concatenate([expression[i], code[i]]).astype(np.float32),
                    beta_true=expression[i].astype(np.float32),
                )
    finalise(dest)
    return dest


def forget_the_person(beta: Tensor) -> Tensor:
    """The encoder that CLeBS should become: keeps the expression, drops the code."""
    return beta[:, :UNITS]


def check(found: dict[str, float]) -> None:
    assert found["identity_beta"] == 1 and found["identity_refined"] < CHANCE + 0.06
    # ten people's codes are 10 further regressors of 120 frames: 0.976 seen
    assert found["expression_beta"] > 0.95 and found["expression_refined"] > 0.98
    chance = (FRAMES - 1) / (PEOPLE * FRAMES - 1)
    assert found["purity_chance"] == pytest.approx(chance)
    assert found["purity_beta"] == 1 and found["purity_refined"] < chance + 0.045


def test_an_encoder_that_forgets_the_person_is_told_from_beta(data: Path) -> None:
    check(probe_expression(forget_the_person, open_dataset(data), "test"))  # type: ignore[arg-type]


def test_the_command_prints_and_writes_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(path: Path, dataset: FrameDataset) -> Callable[[Tensor], Tensor]:
        return forget_the_person

    monkeypatch.setattr("metrics.expression_figure.load_expression_encoder", load)
    out, network = tmp_path / "probes.json", tmp_path / "made-up.safetensors"
    network.touch()
    words = ["probes", "--data", data, "--network", network, "--out", out]
    done = CliRunner().invoke(calc_metrics.main, list(map(str, words)))
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    check(found)
    assert f"{found['identity_refined']:.4f}" in done.output and found["split"] == "test"
    words[2] = tmp_path / "absent"
    done = CliRunner().invoke(calc_metrics.main, list(map(str, words)))
    assert done.exit_code == 1 and "Traceback" not in done.output


def test_a_split_without_people_is_one_sentence(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "metrics.expression_figure.load_expression_encoder", lambda *_: torch.nn.Identity()
    )
    words = ["probes", "--data", str(data), "--network", __file__, "--split", "val"]
    done = CliRunner().invoke(calc_metrics.main, words)
    assert done.exit_code == 1 and "the split val" in done.output
