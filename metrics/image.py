"""Metrics of picture pairs. Inputs float32 [N, 3, H, W] in [0, 1]; results float64 [N]."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from metrics.registry import register

if TYPE_CHECKING:
    from training.losses.perceptual import PerceptualLoss


@register("psnr", direction="higher", range="dB; 100 for equal pictures")
def psnr(pred: Tensor, ref: Tensor) -> Tensor:
    """PSNR = 10 log10(1 / MSE), MSE over all pixels and channels of a picture, values in [0, 1]."""
    mse = (pred.double() - ref.double()).square().mean(dim=(1, 2, 3))
    # 1e-10 bounds equal pictures at 100 dB, so that a mean over pictures stays finite
    return -10 * torch.log10(mse.clamp_min(1e-10))


@register("ssim", direction="higher", range="-1..1")
def ssim(pred: Tensor, ref: Tensor) -> Tensor:
    """SSIM of Wang et al. 2004: Gaussian window of 11 px and sigma 1.5, K1 0.01, K2 0.03, mean of RGB channels."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    score: Any = structural_similarity_index_measure(
        pred.double(), ref.double(), data_range=1.0, reduction="none"
    )
    return torch.as_tensor(score).reshape(len(pred))


@register("l1", direction="lower", range="0..1")
def l1(pred: Tensor, ref: Tensor) -> Tensor:
    """L1 = mean |a - b| over all pixels and channels, values in [0, 1]."""
    return (pred.double() - ref.double()).abs().mean(dim=(1, 2, 3))


@lru_cache(maxsize=1)
def _stlpips_net() -> PerceptualLoss:
    from training.losses.perceptual import perceptual_loss

    return perceptual_loss("stlpips_alex")


def _stlpips_record() -> str:
    files = _stlpips_net().record()["files"]
    return ", ".join(f"{name} (sha256 {digest[:12]})" for name, digest in files.items())


@register("stlpips", direction="lower", range="0..", extractor=_stlpips_record)
def stlpips(pred: Tensor, ref: Tensor) -> Tensor:
    """ST-LPIPS = the shift-tolerant learned perceptual distance of Ghildyal and Liu 2022, AlexNet features."""
    with torch.inference_mode():
        return _stlpips_net().distance(pred * 2 - 1, ref * 2 - 1).double()
