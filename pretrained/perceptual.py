"""Perceptual distance: LPIPS or plain VGG features when the user gives weights, else shift-tolerant LPIPS (ST-LPIPS).

ST-LPIPS (Ghildyal and Liu, ECCV 2022) is another measure than LPIPS (Zhang et al., CVPR 2018) and has other values: it
is never called LPIPS here, and `record()` says which network was used. All of them compare unit-normalised features:

    d(a, b) = sum over layers of mean over pixels of sum_c w_c (a_c / |a| - b_c / |b|)^2
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dnnlib.errors import UserError
from dnnlib.files import sha256_file
from dnnlib.packaged import packaged_file
from pretrained.weights import read_weights
from torch_utils.checkpoints import load_state_strict

Kind = Literal["auto", "stlpips_alex", "stlpips_vgg", "lpips_vgg", "vgg16"]
KINDS = ("auto", "stlpips_alex", "stlpips_vgg", "lpips_vgg", "vgg16")

# Images in [-1, 1] to what the ImageNet networks were trained on: 2 * mean - 1 and 2 * std of ImageNet.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_IN_CACHE = 2  # pictures whose features a CPU's cache holds better than a batch's
_NORM_FLOOR = 1e-16  # under the root: where all features are zero the gradient is zero, not NaN

# One stage per compared layer: numbers are the output channels of a convolution with ReLU, "pool" halves the size.
_VGG16_STAGES: tuple[tuple[int | str, ...], ...] = (
    (64, 64),
    ("pool", 128, 128),
    ("pool", 256, 256, 256),
    ("pool", 512, 512, 512),
    ("pool", 512, 512, 512),
)
_VGG16_INDICES = (
    0,
    2,
    5,
    7,
    10,
    12,
    14,
    17,
    19,
    21,
    24,
    26,
    28,
)  # of the convolutions in torchvision's vgg16.features
_STLPIPS_VGG_NAMES = (
    *("slice1.0", "slice1.2", "slice2.6", "slice2.8", "slice3.12", "slice3.14", "slice3.16"),
    *("slice4.20", "slice4.22", "slice4.24", "slice5.28", "slice5.30", "slice5.32"),
)
_STLPIPS_ALEX_NAMES = ("slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13")


class _BlurDown(nn.Module):
    """Halves the size behind a [1 2 1] low-pass filter, with a reflected border of two pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0])
        kernel = torch.outer(taps, taps) / 16.0
        self.register_buffer(
            "kernel", kernel.expand(channels, 1, 3, 3).contiguous(), persistent=False
        )
        self.kernel: Tensor

    def forward(self, x: Tensor) -> Tensor:
        x = functional.pad(x, (2, 2, 2, 2), mode="reflect")
        return functional.conv2d(x, self.kernel.to(x.dtype), stride=2, groups=x.shape[1])


class _ConvBlurDown(nn.Conv2d):
    """A convolution without stride and `_BlurDown` behind it, as one convolution of stride 2.

    Filters in a row are one filter: that of the two has the side k + 2 and is asked for a quarter of the places. Only
    the outermost row and column on each side see the blur's reflection; they go the long way.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, padding: int) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=padding)
        self.blur = _BlurDown(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        border = self.padding[0]
        assert isinstance(border, int)
        k, rows, columns = self.kernel_size[0], *(n + 2 * border for n in x.shape[-2:])
        if min(rows, columns) < k + 4:  # hardly more than border
            return self.blur(super().forward(x))
        x = functional.pad(x, (border,) * 4)
        taps = self.blur.kernel[:1].flip(2, 3).to(x.dtype).expand(self.in_channels, -1, -1, -1)
        both = functional.conv2d(self.weight, taps, padding=2, groups=self.in_channels)
        inside = functional.conv2d(x, both, self.bias, stride=2)
        left, right = (
            t.transpose(2, 3)[:, :, 1:-1]
            for t in self._border(x.transpose(2, 3), self.weight.transpose(2, 3))
        )
        top, bottom = self._border(x, self.weight)
        middle = torch.cat([like(inside, left), inside, like(inside, right)], dim=3)
        return torch.cat([like(inside, top), middle, like(inside, bottom)], dim=2)

    def _border(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The first and the last row of the result, of the padded image."""
        k = weight.shape[2]
        made = x.shape[2] - k + 1  # rows between convolution and blur
        first, last = (
            functional.conv2d(part, weight, self.bias)  # three rows
            for part in (x[:, :, : k + 2], x[:, :, -k - 2 :])
        )
        # reflected: rows 2 1 | 0 1 2 at one end; at the other the last window is one row on where `made` is odd
        first = first[:, :, [2, 1, 0]]
        last = last[:, :, [2, 1, 0]] if made % 2 else last[:, :, [1, 2, 1]]
        both = functional.pad(torch.cat([first, last], dim=1), (2, 2, 0, 0), mode="reflect")
        taps = self.blur.kernel.to(x.dtype).repeat(2, 1, 1, 1)
        one, two = functional.conv2d(both, taps, stride=2, groups=len(taps)).chunk(2, dim=1)
        return one, two


