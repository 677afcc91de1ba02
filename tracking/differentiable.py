"""The tracker's reading of a picture as a function that one can differentiate: picture -> 52 blendshape scores.

The same two networks as in `landmarker.py`, run in torch on every device. A loss that compares readings makes an
output *show* an expression as the tracker sees it, which pixels alone do not ask for: a brow is few of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from conventions.landmarks import N_LANDMARKS
from dnnlib.files import sha256_file
from dnnlib.reading.archives import member_bytes, open_zip
from pretrained.tflite_module import TfliteModule
from tracking.landmarker import (
    BLENDSHAPE_LANDMARKS,
    LEFT_EYE,
    MESH_PX,
    RIGHT_EYE,
    ROI_MARGIN,
    TASK_FILE,
    find_task_file,
)

# Where the aligned crop has a face, in widths of the crop: the middle and the side of its region.
_CROP_CENTRE = (0.515, 0.485)
_CROP_SIDE = 1.02


class Reading(NamedTuple):
    beta: Tensor  # float32 [N, 52], blendshape scores in [0, 1]
    confidence: Tensor  # float32 [N]: probability that a face was there; carries no gradient


class ExpressionReader(nn.Module):
    """Frozen. `forward(images)` reads crops [N, 3, H, H] in [-1, 1]; gradients reach the images.

    path: a `face_landmarker.task`; None takes the installed one. Raises UserError when it is not one.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        super().__init__()
        self.path = Path(path) if path is not None else find_task_file()
        advice = f"give MediaPipe's {TASK_FILE}, or none"
        with open_zip(self.path, advice) as archive:
            mesh, blendshapes = (
                member_bytes(archive, f"{n}.tflite", advice)
                for n in ("face_landmarks_detector", "face_blendshapes")
            )
        self.mesh = TfliteModule(mesh, f"{self.path}: face_landmarks_detector.tflite", (0, 1))
        self.blendshapes = TfliteModule(blendshapes, f"{self.path}: face_blendshapes.tflite")
        self.register_buffer("subset", torch.tensor(BLENDSHAPE_LANDMARKS), persistent=False)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> ExpressionReader:
        return super().train(False)  # frozen: has no training mode

    def record(self) -> dict[str, Any]:
        """What a run notes about this network: its file and SHA-256."""
        return {"files": {self.path.name: sha256_file(self.path)}}

    def forward(self, images: Tensor, regions: Tensor | None = None) -> Reading:
        """regions float [N, 4] of `place`; None looks for them first, as the tracker does with its last frame."""
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
            raise ValueError(f"images must be [N, 3, H, H], not {tuple(images.shape)}")
        images = images.float()
        if regions is None:
            regions = self.place(images)
        points, confidence = self._look(images, regions)
        subset = points[:, self.subset, :2]  # type: ignore[index]
        beta = torch.vmap(lambda p: self.blendshapes(p[None])[0])(subset)
        return Reading(beta.clamp(0, 1), confidence.detach())

    @torch.no_grad()
    def place(self, images: Tensor) -> Tensor:
        """[N, 3, H, H] in the project's crop -> regions [N, 4]: x, y, side in pixels, roll in radians."""
        n, size = len(images), images.shape[-1]
        at = [_CROP_CENTRE[0] * size, _CROP_CENTRE[1] * size, _CROP_SIDE * size, 0.0]
        regions = torch.tensor(at, device=images.device).expand(n, 4)
        return regions_of(self._look(images.float(), regions)[0])

    def _look(self, images: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Landmarks [N, 478, 3] in pixels of the images, and the probability [N] that the region holds a face."""
        patches = sample_regions(images, regions)
        raw, logit = self.mesh((patches.permute(0, 2, 3, 1) + 1) / 2)
        points = raw.reshape(len(images), N_LANDMARKS, 3) / MESH_PX
        return landmarks_in_image(points, regions), torch.sigmoid(logit.reshape(-1))


def sample_regions(images: Tensor, regions: Tensor, size: int = MESH_PX) -> Tensor:
    """Turned squares of images [N, 3, H, W] at `regions` [N, 4] -> [N, 3, size, size]; border pixels repeat.

    As `landmarker.read` samples: the first sample lies on the region's corner, not half a sample inside.
    """
    height, width = images.shape[-2:]
    x, y, side, roll = regions.float().unbind(1)
    steps = (torch.arange(size, device=images.device) / size - 0.5)[None] * side[:, None]  # [N, S]
    u, v = steps[:, None, :], steps[:, :, None]  # across, down
    c, s = torch.cos(roll)[:, None, None], torch.sin(roll)[:, None, None]
    across = c * u - s * v + x[:, None, None] + 0.5
    down = s * u + c * v + y[:, None, None] + 0.5
    grid = torch.stack([across * 2 / width - 1, down * 2 / height - 1], dim=-1)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def landmarks_in_image(points: Tensor, regions: Tensor) -> Tensor:
    """Landmarks [N, K, 3] in sides of their region, from its corner -> pixels, as `landmarker.read` places them."""
    x, y, side, roll = (r[:, None] for r in regions.unbind(1))
    u, v = points[..., 0] - 0.5, points[..., 1] - 0.5
    c, s = torch.cos(roll), torch.sin(roll)
    placed = [x + side * (c * u - s * v), y + side * (s * u + c * v), side * points[..., 2]]
    return torch.stack(placed, dim=-1)


def regions_of(landmarks: Tensor) -> Tensor:
    """[N, 478, 3] pixels -> regions [N, 4] around them, level with the eyes; see `landmarker.roi_of`."""
    low, high = landmarks[..., :2].amin(1), landmarks[..., :2].amax(1)
    across = landmarks[:, LEFT_EYE, :2] - landmarks[:, RIGHT_EYE, :2]
    side = (high - low).amax(1, keepdim=True) * ROI_MARGIN
    roll = torch.atan2(across[:, 1:], across[:, :1])
    return torch.cat([(low + high) / 2, side, roll], dim=1)
