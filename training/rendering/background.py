"""A still background behind the volume, taken from the source.   [ours]"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def over_background(
    features: Tensor,  # [N, C, h, h], composited in the volume
    opacity: Tensor,  # [N, 1, h, h]
    background: Tensor,  # [N, C + 1, s, s], colour features and how far the source's pixels may be shown
) -> tuple[Tensor, Tensor]:
    """Features with the background behind them, and how visible the source's pixels are there, [N, 1, h, h]."""
    side = features.shape[-1]
    if background.shape[-1] != side:
        background = F.interpolate(
            background, size=(side, side), mode="bilinear", align_corners=False
        )
    colour, trust = background.split([features.shape[1], 1], dim=1)
    # detached: a head must not turn transparent to show the source's pixels instead of its own
    visible = ((1 - opacity.detach()) * trust).clamp(0, 1)
    return features + (1 - opacity) * colour, visible
