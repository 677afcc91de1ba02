"""The figure of the paper that shows what CLeBS forgets: t-SNE of beta and of beta', coloured by person."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from conventions.spaces import ExpressionSpace, check_same_space
from dataset.reader import open_dataset
from dnnlib.errors import UserError
from dnnlib.listing import IMAGE_SUFFIXES
from dnnlib.places import check_new_file
from dnnlib.typed import from_dict
from inference.output import write_image
from metrics.tsne import MAX_POINTS, draw_scatter, purity, tsne
from torch_utils.checkpoints import check_fits
from training.checkpoints import load_checkpoint, load_state_strict
from training.config import ModelConfig
from training.expression.clebs import ExpressionEncoder

if TYPE_CHECKING:
    from dataset.frames import FrameDataset
    from training.expression.clebs import ExpressionEncoder


def tsne_figure(
    data: Path, network: Path, out: Path, n_identities: int, frames_each: int, seed: int = 0
) -> list[str]:
    """Write the figure and return what it says in numbers.

    Raises:
        UserError: `out` names no picture, the dataset has no expressions or too few people, or the checkpoint does not
            fit it.
    """
    if out.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"--out {out} must end in one of {', '.join(IMAGE_SUFFIXES)}")
    check_new_file(out)
    dataset = open_dataset(data)
    if dataset.space is None:
        raise UserError(f"{data} has no expression labels; track its frames first")
    encoder = load_expression_encoder(network, dataset)
    betas, people = choose_frames(dataset, n_identities, frames_each, seed)
    with torch.inference_mode():
        refined = encoder(torch.from_numpy(betas)).numpy()
    panels, lines = [], []
    for name, points in (("beta", betas), ("beta'", refined)):
        embedded = tsne(points, seed=seed)
        same = 100 * purity(points, people)
        panels.append((f"{name}: {same:.0f} % beside the same person", embedded))
        lines.append(
            f"{name:<6} nearest neighbour is the same person for {same:.1f} % of "
            f"{len(points)} frames"
        )
    write_image(out, draw_scatter(panels, people))
    chance = np.mean([np.mean(people == p) for p in people])
    return [*lines, f"chance is {100 * chance:.1f} %", f"wrote {out}"]


def choose_frames(
    dataset: FrameDataset, n_identities: int, frames_each: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """beta float32 [N, D] and identity int [N] of random frames of random people.

    Raises:
        UserError: there are fewer than two people.
    """
    rng = np.random.default_rng(seed)
    identity_of_clip = np.asarray(dataset.clips["identity"])
    people = np.unique(identity_of_clip)
    if len(people) < 2:
        raise UserError(
            "the figure compares people and this dataset has one; give a dataset of several"
        )
    people = rng.permutation(people)[:n_identities]
    each = min(frames_each, MAX_POINTS // len(people))
    betas, labels = [], []
    for person in people:
        clips = dataset.clips[identity_of_clip == person]
        indices = np.concatenate(
            [np.arange(c["first_frame"], c["first_frame"] + c["n_frames"]) for c in clips]
        )
        chosen = np.sort(rng.permutation(indices)[:each])
        betas += [dataset.beta(int(i)) for i in chosen]
        labels += [int(person)] * len(chosen)
    return np.stack(betas).astype(np.float32), np.array(labels)


def load_expression_encoder(path: Path, dataset: FrameDataset) -> ExpressionEncoder:
    """f_e of a checkpoint of train.py (kind model) or pretrain.py (kind clebs).

    Raises:
        UserError: another kind, or its expression space is not the dataset's.
    """
    state, metadata = load_checkpoint(path)
    if metadata["kind"] not in ("model", "clebs"):
        raise UserError(
            f"{path} is a {metadata['kind']} checkpoint; give one of kind model or clebs"
        )
    space = ExpressionSpace.from_dict(metadata["expression"])
    assert dataset.space is not None  # the caller has looked
    check_same_space(space, dataset.space, f"{path} and the dataset")
    config = from_dict(ModelConfig, metadata["config"]["model"], "model")
    if metadata["kind"] == "model":
        state = {
            k.removeprefix("expression."): v
            for k, v in state.items()
            if k.startswith("expression.")
        }
    check_fits(lambda: ExpressionEncoder(config.expression, space.dim), state, str(path))
    encoder = ExpressionEncoder(config.expression, space.dim).eval()
    load_state_strict(encoder, state, str(path))
    return encoder
