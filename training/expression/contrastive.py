"""The contrastive objective of CLeBS (paper, eq. 2)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class ContrastiveOutput(NamedTuple):
    loss: Tensor  # scalar
    accuracy: Tensor  # scalar, share of beta whose own frame is the most similar of its video


def contrastive_loss(
    image: Tensor,  # f_I(X_j) [V, K, d]
    expression: Tensor,  # f_e(beta_k) [V, K, d]
    log_temperature: Tensor,  # log tau, scalar
    denominator: Literal["all", "negatives"] = "all",
) -> ContrastiveOutput:
    """L = -log( exp(cos(f_I(X_k), f_e(beta_k)) / tau) / sum_j exp(cos(f_I(X_j), f_e(beta_k)) / tau) ).

    V videos of K frames each; j runs over the frames of one video, so that appearance, which all of them
    share, cannot tell them apart. `negatives` leaves out j = k as the paper prints it; `all` is InfoNCE.
    Needs K >= 2.
    """
    if image.shape != expression.shape or image.ndim != 3 or image.shape[1] < 2:
        raise ValueError(
            f"image {tuple(image.shape)} and expression {tuple(expression.shape)} must both be [V, K >= 2, d]"
        )
    # float32 under autocast too: divided by tau, the rounding of half precision is most of the gradient
    with torch.autocast(image.device.type, enabled=False):
        image = F.normalize(image.float(), dim=-1)
        expression = F.normalize(expression.float(), dim=-1)
        logits = torch.einsum("vkd,vjd->vkj", expression, image) / log_temperature.float().exp()
    positive = logits.diagonal(dim1=1, dim2=2)
    if denominator == "negatives":
        own = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
        total = logits.masked_fill(own, -torch.inf).logsumexp(dim=2)
    else:
        total = logits.logsumexp(dim=2)
    target = torch.arange(logits.shape[1], device=logits.device)
    accuracy = (logits.argmax(dim=2) == target).float().mean()
    return ContrastiveOutput((total - positive).mean(), accuracy)
