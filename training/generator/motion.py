"""What the refined expression does to the surface of a face, place by place: vector fields on the XY plane.   [ours]

    p   a surface point of the driving expression
    n   the same material point of a neutral face       n = p - U(p; beta'_D)
    s   the same point as the source photo shows it     s = n + A(n; beta'_S)

U (undo) and A (apply) are linear in beta', so a direction v_i of CLeBS is a vector field that one can look at. They go
through the neutral face because each of the two steps then needs one expression only: A is computed once per source.

No motion takes a closed lip to the teeth behind it. So a third field says where the expression shows the inside of the
mouth, I(p; beta'), and a pixel of the photo is used where both it and the frame's point are inside or both are not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Difference of the two insides: up to the first frame and photo are alike, from the second on not.
OTHERWISE = (0.3, 0.7)
CLOSED = -6.0  # logit of a place that no expression opens
FIELD_UNIT = 0.05  # world units a field's number of 1 stands for: a step of Adam should be small against a face


class MotionFields(nn.Module):
    """beta' [N, d] -> displacement fields [N, 3, P, P] in world units, of few common modes.

    Zero at the start, so that nothing moves; `set_linear` starts from a known answer
    (dataset/synthesis/displacement.py).
    """

    def __init__(
        self,
        expression_dim: int,  # d
        modes: int,  # rank of the map beta' -> fields
        side: int,  # P, cells of the XY plane
        box_side: float,  # world units
        inside: bool = False,  # with I
    ) -> None:
        super().__init__()
        self.shape = (3, side, side)
        self.box_side = box_side
        self.modes = nn.Linear(expression_dim, modes, bias=False)
        self.undone = nn.Linear(modes, 3 * side * side)
        self.applied = nn.Linear(modes, 3 * side * side)
        for layer in (self.undone, self.applied):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.mouth: nn.Linear | None = None
        if inside:
            self.mouth = nn.Linear(expression_dim, side * side)
            nn.init.zeros_(self.mouth.weight)
            nn.init.constant_(self.mouth.bias, CLOSED)

    def undo(self, refined: Tensor) -> Tensor:
        """U, what the expression added to each place of the posed face."""
        out: Tensor = self.undone(self.modes(refined)).unflatten(1, self.shape) * FIELD_UNIT
        return out.float()

    def apply_to_neutral(self, refined: Tensor) -> Tensor:
        """A, what the expression adds to each place of the neutral face."""
        out: Tensor = self.applied(self.modes(refined)).unflatten(1, self.shape) * FIELD_UNIT
        return out.float()

    def inside(self, refined: Tensor) -> Tensor | None:
        """I, how far each place of the posed face shows the inside of the mouth: [N, 1, P, P] in [0, 1]."""
        if self.mouth is None:
            return None
        logits: Tensor = self.mouth(refined).unflatten(1, (1, *self.shape[1:]))
        return logits.float().sigmoid()

    @torch.no_grad()
    def set_linear(self, undo: Tensor, apply: Tensor) -> None:
        """Become the nearest map of this rank to given ones, [d + 1, 3 * P * P] in world units, last row the offset."""
        both = torch.cat([undo[:-1], apply[:-1]], dim=1).double() / FIELD_UNIT  # [d, 2 * 3PP]
        u, s, v = torch.linalg.svd(both, full_matrices=False)
        rank = min(self.modes.out_features, len(s))
        self.modes.weight.zero_()
        self.modes.weight[:rank].copy_(u[:, :rank].T)
        halves = (s[:rank, None] * v[:rank]).chunk(2, dim=1)
        for layer, half, offset in zip(
            (self.undone, self.applied), halves, (undo[-1], apply[-1]), strict=True
        ):
            layer.weight.zero_()
            layer.weight[:, :rank].copy_(half.T)
            layer.bias.copy_(offset / FIELD_UNIT)

    @torch.no_grad()
    def set_inside(self, logits: Tensor) -> None:
        """Become a given linear map to the logits of I, [d + 1, P * P], last row the offset."""
        assert self.mouth is not None
        self.mouth.weight.copy_(logits[:-1].T)
        self.mouth.bias.copy_(logits[-1])

    def displace(self, points: Tensor, field: Tensor) -> Tensor:
        """The field [N, K, P, P] at the (x, y) of points [N, M, 3] -> [N, M, K]; zero outside of the box."""
        grid = points[:, None, :, :2] * points.new_tensor([2.0, -2.0]) / self.box_side
        found = F.grid_sample(
            field.expand(len(points), -1, -1, -1),
            grid,
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )
        return found[:, :, 0].transpose(1, 2)

    def alike(
        self,
        points: Tensor,  # [N, M, 3], surface of the frame
        there: Tensor,  # [N, M, 3], the same material points in the source
        inside: Tensor,  # I of the frame's expression, [N, 1, P, P]
        source_inside: Tensor,  # I of the source's
    ) -> Tensor:
        """How far frame and source show the same sort of surface at these points, [N, M, 1] in [0, 1]."""
        low, high = OTHERWISE
        apart = (self.displace(points, inside) - self.displace(there, source_inside)).abs()
        return 1 - ((apart - low) / (high - low)).clamp(0, 1)
