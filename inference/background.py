"""What stands behind the head: what the network makes, the photo's own background, a colour, a picture, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dnnlib.errors import UserError
from dnnlib.listing import TRANSPARENT_SUFFIXES
from dnnlib.params import colour_of
from dnnlib.reading.pictures import read_picture
from inference.panels import resize

Kind = Literal["network", "photo", "transparent", "picture"]


@dataclass(frozen=True)
class Background:
    """A choice of background.

    network: what the network makes, which it may carry along. photo: the photo's own, still, filled where the head was.
    transparent: none, frames have an alpha channel. picture: `image`.
    """

    kind: Kind = "network"
    image: np.ndarray | None = None  # uint8 [h, w, 3]; a colour is a picture of one pixel

    def behind(self, width: int, height: int) -> np.ndarray:
        """The picture, cut in the middle to cover the frame: uint8 [height, width, 3]."""
        assert self.image is not None
        h, w = self.image.shape[:2]
        if (h, w) == (1, 1):
            return np.broadcast_to(self.image, (height, width, 3))
        scale = max(width / w, height / h)
        wide, tall = max(width, round(w * scale)), max(height, round(h * scale))
        left, top = (wide - width) // 2, (tall - height) // 2
        return resize(self.image, wide, tall)[top : top + height, left : left + width]


NETWORK = Background()
PHOTO = Background("photo")


def background_of(text: str) -> Background:
    """From the command line: a kind that needs no picture, a colour (#rrggbb or a name), or the path of a picture.

    Raises:
        UserError: the picture cannot be read.
    """
    plain: dict[str, Kind] = {"network": "network", "photo": "photo", "transparent": "transparent"}
    if text in plain:
        return Background(plain[text])
    colour = colour_of(text)
    if colour is not None:
        return Background("picture", np.array([[colour]], np.uint8))
    return Background("picture", read_picture(Path(text)))


def check_transparent(background: Background, out: Path, is_page: bool) -> None:
    """Raises UserError when the background is to be transparent and the file or the layout cannot be."""
    if background.kind != "transparent":
        return
    if is_page:
        raise UserError(
            "--background transparent has no effect on a page of panels; take animate with --layout full or result"
        )
    if out.suffix and out.suffix.lower() not in TRANSPARENT_SUFFIXES:
        raise UserError(
            f"--out {out} cannot be transparent; end the name in {', '.join(TRANSPARENT_SUFFIXES)} or in nothing"
        )


def with_alpha(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours times their share [H, W, 3] and the share [H, W], both 0..255 -> uint8 [H, W, 4], colours as they are."""
    share = np.maximum(alpha / 255, 1 / 255)[..., None]
    out = np.concatenate([image / share, alpha[..., None]], axis=-1)
    return np.round(out).clip(0, 255).astype(np.uint8)
