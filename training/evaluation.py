"""How good a generator is on clips it has not seen: reconstruction, expression, depth. Deterministic.

Pairs are (source, driving) frames of one clip, drawn by a seed as in training. Reported, sums in float64:

    psnr            driving frame generated from the source, its beta and camera; mean over pairs of the pair's PSNR
    psnr_copy       the source frame itself against the driving frame, the same pairs: what a still picture earns
    psnr_mask       the first inside the person's mask (data with masks only)
    psnr_face       the first around eyes and mouth, pixels weighted by the soft map of the training loss
    exchange_*_db   how much these fall when every pair is driven by the beta of another clip, camera unchanged: a
                    model that does not listen to the expression loses nothing
    depth_r         Pearson correlation of rendered and true depth inside the mask at the raw size; mean over pairs

PSNR is 10 log10(1 / MSE) with pixel values in [0, 1]; inside a mask the MSE is the mask's weighted mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.frames import FrameDataset
from dataset.loader import PairLoader
from dnnlib import UserError
from training.generator.model import Export3D
from training.losses.reconstruction import face_weight_map, resize
from training.objectives import Batch

PROTOCOL = "heads-v1"
_MASK_EDGE = 0.5  # a pixel of the raw image counts for depth when so much of it is the person


@torch.no_grad()
def evaluate(
    model: Export3D,
    dataset: FrameDataset,
    split: str = "test",
    n_pairs: int = 64,
    seed: int = 0,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """The numbers described above for `n_pairs` pairs of `split`; NaN never appears, absent data is left out.

    The model is used as it is (in evaluation mode) and not changed.

    Raises:
        UserError: the split has no clip with two frames, or its resolution is not the model's.
    """
    dataset = fitting(model, dataset)
    pairs = _pairs(dataset, split, n_pairs, seed)
    betas = pairs["beta"].roll(-1, dims=0)  # of the next pair, which is another clip's
    columns: dict[str, list[Tensor]] = {}
    for start in range(0, n_pairs, batch_size):
        here = slice(start, start + batch_size)
        batch = {name: value[here].to(device) for name, value in pairs.items()}
        for name, values in _measure(model, batch, betas[here].to(device)).items():
            columns.setdefault(name, []).append(values.double().cpu())
    means = {name: float(torch.cat(parts).mean()) for name, parts in columns.items()}
    result: dict[str, Any] = {
        "protocol": PROTOCOL,
        "split": split,
        "n_pairs": n_pairs,
        "n_clips": len(np.unique(dataset.frames["clip"][pairs["index"].numpy()])),
        "seed": seed,
        "resolution": dataset.resolution,
    }
    for name, value in means.items():
        if name.startswith("exchanged_"):
            what = name.removeprefix("exchanged_")
            result[f"exchange_{what}_db"] = means[what] - value
        else:
            result[name] = value
    result["gain_over_copy_db"] = means["psnr"] - means["psnr_copy"]
    return result


def held_out_split(dataset: FrameDataset) -> str | None:
    """The split to look at while training: val, else test, if they have clips of two frames."""
    for split in ("val", "test"):
        clips = dataset.clips_of(split)
        if (dataset.clips["n_frames"][clips] >= 2).any():
            return split
    return None


def fitting(model: Export3D, dataset: FrameDataset) -> FrameDataset:
    """The dataset at the network's resolution, where its own is a multiple.

    Raises:
        UserError: it is another, or the length of beta is; names both.
    """
    wanted = model.config.resolution
    if dataset.resolution > wanted and dataset.resolution % wanted == 0:
        dataset = dataset.shrunk_to(wanted)
    if dataset.resolution != model.config.resolution:
        raise UserError(
            f"{dataset.path} has {dataset.resolution} px but the network works at "
            f"{model.config.resolution} px; make the dataset again with that resolution"
        )
    if dataset.space is None or dataset.space.dim != model.expression.space_dim:
        found = "no expression parameters" if dataset.space is None else f"{dataset.space.dim}"
        raise UserError(
            f"{dataset.path} has {found} where the network wants {model.expression.space_dim} "
            "expression parameters; use data of the network's tracker"
        )
    return dataset


def _pairs(dataset: FrameDataset, split: str, n_pairs: int, seed: int) -> dict[str, Tensor]:
    loader = PairLoader(dataset, split, seed, batch_size=n_pairs, mirror=False)
    return next(iter(loader))


def _measure(model: Export3D, batch: Batch, other_beta: Tensor) -> dict[str, Tensor]:
    """Per-pair numbers [N] of one batch."""
    source, real, camera = batch["source"], batch["driving"], batch["camera"]
    features = model.encode_source(source, batch["source_camera"], batch["source_beta"])
    out = model.render(model.planes(features, batch["beta"]), camera)
    exchanged = model.render(model.planes(features, other_beta), camera).image
    regions = {"psnr": torch.ones_like(real[:, :1])}
    if "mask" in batch:
        regions["psnr_mask"] = batch["mask"]
    regions["psnr_face"] = face_weight_map(camera, real.shape[-1], 1.0) - 1
    found = {"psnr_copy": psnr(source, real, regions["psnr"])}
    for name, weight in regions.items():
        found[name] = psnr(out.image, real, weight)
        found[f"exchanged_{name}"] = psnr(exchanged, real, weight)
    if "mask" in batch and "depth" in batch:
        found["depth_r"] = depth_correlation(out.depth, batch["depth"], batch["mask"])
    return found


def psnr(fake: Tensor, real: Tensor, weight: Tensor) -> Tensor:
    """PSNR [N] of images in [-1, 1] (clamped, as they would be saved) with pixel weights [N, 1, H, W]."""
    error = ((fake.double().clamp(-1, 1) - real.double()) / 2).square().mean(dim=1, keepdim=True)
    total = weight.double().sum(dim=(1, 2, 3)).clamp_min(1e-6)
    mse = (error * weight).sum(dim=(1, 2, 3)) / total
    return -10 * mse.clamp_min(1e-10).log10()  # at most 100 dB, for identical images


def depth_correlation(depth: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Pearson r [N] of rendered depth [N, 1, h, h] and true depth [N, 1, H, W] inside the mask; flat depth gives 0."""
    size = depth.shape[-1]
    part = resize(mask.double(), size)
    inside = (part > _MASK_EDGE).double()
    b = resize(truth.double() * mask, size) / part.clamp_min(1e-6)
    a = depth.double()
    count = inside.sum(dim=(1, 2, 3), keepdim=True).clamp_min(1.0)
    a, b = ((x - (x * inside).sum(dim=(1, 2, 3), keepdim=True) / count) * inside for x in (a, b))
    product = (a * b).sum(dim=(1, 2, 3))
    return product / (
        a.square().sum(dim=(1, 2, 3)) * b.square().sum(dim=(1, 2, 3))
    ).sqrt().clamp_min(1e-12)
