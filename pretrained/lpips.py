"""LPIPS (Zhang et al. 2018) on AlexNet or VGG-16: torchvision's backbone by path, linear weights of torchmetrics."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from dnnlib.errors import UserError
from dnnlib.files import sha256_file
from dnnlib.packaged import packaged_file
from pretrained.perceptual import PerceptualLoss, perceptual_loss
from pretrained.weights import read_weights
from torch_utils.checkpoints import load_state_strict

_ALEX_INDICES = (0, 3, 6, 8, 10)  # of the convolutions in torchvision's alexnet.features
_MIN_PX = 64  # smaller pictures are scaled up, as in the training loss


def lpips_network(kind: str, backbone: Path) -> PerceptualLoss:
    """`kind` is lpips_alex or lpips_vgg, `backbone` torchvision's alexnet or vgg16 state dict.

    Raises:
        UserError: the weights are missing, damaged or of another network.
    """
    net = kind.removeprefix("lpips_")
    linear = packaged_file(
        "torchmetrics", f"functional/image/lpips_models/{net}.pth", "torchmetrics"
    )
    if net == "vgg":
        return perceptual_loss("lpips_vgg", f"{backbone},{linear}")
    state, weights = read_weights(backbone), read_weights(linear)
    stages = _alex_stages()
    convolutions = [m for stage in stages for m in stage if isinstance(m, nn.Conv2d)]
    for index, convolution in zip(_ALEX_INDICES, convolutions, strict=True):
        names = {k: f"features.{index}.{k}" for k in ("weight", "bias")}
        if any(name not in state for name in names.values()):
            raise UserError(
                f"{backbone} lacks features.{index} of AlexNet; give torchvision's alexnet weights"
            )
        found = {k: state[name] for k, name in names.items()}
        load_state_strict(convolution, found, f"layer features.{index} of {backbone}")
    calibration = [weights[f"lin{i}.model.1.weight"] for i in range(len(stages))]
    files = {path.name: sha256_file(path) for path in (backbone, linear)}
    return PerceptualLoss("lpips_alex", stages, calibration, files, _MIN_PX)


def _alex_stages() -> list[nn.Sequential]:
    """AlexNet (Krizhevsky 2014) up to its last convolution, cut behind each ReLU."""
    return [
        nn.Sequential(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(3, 2), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]
