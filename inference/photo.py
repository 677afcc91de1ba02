"""A source portrait and the picture it was taken from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from conventions.crop import CropTransform
from inference.panels import resize

LARGEST_PX = 1920  # longer side of a whole picture; larger ones are reduced


Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Whole:
    """A picture and where its face was cropped."""

    image: np.ndarray  # uint8 [H, W, 3]
    transform: CropTransform  # picture -> crop

    def reduced(self, largest_px: int = LARGEST_PX) -> Whole:
        """The same with a longer side of at most `largest_px`; 0: as it is."""
        height, width = self.image.shape[:2]
        share = largest_px / max(height, width)
        if share >= 1 or largest_px == 0:
            return self
        w, h = max(1, round(width * share)), max(1, round(height * share))
        matrix = self.transform.matrix.copy()
        matrix[:, :2] *= np.sqrt(
            width / w * height / h
        )  # one for both: they differ by less than a pixel
        return Whole(resize(self.image, w, h), CropTransform(matrix, self.transform.size))

    def place(self, x0: int, y0: int, x1: int, y1: int) -> Box:
        """Corners in pixels of the picture -> in widths of the crop."""
        corners = self.transform.points(np.array([[x0, y0], [x1, y1]], np.float64))
        left, top, right, bottom = (corners / self.transform.size).ravel().tolist()
        return left, top, right, bottom

    def pixels(self, box: Box) -> tuple[int, int, int, int]:
        """Corners in widths of the crop -> the whole pixels of the picture inside, (x0, y0, x1, y1)."""
        height, width = self.image.shape[:2]
        size = self.transform.size
        corners = self.transform.inverse_points(np.array(box, np.float64).reshape(2, 2) * size)
        x0, y0 = (max(0, int(np.ceil(v - 1e-6))) for v in corners[0])
        x1, y1 = (int(np.floor(v + 1e-6)) for v in corners[1])
        return x0, y0, max(x0, min(x1, width)), max(y0, min(y1, height))


def close_up(picture: Whole, crop: np.ndarray, margins: Box) -> Whole:
    """A crop uint8 [S, S, 3] with what its picture has around it, at the crop's resolution.

    margins: left, above, right, below, in the crop's widths; less where the picture ends.
    """
    size = len(crop)
    transform = picture.transform.resized(size)
    height, width = picture.image.shape[:2]
    (x0, y0), (x1, y1) = transform.points(np.array([[0, 0], [width, height]], np.float64))
    has = (-x0, -y0, x1 - size, y1 - size)  # pixels of the crop
    left, top, right, bottom = (
        max(0, int(min(h, wanted * size))) for h, wanted in zip(has, margins, strict=True)
    )
    most = max(left, top, right, bottom)
    moved = transform.matrix.copy()
    moved[:, 2] += most
    around = CropTransform(moved, size + 2 * most).apply(picture.image)
    image = around[most - top : most + size + bottom, most - left : most + size + right].copy()
    image[top : top + size, left : left + size] = crop
    return Whole(image, CropTransform(np.array([[1.0, 0, -left], [0, 1.0, -top]]), size))


@dataclass(frozen=True)
class Photo:
    """A source portrait."""

    name: str
    crop: np.ndarray  # uint8 [kH, kW, 3], aligned; frames take its size
    beta: np.ndarray  # float32 [D]
    camera: np.ndarray  # float32 [25]
    picture: Whole | None = None  # None: the crop is all there is

    @property
    def whole(self) -> Whole:
        """The picture that the crop was taken from."""
        return self.picture or Whole(self.crop, CropTransform(np.eye(2, 3), len(self.crop)))