def like(pattern: Tensor, x: Tensor) -> Tensor:
    """x in the memory format of `pattern`: cat keeps a format only where all parts have it."""
    last = pattern.is_contiguous(memory_format=torch.channels_last)
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _vgg_stages(shift_tolerant: bool) -> list[nn.Sequential]:
    stages, channels = [], 3
    for stage in _VGG16_STAGES:
        layers: list[nn.Module] = []
        for item in stage:
            if isinstance(item, int):
                layers += [nn.Conv2d(channels, item, 3, padding=1), nn.ReLU()]
                channels = item
            elif shift_tolerant:
                layers += [nn.MaxPool2d(2, stride=1), _BlurDown(channels)]
            else:
                layers.append(nn.MaxPool2d(2))
        stages.append(nn.Sequential(*layers))
    return stages


def _shift_tolerant_alex_stages() -> list[nn.Sequential]:
    return [
        # The first convolution of AlexNet without its stride; the blur halves instead, before the ReLU.
        nn.Sequential(_ConvBlurDown(3, 64, 11, padding=2), nn.ReLU()),
        nn.Sequential(
            nn.MaxPool2d(3, 1), _BlurDown(64), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()
        ),
        nn.Sequential(
            nn.MaxPool2d(3, 1), _BlurDown(192), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()
        ),
        nn.Sequential(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]


class PerceptualLoss(nn.Module):
    """A frozen network and the distance of its features. Make it with `perceptual_loss`."""

    def __init__(
        self,
        kind: str,
        stages: list[nn.Sequential],
        calibration: Sequence[Tensor] | None,  # one [C] >= 0 per stage; None: 1 / C each
        files: dict[str, str],  # name -> SHA-256
        min_size: int = 64,  # smaller inputs are scaled up to it
    ) -> None:
        super().__init__()
        self.kind, self._files, self.min_size = kind, files, min_size
        self.stages = nn.ModuleList(stages)
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1))
        self.shift: Tensor
        self.scale: Tensor
        for i, stage in enumerate(stages):
            width = [m for m in stage if isinstance(m, nn.Conv2d)][-1].out_channels
            weight = (
                torch.full((width,), 1.0 / width)
                if calibration is None
                else calibration[i].reshape(-1)
            )
            self.register_buffer(f"calibration{i}", weight.float().clone())
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> PerceptualLoss:
        return super().train(False)  # frozen: has no training mode

    def record(self) -> dict[str, Any]:
        """What a run notes about this loss: kind, files and their SHA-256."""
        return {"kind": self.kind, "files": dict(self._files), "min_size": self.min_size}

    def features(self, image: Tensor) -> list[Tensor]:
        """Unit-normalised float32 features of [N, 3, H, W] in [-1, 1], one [N, C, h, w] a stage."""
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"image must be [N, 3, H, W], not {tuple(image.shape)}")
        if min(image.shape[-2:]) < self.min_size:
            image = functional.interpolate(
                image, size=(self.min_size, self.min_size), mode="bilinear"
            )
        x = (image - self.shift) / self.scale
        if not torch.is_grad_enabled():  # twice as fast on a CPU; the way back gains nothing
            x = x.contiguous(memory_format=torch.channels_last)
        found = []
        for stage in self.stages:
            x = stage(x)
            wide = x.float()
            found.append(wide / (wide.square().sum(dim=1, keepdim=True) + _NORM_FLOOR).sqrt())
        return found

    def distance(self, image: Tensor, target: Tensor) -> Tensor:
        """Distances [N] of two batches [N, 3, H, W] in [-1, 1]; 0 for equal images."""
        if not torch.is_grad_enabled() and image.device.type == "cpu" and len(image) > _IN_CACHE:
            parts = zip(image.split(_IN_CACHE), target.split(_IN_CACHE), strict=True)
            return torch.cat([self.distance(a, b) for a, b in parts])
        total = image.new_zeros(image.shape[0], dtype=torch.float32)
        for i, (a, b) in enumerate(zip(self.features(image), self.features(target), strict=True)):
            weight = self.get_buffer(f"calibration{i}").view(1, -1, 1, 1)
            total = total + ((a - b).square() * weight).sum(dim=1).mean(dim=(1, 2))
        return total

    def forward(self, image: Tensor, target: Tensor) -> dict[str, Tensor]:
        """`perceptual`: the mean distance."""
        return {"perceptual": self.distance(image, target).mean()}


