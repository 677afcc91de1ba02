"""Metrics of picture pairs. Inputs float32 [N, 3, H, W] in [0, 1]; results float64 [N]."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from metrics.registry import register

if TYPE_CHECKING:
    from training.losses.perceptual import PerceptualLoss

_SSIM_RADIUS = 5  # pixels
_SSIM_SIGMA = 1.5


@register("psnr", direction="higher", range="dB; 100 for equal pictures")
def psnr(pred: Tensor, ref: Tensor) -> Tensor:
    """PSNR = 10 log10(1 / MSE), MSE over all pixels and channels of a picture, values in [0, 1]."""
    mse = (pred.double() - ref.double()).square().mean(dim=(1, 2, 3))
    # 1e-10 bounds equal pictures at 100 dB, so that a mean over pictures stays finite
    return -10 * torch.log10(mse.clamp_min(1e-10))


@register("ssim", direction="higher", range="-1..1")
def ssim(pred: Tensor, ref: Tensor) -> Tensor:
    """SSIM of Wang et al. 2004: Gaussian window of 11 px and sigma 1.5, K1 0.01, K2 0.03, mean of RGB channels.

    The mean runs over pixels whose window lies inside the picture, as in scikit-image. (torchmetrics 1.9 pads the
    picture instead, which moved the score of a noisy 48 px picture by 3e-4.) Raises ValueError below 11 x 11 px.
    """
    if min(pred.shape[-2:]) < 2 * _SSIM_RADIUS + 1:
        raise ValueError(
            f"SSIM needs pictures of at least 11 x 11 px, not {tuple(pred.shape[-2:])}"
        )
    x, y = pred.double(), ref.double()
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    var_x = _window_mean(x * x) - mean_x**2
    var_y = _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _window_mean(x: Tensor) -> Tensor:
    """Gaussian-weighted means of the 11 x 11 windows inside, [N, C, H, W] -> [N, C, H-10, W-10]."""
    taps = torch.arange(-_SSIM_RADIUS, _SSIM_RADIUS + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (taps / _SSIM_SIGMA) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, -1, 1)
    planes = x.flatten(0, 1)[:, None]
    planes = functional.conv2d(functional.conv2d(planes, kernel), kernel.transpose(2, 3))
    return planes[:, 0].unflatten(0, x.shape[:2])


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
