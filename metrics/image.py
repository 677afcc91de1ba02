"""Metrics of picture pairs: PSNR, SSIM, MS-SSIM, L1, on the whole picture and inside the face.

Inputs float32 [N, 3, H, W] in [0, 1]; results float64 [N].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from metrics.registry import frame_metric, picture_metric

if TYPE_CHECKING:
    from metrics.pairs import Pairs

_SSIM_RADIUS = 5  # pixels
_SSIM_SIGMA = 1.5
_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # from fine to coarse
_COARSE_PX = 128  # side of the pictures whose band is not counted as detail
MS_SSIM_MIN_PX = 161  # five scales, the last still as wide as the window


@picture_metric("psnr", direction="higher", range="dB; 100 for equal pictures")
def psnr(pred: Tensor, ref: Tensor) -> Tensor:
    """PSNR = 10 log10(1 / MSE), MSE over all pixels and channels of a picture, values in [0, 1]."""
    mse = (pred.double() - ref.double()).square().mean(dim=(1, 2, 3))
    return _decibel(mse)


def _decibel(mse: Tensor) -> Tensor:
    # 1e-10 bounds equal pictures at 100 dB, so that a mean over pictures stays finite
    return -10 * torch.log10(mse.clamp_min(1e-10))


@picture_metric("ssim", direction="higher", range="-1..1")
def ssim(pred: Tensor, ref: Tensor) -> Tensor:
    """SSIM of Wang et al. 2004: Gaussian window of 11 px and sigma 1.5, K1 0.01, K2 0.03, mean of RGB channels.

    The mean runs over pixels whose window lies inside the picture, as in scikit-image. (torchmetrics 1.9 pads the
    picture instead, which moved the score of a noisy 48 px picture by 3e-4.) Raises ValueError below 11 x 11 px.
    """
    return ssim_map(pred, ref).mean(dim=(1, 2, 3))


def ssim_map(pred: Tensor, ref: Tensor) -> Tensor:
    """SSIM of every window inside, float64 [N, 3, H-10, W-10]."""
    if min(pred.shape[-2:]) < 2 * _SSIM_RADIUS + 1:
        raise ValueError(
            f"SSIM needs pictures of at least 11 x 11 px, not {tuple(pred.shape[-2:])}"
        )
    luminance, structure = _similarities(pred.double(), ref.double())
    return luminance * structure


def _similarities(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast times structure, of every window inside [N, C, H-10, W-10]."""
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    var_x = _window_mean(x * x) - mean_x**2
    var_y = _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * covariance + c2) / (var_x + var_y + c2)


def _window_mean(x: Tensor) -> Tensor:
    """Gaussian-weighted means of the 11 x 11 windows inside, [N, C, H, W] -> [N, C, H-10, W-10].

    Sums of shifted pictures: sixteen times as fast on a CPU as a float64 convolution of one channel.
    """
    taps = torch.arange(-_SSIM_RADIUS, _SSIM_RADIUS + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (taps / _SSIM_SIGMA) ** 2)
    weights = (kernel / kernel.sum()).tolist()
    for dim in (-2, -1):
        size = x.shape[dim] - len(weights) + 1
        total = x.narrow(dim, 0, size) * weights[0]
        for i, weight in enumerate(weights[1:], start=1):
            total.add_(x.narrow(dim, i, size), alpha=weight)
        x = total
    return x


@picture_metric("ms_ssim", direction="higher", range="0..1")
def ms_ssim(pred: Tensor, ref: Tensor) -> Tensor:
    """MS-SSIM of Wang et al. 2003: five scales, weights 0.0448 0.2856 0.3001 0.2363 0.1333, as in torchmetrics.

    The last scale is padded by reflection, as torchmetrics does; its own code is far slower in float64 on a CPU. A
    test compares the two. Raises ValueError below 161 px.
    """
    if min(pred.shape[-2:]) < MS_SSIM_MIN_PX:
        raise ValueError(
            f"MS-SSIM needs pictures of at least {MS_SSIM_MIN_PX} px, not {tuple(pred.shape[-2:])}"
        )
    x, y = pred.double(), ref.double()
    score = torch.ones(len(x), dtype=torch.float64, device=x.device)
    for weight in _MS_SSIM_WEIGHTS[:-1]:
        structure = _similarities(x, y)[1].mean(dim=(1, 2, 3))
        score = score * structure.clamp_min(0) ** weight
        x, y = functional.avg_pool2d(x, 2), functional.avg_pool2d(y, 2)
    border = (_SSIM_RADIUS,) * 4
    padded = (functional.pad(z, border, mode="reflect") for z in (x, y))
    luminance, structure = _similarities(*padded)
    last = (luminance * structure).mean(dim=(1, 2, 3))
    return score * last.clamp_min(0) ** _MS_SSIM_WEIGHTS[-1]


