"""Distances of deep features: ST-LPIPS, which is built in, and LPIPS, whose backbones are given by path."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metrics.registry import frame_metric

if TYPE_CHECKING:
    from metrics.pairs import Pairs, Side


def feature_distance(pairs: Pairs, pred: Side, kind: str) -> Tensor:
    """d(a, b) = sum over layers of mean over pixels of sum_c w_c (a_c/|a| - b_c/|b|)^2, float64 [N]."""
    net = pairs.pred.networks.perceptual(kind)
    total = torch.zeros(len(pairs), dtype=torch.float64)
    layers = zip(pred.perceptual(kind), pairs.ref.perceptual(kind), strict=True)
    for i, (a, b) in enumerate(layers):
        weight = net.get_buffer(f"calibration{i}").view(1, -1, 1, 1)
        total += ((a - b).square() * weight).sum(dim=1).mean(dim=(1, 2)).double().cpu()
    return total


def _inside_face(pairs: Pairs, kind: str) -> Tensor:
    scores = feature_distance(pairs, pairs.composite, kind)
    lost = [i for i, face in enumerate(pairs.ref.faces) if face is None]
    scores[lost] = float("nan")
    return scores


@frame_metric("stlpips", direction="lower", range="0..", extractors=("stlpips_alex",))
def stlpips(pairs: Pairs) -> Tensor:
    """ST-LPIPS = the shift-tolerant learned perceptual distance of Ghildyal and Liu 2022, AlexNet features."""
    return feature_distance(pairs, pairs.pred, "stlpips_alex")


@frame_metric("stlpips_vgg", direction="lower", range="0..", extractors=("stlpips_vgg",))
def stlpips_vgg(pairs: Pairs) -> Tensor:
    """ST-LPIPS of Ghildyal and Liu 2022, VGG-16 features."""
    return feature_distance(pairs, pairs.pred, "stlpips_vgg")


@frame_metric("lpips_alex", direction="lower", range="0..", extractors=("lpips_alex",))
def lpips_alex(pairs: Pairs) -> Tensor:
    """LPIPS 0.1 of Zhang et al. 2018, AlexNet features; needs --weights lpips_alex=PATH."""
    return feature_distance(pairs, pairs.pred, "lpips_alex")


@frame_metric("lpips_vgg", direction="lower", range="0..", extractors=("lpips_vgg",))
def lpips_vgg(pairs: Pairs) -> Tensor:
    """LPIPS 0.1 of Zhang et al. 2018, VGG-16 features; needs --weights lpips_vgg=PATH."""
    return feature_distance(pairs, pairs.pred, "lpips_vgg")


@frame_metric(
    "stlpips_face", direction="lower", range="0..", extractors=("stlpips_alex", "landmarks")
)
def stlpips_face(pairs: Pairs) -> Tensor:
    """ST-LPIPS (AlexNet) after the prediction's pixels outside the reference's face are replaced by the reference's."""
    return _inside_face(pairs, "stlpips_alex")


@frame_metric(
    "lpips_alex_face", direction="lower", range="0..", extractors=("lpips_alex", "landmarks")
)
def lpips_alex_face(pairs: Pairs) -> Tensor:
    """LPIPS (AlexNet) after the prediction's pixels outside the reference's face are replaced by the reference's."""
    return _inside_face(pairs, "lpips_alex")
