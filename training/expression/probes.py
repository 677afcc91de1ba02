"""What an expression vector knows: of the person, which it should not, and of the expression, which it should.

Measured on beta itself, on beta' = f_e(beta), on its coefficients lambda and, as the plain way to as few numbers, on
the first n principal components of beta; over frames of people that the encoder has not seen:

    purity_*      share of frames whose nearest neighbour (Euclidean, standardised) is of the same person
    identity_*    accuracy of a linear (ridge) classifier of the person, trained on half of the frames
    expression_*  R^2 of a ridge regression to the true expression of people that it was not fitted on, in five parts,
                  with the ridge of three that serves the representation best (synthetic data only)

And on f_e with f_I: whether beta find their frames (`retrieval`).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dataset.frames import FrameDataset
from dataset.loader import ClipLoader
from dataset.samplers import ClipBatchSampler
from training.expression.clebs import ExpressionEncoder
from training.expression.contrastive import contrastive_loss

Matrix = npt.NDArray[np.float64]

_RIDGE = 1e-2  # relative to the features' variance, which is 1
_RIDGES = (1e-2, 1e-1, 1.0)  # noisy features of few people want more
_PARTS = 5
_MAX_PEOPLE, _MAX_FRAMES = 100, 20


@torch.no_grad()
def probe_expression(
    encoder: ExpressionEncoder,
    dataset: FrameDataset,
    split: str = "test",
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """The numbers described above, keys ending in `_beta`, `_refined`, `_lambda`, `_pca`, and `purity_chance`.

    An encoder without basis scaling has no lambda, and no n for PCA.

    Empty when the split has fewer than two clips of four frames.
    """
    counts = dataset.clips["n_frames"][dataset.clips_of(split)]
    frames = int(min(_MAX_FRAMES, counts.max(initial=0)))
    people = int(min(_MAX_PEOPLE, (counts >= frames).sum()))
    if people < 2 or frames < 4:
        return {}
    index = ClipBatchSampler(dataset, split, 0, people, frames).batch(0).reshape(-1)
    who = dataset.clips["identity"][dataset.frames["clip"][index]]
    beta = np.stack([dataset.beta(int(i)) for i in index])
    there = torch.from_numpy(beta).to(device)
    of = {"beta": beta, "refined": encoder(there).cpu().numpy()}
    scaling = getattr(encoder, "scaling", None)
    if scaling is not None:
        of["lambda"] = scaling.coefficients(there).cpu().numpy()
        of["pca"] = principal(beta.astype(np.float64), of["lambda"].shape[1])
    found = {"purity_chance": float(np.mean([(who == w).sum() - 1 for w in who]) / (len(who) - 1))}
    for name, x in of.items():
        features = standardise(x.astype(np.float64))
        found[f"purity_{name}"] = nearest_neighbour_purity(features, who)
        found[f"identity_{name}"] = identity_accuracy(features, who, frames)
        if "beta_true" in dataset.spec.extra_labels:
            truth = np.stack([dataset.label("beta_true", int(i)) for i in index])
            found[f"expression_{name}"] = expression_r2(features, truth.astype(np.float64), frames)
    return found


def standardise(x: Matrix) -> Matrix:
    """Zero mean, unit variance; directions without variance stay zero."""
    centred = x - x.mean(axis=0)
    deviation = centred.std(axis=0)
    return centred / np.where(deviation > 1e-8, deviation, np.inf)


def principal(x: Matrix, n: int) -> Matrix:
    """The first n principal components of rows [N, D]: no other n linear numbers keep more of these rows."""
    centred = x - x.mean(axis=0)
    out: Matrix = centred @ np.linalg.svd(centred, full_matrices=False)[2][:n].T
    return out


def nearest_neighbour_purity(x: Matrix, who: npt.NDArray[np.integer]) -> float:
    """Share of rows whose nearest other row belongs to the same person."""
    squares = (x**2).sum(axis=1)
    distance = squares[:, None] + squares - 2 * x @ x.T
    np.fill_diagonal(distance, np.inf)
    return float((who[distance.argmin(axis=1)] == who).mean())


def identity_accuracy(x: Matrix, who: npt.NDArray[np.integer], frames: int) -> float:
    """Accuracy of a ridge classifier on the second half of each person's frames."""
    train = np.arange(len(x)) % frames < frames // 2
    _, label = np.unique(who, return_inverse=True)
    answer = _ridge(x[train], np.eye(label.max() + 1)[label[train]], x[~train])
    return float((answer.argmax(axis=1) == label[~train]).mean())


def expression_r2(x: Matrix, truth: Matrix, frames: int = 1) -> float:
    """Share of the variance of the true expression that a linear map finds in people it was not fitted on.

    x, truth: rows person by person, each with `frames` rows.
    """
    people = np.arange(len(x)) // frames
    part = people * min(_PARTS, people[-1] + 1) // (people[-1] + 1)
    spread = ((truth - truth.mean(axis=0)) ** 2).sum()
    errors = []
    for ridge in _RIDGES:
        error = 0.0
        for left_out in np.unique(part):
            rest, out = part != left_out, part == left_out
            error += float(((_ridge(x[rest], truth[rest], x[out], ridge) - truth[out]) ** 2).sum())
        errors.append(error)
    return float(1 - min(errors) / max(spread, 1e-12))


def _ridge(x: Matrix, y: Matrix, at: Matrix, ridge: float = _RIDGE) -> Matrix:
    mean = y.mean(axis=0)
    gram = x.T @ x + ridge * len(x) * np.eye(x.shape[1])
    out: Matrix = at @ np.linalg.solve(gram, x.T @ (y - mean)) + mean
    return out


@torch.no_grad()
def retrieval(
    image: nn.Module,
    expression: ExpressionEncoder,
    dataset: FrameDataset,
    split: str,
    frames: int,  # K; chance is 1 / K
    image_size: int,
    device: torch.device,
    max_videos: int = 64,
) -> dict[str, float]:
    """Share of beta that find their own frame among K of an unseen person's video."""
    n_frames = dataset.clips["n_frames"][dataset.clips_of(split)]
    videos = min(int((n_frames >= frames).sum()), max_videos)
    if videos == 0:
        return {}
    batch = next(iter(ClipLoader(dataset, split, 0, videos, frames, image_size)))
    accuracies = []
    for pictures, betas in zip(batch["image"].to(device), batch["beta"].to(device), strict=True):
        done = contrastive_loss(
            image(pictures)[None], expression(betas)[None], torch.zeros((), device=device)
        )
        accuracies.append(float(done.accuracy))
    return {
        "retrieval_accuracy": math.fsum(accuracies) / videos,
        "retrieval_chance": 1 / frames,
        "retrieval_videos": float(videos),
    }