def perceptual_loss(
    kind: str = "auto",  # see KINDS; auto: by the weights given, else stlpips_alex
    weights: str | os.PathLike[str] | None = None,  # file, or several separated by commas
    min_size: int = 64,
) -> PerceptualLoss:
    """Make the perceptual loss.

    `weights` may be torchvision's vgg16 state dict and LPIPS' linear weights (keys `lin0.model.1.weight` ...), in two
    files or one. With both it is "lpips_vgg", with the first alone "vgg16" (all channels count alike). Without
    weights, ST-LPIPS is read from the installed package stlpips-pytorch.

    Raises:
        UserError: an unknown kind, or weights that are missing, damaged or do not fit.
    """
    if kind not in KINDS:
        raise UserError(f"there is no perceptual network {kind!r}; use one of {', '.join(KINDS)}")
    paths = [p.strip() for p in os.fspath(weights).split(",") if p.strip()] if weights else []
    if kind in ("lpips_vgg", "vgg16") and not paths:
        raise UserError(
            f"the perceptual network {kind!r} needs its weights; give loss.perceptual_weights=PATH"
        )
    if kind.startswith("stlpips") and paths:
        raise UserError(
            f"{kind!r} comes with its package; leave loss.perceptual_weights empty or use 'auto'"
        )
    if paths:
        return _from_vgg_files(kind, paths, min_size)
    return _from_stlpips_package("vgg" if kind == "stlpips_vgg" else "alex", min_size)


def _from_stlpips_package(net: str, min_size: int) -> PerceptualLoss:
    path = packaged_file(
        "stlpips_pytorch", f"weights/vST0.0/{net}_shift_tolerant.pth", "stlpips-pytorch"
    )
    state = read_weights(path)
    stages = _vgg_stages(shift_tolerant=True) if net == "vgg" else _shift_tolerant_alex_stages()
    names = _STLPIPS_VGG_NAMES if net == "vgg" else _STLPIPS_ALEX_NAMES
    _fill_convolutions(stages, state, [f"net.{n}" for n in names], str(path))
    files = {path.name: sha256_file(path)}
    return PerceptualLoss(
        f"stlpips_{net}", stages, _linear_weights(state, stages, str(path)), files, min_size
    )


def _from_vgg_files(kind: str, paths: list[str], min_size: int) -> PerceptualLoss:
    state: dict[str, Tensor] = {}
    for path in paths:
        state |= read_weights(path)
    what = ", ".join(paths)
    stages = _vgg_stages(shift_tolerant=False)
    _fill_convolutions(stages, state, [f"features.{i}" for i in _VGG16_INDICES], what)
    has_lins = any(name.startswith("lin") for name in state)
    if kind == "lpips_vgg" and not has_lins:
        raise UserError(
            f"{what} lacks the linear weights of LPIPS (lin0.model.1.weight ...); add the file after a comma"
        )
    if kind == "auto":
        kind = "lpips_vgg" if has_lins else "vgg16"
    calibration = _linear_weights(state, stages, what) if kind == "lpips_vgg" else None
    files = {os.path.basename(path): sha256_file(path) for path in paths}
    return PerceptualLoss(kind, stages, calibration, files, min_size)


def _fill_convolutions(
    stages: list[nn.Sequential], state: dict[str, Tensor], names: list[str], what: str
) -> None:
    convolutions = [m for stage in stages for m in stage if isinstance(m, nn.Conv2d)]
    for name, convolution in zip(names, convolutions, strict=True):
        found = {k: state[f"{name}.{k}"] for k in ("weight", "bias") if f"{name}.{k}" in state}
        load_state_strict(convolution, found, f"layer {name} of {what}")


def _linear_weights(
    state: dict[str, Tensor], stages: list[nn.Sequential], what: str
) -> list[Tensor]:
    weights = []
    for i, stage in enumerate(stages):
        width = [m for m in stage if isinstance(m, nn.Conv2d)][-1].out_channels
        weight = state.get(f"lin{i}.model.1.weight")
        if weight is None or weight.numel() != width:
            raise UserError(
                f"{what} lacks lin{i}.model.1.weight with {width} numbers; give the weights for VGG"
            )
        weights.append(weight)
    return weights
