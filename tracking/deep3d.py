"""The paper's expression space bfm64: Deep3DFaceRecon's ResNet-50 regressor, weights given by path.

The network's weights are not ours to ship. The official `epoch_20.pth` (key `net_recon`) and a safetensors file of
the same names are read; both without executing anything stored in them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from conventions.cameras import deep3d_to_world, from_deep3d
from conventions.crop import CropTransform
from dnnlib.errors import UserError
from dnnlib.files import sha256_file
from dnnlib.reading.tensors import check_finite_tensors, read_safetensors, read_torch
from tracking.basel import BaselModel

INPUT_PX = 224
INPUT_RESCALE = 102.0  # input pixels per unit of the mean face
# Coefficients in order: identity, expression, texture, rotation, illumination, translation x y, translation z.
PARTS = (80, 64, 80, 3, 27, 2, 1)
N_COEFFICIENTS = sum(PARTS)  # 257
_ADVICE = "give Deep3DFaceRecon's epoch_20.pth"


class Coefficients(NamedTuple):
    """The parts of the 257 numbers."""

    identity: np.ndarray  # [80]
    beta: np.ndarray  # [64], numbers 80..143
    texture: np.ndarray  # [80]
    angle_rad: np.ndarray  # [3]
    gamma: np.ndarray  # [27]
    trans: np.ndarray  # [3]


def parse_coefficients(values: np.ndarray) -> Coefficients:
    """257 numbers -> their parts."""
    if values.shape != (N_COEFFICIENTS,):
        raise ValueError(f"coefficients are {values.shape}; expected [{N_COEFFICIENTS}]")
    cuts = np.cumsum((80, 64, 80, 3, 27))
    return Coefficients(*np.split(values, cuts))


class Deep3DNetwork(nn.Module):
    """ResNet-50 with seven 1 x 1 heads; names as in the official weights."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torchvision.models.resnet50(weights=None)
        self.backbone.fc = nn.Identity()
        self.final_layers = nn.ModuleList(nn.Conv2d(2048, n, 1) for n in PARTS)

    def forward(self, image: Tensor) -> Tensor:
        """RGB [N, 3, 224, 224] in [0, 1] -> coefficients [N, 257]."""
        features = self.backbone(image)[:, :, None, None]
        return torch.cat([head(features) for head in self.final_layers], dim=1).flatten(1)


class Regressed(NamedTuple):
    beta: np.ndarray  # float32 [64]
    camera: np.ndarray  # float32 [25], label
    five_points: (
        np.ndarray | None
    )  # [5, 3], world: the person's own eyes, nose and mouth; needs the Basel model


class Deep3DRegressor:
    """Expression and camera of an aligned face; with the Basel model its own five points, too.

    Raises UserError when a file is missing or of another network or model.
    """

    name = "deep3dfacerecon"

    def __init__(
        self, weights: str | os.PathLike[str], bfm_model: str | os.PathLike[str] | None = None
    ) -> None:
        self.basel = None if bfm_model is None else BaselModel(bfm_model)
        self.path = Path(weights)
        state = _read_state(self.path)
        self.network = Deep3DNetwork()
        _check_state(state, self.network.state_dict(), self.path)
        self.network.load_state_dict(state)
        self.network.eval()
        self.hash = sha256_file(self.path)

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, parameters: np.ndarray) -> Regressed:
        """Photo uint8 [H, W, 3] and its `crop_parameters` -> expression and camera."""
        crop = input_transform(parameters).apply(image)
        tensor = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float() / 255
        parts = parse_coefficients(self.network(tensor)[0].double().numpy())
        own = None
        if self.basel is not None:
            five = self.basel.five_points(parts.identity, parts.beta)
            own = deep3d_to_world(five, parts.angle_rad, parts.trans)
        camera = from_deep3d(parts.angle_rad, parts.trans)
        return Regressed(parts.beta.astype(np.float32), camera, own)


def input_transform(parameters: np.ndarray) -> CropTransform:
    """The crop that the regressor was trained on: like ours, closer around the face."""
    log_scale, x, y = (float(p) for p in parameters)
    scale = INPUT_RESCALE / np.exp(log_scale)
    half = INPUT_PX / 2
    return CropTransform(
        np.array([[scale, 0, half - scale * x], [0, scale, half - scale * y]]), INPUT_PX
    )


def _read_state(path: Path) -> dict[str, Tensor]:
    read = read_safetensors if path.suffix == ".safetensors" else read_torch
    content: Any = read(path, _ADVICE)
    state = content.get("net_recon", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path} holds no network; {_ADVICE}")
    check_finite_tensors(state, path, _ADVICE)
    return {str(k).removeprefix("module."): v for k, v in state.items()}


def _check_state(state: dict[str, Tensor], wanted: dict[str, Tensor], path: Path) -> None:
    odd = sorted(set(state) ^ set(wanted)) or sorted(
        k for k in wanted if state[k].shape != wanted[k].shape
    )
    if odd:
        raise UserError(
            f"{path} is not Deep3DFaceRecon's ResNet-50 ({len(odd)} tensors differ, first {odd[0]}); "
            "give its epoch_20.pth"
        )
