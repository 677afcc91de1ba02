"""A batch of pairs of frames and what networks see in them. Each network runs once, whichever metrics ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy.spatial import ConvexHull
from torch import Tensor

from metrics.networks import Face, Networks


class Side:
    """Pictures of one side (prediction, reference or source), all of one size, and what was extracted from them."""

    def __init__(self, images: Sequence[np.ndarray], networks: Networks) -> None:
        self.images = images  # N x uint8 [H, W, 3]
        self.networks = networks
        self._found: dict[str, list[Tensor]] = {}

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.images[0].shape[1], self.images[0].shape[0]

    @cached_property
    def tensor(self) -> Tensor:
        """float32 [N, 3, H, W] in [0, 1]."""
        stacked = torch.from_numpy(np.stack(self.images)).to(self.networks.device)
        return stacked.permute(0, 3, 1, 2).float() / 255

    @cached_property
    def faces(self) -> list[Face | None]:
        """The largest face of each picture; None where none is found."""
        return [self.networks.face(image) for image in self.images]

    @cached_property
    def rotations(self) -> Tensor:
        """Head -> camera float64 [N, 3, 3]; NaN where no face is found."""
        found = zip(self.images, self.faces, strict=True)
        return torch.from_numpy(np.stack([self.networks.rotation(i, f) for i, f in found]))

    @cached_property
    def embeddings(self) -> Tensor:
        """Unit identity embeddings float32 [N, D]; NaN where no face is found."""
        return self.networks.embed(self.images, self.faces)

    @cached_property
    def dlib(self) -> Tensor:
        """dlib's descriptors float64 [N, 128]; NaN where no face is found."""
        found = zip(self.images, self.faces, strict=True)
        return torch.from_numpy(np.stack([self.networks.describe(i, f) for i, f in found]))

    @cached_property
    def inception(self) -> Tensor:
        """FID features float32 [N, 2048]."""
        return self.networks.inception(self.tensor)

    def perceptual(self, kind: str) -> list[Tensor]:
        """Unit-normalised features of a perceptual network, one [N, C, h, w] a layer."""
        if kind not in self._found:
            with torch.inference_mode():
                self._found[kind] = self.networks.perceptual(kind).features(self.tensor * 2 - 1)
        return self._found[kind]

    @cached_property
    def face_mask(self) -> Tensor:
        """float32 [N, 1, H, W]: 1 inside the convex hull of the landmarks; NaN everywhere where no face is found."""
        width, height = self.size
        masks = [_hull_mask(face, width, height) for face in self.faces]
        return torch.from_numpy(np.stack(masks))[:, None].to(self.networks.device)


class Pairs:
    """N pairs of one clip: predictions, references, the frames' numbers in the clip, and the clip's source picture."""

    def __init__(
        self, pred: Side, ref: Side, indices: Sequence[int] = (), source: Side | None = None
    ) -> None:
        self.pred, self.ref = pred, ref
        self.indices = tuple(indices) or tuple(range(len(pred)))
        self._source = source

    def __len__(self) -> int:
        return len(self.pred)

    @property
    def source(self) -> Side:
        """The one source picture of the clip."""
        if self._source is None:
            raise ValueError("these pairs have no source picture")
        return self._source

    @cached_property
    def composite(self) -> Side:
        """The prediction inside the reference's face mask and the reference outside."""
        mask = self.ref.face_mask
        side = Side(self.pred.images, self.pred.networks)
        side.__dict__["tensor"] = torch.where(mask > 0, self.pred.tensor, self.ref.tensor)
        return side


def _hull_mask(face: Face | None, width: int, height: int) -> np.ndarray:
    if face is None:
        return np.full((height, width), np.nan, np.float32)
    points = face.landmarks[:, :2].astype(np.float64)
    polygon = points[ConvexHull(points).vertices] - 0.5  # Pillow's pixel centres lie at integers
    picture = Image.new("L", (width, height))
    ImageDraw.Draw(picture).polygon([(float(x), float(y)) for x, y in polygon], fill=1)
    mask = np.asarray(picture, dtype=np.float32)
    return mask if mask.any() else np.full((height, width), np.nan, np.float32)