@picture_metric("l1", direction="lower", range="0..1")
def l1(pred: Tensor, ref: Tensor) -> Tensor:
    """L1 = mean |a - b| over all pixels and channels, values in [0, 1]."""
    return (pred.double() - ref.double()).abs().mean(dim=(1, 2, 3))


# ---- inside the face ---------------------------------------------------------------------------------------------


def _inside(values: Tensor, mask: Tensor) -> Tensor:
    """Mean [N] of [N, C, H, W] where the mask [N, 1, H, W] is 1; NaN where the mask is NaN."""
    share = mask.double() / mask.double().sum(dim=(1, 2, 3), keepdim=True)
    return (values.mean(dim=1, keepdim=True) * share).sum(dim=(1, 2, 3))


@frame_metric(
    "psnr_face",
    direction="higher",
    range="dB; 100 for equal faces",
    extractors=("landmarks",),
)
def psnr_face(pairs: Pairs) -> Tensor:
    """PSNR of the pixels in the convex hull of the reference's 478 landmarks."""
    error = (pairs.pred.tensor.double() - pairs.ref.tensor.double()).square()
    return _decibel(_inside(error, pairs.ref.face_mask))


@frame_metric("ssim_face", direction="higher", range="-1..1", extractors=("landmarks",))
def ssim_face(pairs: Pairs) -> Tensor:
    """SSIM, mean over the windows whose centre lies in the convex hull of the reference's 478 landmarks."""
    r = _SSIM_RADIUS
    mask = pairs.ref.face_mask[..., r:-r, r:-r]
    return _inside(ssim_map(pairs.pred.tensor, pairs.ref.tensor), mask)


@frame_metric("l1_face", direction="lower", range="0..1", extractors=("landmarks",))
def l1_face(pairs: Pairs) -> Tensor:
    """L1 of the pixels in the convex hull of the reference's 478 landmarks."""
    error = (pairs.pred.tensor.double() - pairs.ref.tensor.double()).abs()
    return _inside(error, pairs.ref.face_mask)


@frame_metric(
    "detail_face",
    direction="higher",
    range="0 or more; 1 for as much as the reference",
    extractors=("landmarks",),
)
def detail_face(pairs: Pairs) -> Tensor:
    """Share of the face's energy that a picture of 128 px does not hold, relative to the reference's share.

    Energy is the variance within the convex hull of the reference's 478 landmarks; what 128 px do not hold is the
    rest after area means and bilinear enlargement. It tells blur from detail also where the two are not the same
    moment; noise counts as detail. Raises ValueError for pictures that are no multiple of 128 px, or 128 themselves.
    """
    mask = pairs.ref.face_mask
    return _fine_share(pairs.pred.tensor, mask) / _fine_share(pairs.ref.tensor, mask)


def _fine_share(picture: Tensor, mask: Tensor) -> Tensor:
    """Energy [N] above the band of `_COARSE_PX` / all energy, of [N, 3, H, W] where the mask is 1."""
    size = picture.shape[-1]
    if size % _COARSE_PX or size == _COARSE_PX or picture.shape[-2] != size:
        raise ValueError(
            f"detail_face needs square pictures of 256, 384, 512, ... px, not {tuple(picture.shape[-2:])}"
        )
    x = picture.double()
    coarse = functional.avg_pool2d(x, size // _COARSE_PX)
    coarse = functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)
    mean = _inside(x, mask)[:, None, None, None]
    return _inside((x - coarse).square(), mask) / _inside((x - mean).square(), mask).clamp_min(
        1e-10
    )
