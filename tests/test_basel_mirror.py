"""Mirroring of bfm64: the basis of a Basel model says how, checked on a symmetric face that is made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from training_support import make_dataset, tiny, trainer

from conventions.mirror import mirror_permutation
from conventions.spaces import ARKIT52, BFM64
from dnnlib import UserError
from tracking.basel import BaselModel, basel_mirror

PAIRS, MIDDLE = 60, 10  # vertices
N = 2 * PAIRS + MIDDLE
PARTNER = np.r_[np.arange(PAIRS, 2 * PAIRS), np.arange(PAIRS), np.arange(2 * PAIRS, N)]
FLIP = np.array([-1.0, 1.0, 1.0])


def mirrored(vertices: np.ndarray) -> np.ndarray:
    """[N, 3, ...] -> the mirrored face's, by the partners that it was made with."""
    return vertices[PARTNER] * FLIP.reshape(3, *[1] * (vertices.ndim - 2))


def save(path: Path, symmetric: bool = True) -> Path:
    """A face with partners, and bases of which only mixtures mirror into each other: no column has a partner."""
    random = np.random.default_rng(0)
    side = random.normal(0, 0.5, (PAIRS, 3)) + [1.5, 0, 0]
    mean = np.concatenate([side, side * FLIP, random.normal(0, 0.5, (MIDDLE, 3)) * [0, 1, 1]])
    half = random.normal(0, 0.01, (N, 3, 32))
    both = np.concatenate([half, mirrored(half)], axis=-1)
    basis = (both if symmetric else random.normal(0, 0.01, both.shape)) @ random.normal(
        0, 1, (64, 64)
    )
    made = {
        "meanshape": mean.reshape(1, -1),
        "idBase": random.normal(0, 0.01, (3 * N, 80)),
        "exBase": basis.reshape(3 * N, 64),
        "keypoints": np.arange(1, 69, dtype=np.uint16)[None],
    }
    savemat(path, {k: v.astype(np.float32) if k != "keypoints" else v for k, v in made.items()})
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "BFM_model_front.mat")


def test_the_mirrored_expression_is_the_mirrored_face(model: Path) -> None:
    beta = np.random.default_rng(1).normal(0, 1, (5, 64)).astype(np.float32)
    mirror = basel_mirror(model)
    basel, other = BaselModel(model), mirror(beta)
    assert other.shape == beta.shape and other.dtype == np.float32
    rest = basel.keypoints(np.zeros(80), np.zeros(64))
    for before, after in zip(beta, other, strict=True):
        moved = basel.keypoints(np.zeros(80), before) - rest
        # keypoints 0..59 are one side and 60..67 the first of the other: partners of 0..7
        found = (basel.keypoints(np.zeros(80), after) - rest)[:8]
        np.testing.assert_allclose(moved[60:68] * FLIP, found, atol=2e-5)  # float32 beta, file
    np.testing.assert_allclose(mirror(other), beta, atol=1e-3)  # twice is not at all
    assert np.abs(other - beta).max() > 0.1
    assert mirror.hash == basel.hash and mirror.error < 1e-4


def test_a_basis_that_is_not_symmetric_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not symmetric .* set data\.mirror=false"):
        basel_mirror(save(tmp_path / "odd.mat", symmetric=False))


def test_bfm64_trains_with_the_model_and_is_refused_without(model: Path, tmp_path: Path) -> None:
    data, out = make_dataset(tmp_path / "heads", space=BFM64), tmp_path / "run"
    options = ("data.mirror=true", "train.total_images=4", "train.eval_pairs=0")
    with pytest.raises(UserError, match=r"bfm64.*give data\.bfm_model"):
        trainer(tiny(data, *options), out)
    assert not out.exists()
    run = trainer(tiny(data, *options, f"data.bfm_model={model}"), out)
    mirror = basel_mirror(model)
    flipped = 0
    for batch, _ in zip(run.loader(), range(4), strict=False):
        for k, flip in enumerate(batch["mirrored"].tolist()):
            own = run.dataset.beta(int(batch["index"][k]))
            np.testing.assert_array_equal(batch["beta"][k].numpy(), mirror(own) if flip else own)
            flipped += flip
    assert flipped
    run.run()
    assert torch.isfinite(next(run.model.parameters())).all()
    assert run.facts()["mirror"] == {"model": mirror.hash, "error": mirror.error}


def test_the_model_is_of_no_other_space(model: Path, tmp_path: Path) -> None:
    mirror_permutation(ARKIT52)  # mirrors by its names
    data = make_dataset(tmp_path / "heads", space=ARKIT52)
    with pytest.raises(UserError, match="belongs to the expression space bfm64"):
        trainer(tiny(data, f"data.bfm_model={model}"), tmp_path / "run")
