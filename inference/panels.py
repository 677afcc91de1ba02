"""Pages: labelled panels beside each other, depth in colours, contact sheets. Pictures are uint8 [H, W, 3]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from dnnlib.lettering import draw_text, shortened, text_length

PAGE = (250, 250, 248)  # background of every page
INK = (38, 42, 48)
FAINT = (222, 223, 220)  # an empty cell
GAP_PX = 8
LABEL_PX = 26  # height of the strip above a row
ROW_LABEL_PX = 96  # width of the strip left of a row, where rows have names

# Near to far, of one hue path and falling lightness, so that it also reads in grey.
_DEPTH_ANCHORS = np.array(
    [[255, 247, 214], [250, 190, 100], [226, 110, 82], [150, 58, 110], [66, 40, 110], [18, 20, 56]],
    dtype=np.float32,
)


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """uint8 [h, w, 3] -> [height, width, 3], Lanczos."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def fit(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """uint8 [h, w, 3] -> [height, width, 3]: scaled to fit, aspect kept, the rest is page."""
    h, w = image.shape[:2]
    scale = min(width / w, height / h)
    inner = resize(image, max(1, round(w * scale)), max(1, round(h * scale)))
    out = np.full((height, width, 3), PAGE, np.uint8)
    top, left = (height - inner.shape[0]) // 2, (width - inner.shape[1]) // 2
    out[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return out


class DepthColours:
    """Colours for depth maps; the range is chosen at the first frame and kept, so that a video does not flicker."""

    def __init__(self) -> None:
        self._range: tuple[float, float] | None = None

    def __call__(self, depth: np.ndarray, opacity: np.ndarray) -> np.ndarray:
        """depth [h, w] in world units, opacity [h, w] in [0, 1] -> uint8 [h, w, 3]; near is light, nothing is page."""
        if self._range is None:
            solid = depth[opacity > 0.5]
            near, far = np.percentile(solid, (1, 99)) if solid.size else (depth.min(), depth.max())
            margin = 0.1 * (far - near)
            self._range = (float(near - margin), float(far + max(margin, 1e-3)))
        near, far = self._range
        at = np.clip((depth - near) / (far - near), 0, 1) * (len(_DEPTH_ANCHORS) - 1)
        low = np.minimum(at.astype(np.int64), len(_DEPTH_ANCHORS) - 2)
        share = (at - low)[..., None]
        colour = _DEPTH_ANCHORS[low] * (1 - share) + _DEPTH_ANCHORS[low + 1] * share
        solidity = np.clip(opacity, 0, 1)[..., None]
        return np.round(colour * solidity + np.array(PAGE) * (1 - solidity)).astype(np.uint8)


class Canvas:
    """A grid of equal cells with a label above each and, if wanted, a name left of each row.

    Labels are drawn once; `compose` only pastes pictures.
    """

    def __init__(
        self,
        labels: Sequence[str],  # one per cell, row after row; "" = none
        columns: int,
        cell_px: int,  # height and width of a cell
        row_labels: Sequence[str] = (),  # one per row
    ) -> None:
        self.columns = columns
        self.cell_px = cell_px
        self.n_cells = len(labels)
        rows = math.ceil(len(labels) / columns)
        self._left = GAP_PX + (ROW_LABEL_PX if row_labels else 0)
        self._strips = [
            LABEL_PX if any(labels[r * columns : (r + 1) * columns]) else 0 for r in range(rows)
        ]
        width = self._left + columns * (cell_px + GAP_PX)
        height = GAP_PX + rows * (cell_px + GAP_PX) + sum(self._strips)
        # yuv420 video wants even sizes
        page = Image.new("RGB", (width + width % 2, height + height % 2), PAGE)
        draw = ImageDraw.Draw(page)
        for i, label in enumerate(labels):
            x, y = self._corner(i)
            draw.rectangle((x, y, x + cell_px - 1, y + cell_px - 1), fill=FAINT)
            _draw_text(draw, label, (x + cell_px / 2, y - LABEL_PX / 2 - 1), cell_px)
        for row, label in enumerate(row_labels):
            _, y = self._corner(row * columns)
            _draw_text(draw, label, (self._left / 2, y + cell_px / 2), ROW_LABEL_PX)
        self._page = np.asarray(page)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, both even."""
        return self._page.shape[1], self._page.shape[0]

    def compose(self, images: Sequence[np.ndarray | None]) -> np.ndarray:
        """One picture a cell (any size; None leaves the cell empty) -> the page, uint8 [height, width, 3]."""
        if len(images) != self.n_cells:
            raise ValueError(f"{len(images)} pictures for {self.n_cells} cells")
        page = self._page.copy()
        for i, image in enumerate(images):
            if image is not None:
                x, y = self._corner(i)
                page[y : y + self.cell_px, x : x + self.cell_px] = fit(
                    image, self.cell_px, self.cell_px
                )
        return page

    def _corner(self, index: int) -> tuple[int, int]:
        row, column = divmod(index, self.columns)
        y = GAP_PX + row * (self.cell_px + GAP_PX) + sum(self._strips[: row + 1])
        return self._left + column * (self.cell_px + GAP_PX), y


def _draw_text(
    draw: ImageDraw.ImageDraw, text: str, centre: tuple[float, float], width_px: int
) -> None:
    if not text:
        return
    size = 15
    while size > 9 and text_length(text, size) > width_px - 4:
        size -= 1
    draw_text(draw, centre, shortened(text, size, width_px - 2), size, INK)


def default_cell_px(size: int) -> int:
    """Side of a panel for frames of `size`: at least 256 px, so that a small network's result can be seen."""
    return max(256, size)
