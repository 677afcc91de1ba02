"""Pictures of a run: source | driving | raw | final | depth, one head a row, always the same heads."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from dataset.frames import FrameDataset
from dataset.loader import PairLoader
from training.generator.model import Export3D

ROWS = 4
_SPLIT_ORDER = ("test", "val", "train")  # unseen people first


class Grid:
    """A few pairs of unseen people (of the training split where there are none)."""

    def __init__(self, dataset: FrameDataset, device: torch.device, rows: int = ROWS) -> None:
        split = next(
            s for s in _SPLIT_ORDER if (dataset.clips["n_frames"][dataset.clips_of(s)] >= 2).any()
        )
        loader = PairLoader(dataset, split, seed=0, batch_size=rows)
        self._batch = {name: x.to(device) for name, x in next(iter(loader)).items()}

    @torch.no_grad()
    def draw(self, model: Export3D) -> npt.NDArray[np.uint8]:
        """RGB [rows * H, 5 * H, 3]; the model is used as it is."""
        batch = self._batch
        source = model.encode_source(batch["source"], batch["source_camera"], batch["source_beta"])
        out = model.render(model.planes(source, batch["beta"]), batch["camera"])
        size = out.image.shape[-1]
        r = model.config.render
        raw = functional.interpolate(out.raw, size=size, mode="bilinear")
        depth = depth_picture(out.depth, r.near, r.far)
        depth = functional.interpolate(depth, size=size, mode="bilinear")
        columns = [batch["source"], batch["driving"], raw, out.image, depth.expand(-1, 3, -1, -1)]
        return tile(torch.cat([c.float() for c in columns], dim=-1))


def depth_picture(depth: Tensor, near: float, far: float) -> Tensor:
    """Distances to [-1, 1]: near white, far black."""
    return ((far - depth) / (far - near)).clamp(0, 1) * 2 - 1


def tile(rows: Tensor) -> npt.NDArray[np.uint8]:
    """[N, 3, H, W] in [-1, 1] -> uint8 RGB [N * H, W, 3]."""
    pixels = ((rows.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
    return np.ascontiguousarray(torch.cat(list(pixels), dim=1).permute(1, 2, 0).numpy())
