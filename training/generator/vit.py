"""EAdaLN-ViT: transformer blocks whose normalisation carries the expression (paper, sec. 3.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class EAdaLN(nn.Module):
    """EAdaLN(x, b) = sigma(b) * LN(x) + mu(b).   [paper, eq. 3]

    sigma = 1 + linear(b), and all linear weights start at zero: training starts from plain layer norm.
    """

    def __init__(self, width: int, expression_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.affine = nn.Linear(expression_dim, 2 * width)
        nn.init.zeros_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: Tensor, expression: Tensor) -> Tensor:
        """x [N, L, h], expression [N, d] -> [N, L, h]."""
        scale, mu = self.affine(expression)[:, None].chunk(2, dim=-1)
        out: Tensor = (1 + scale) * self.norm(x) + mu
        return out


class SelfAttention(nn.Module):
    """Multi-head self-attention, [N, L, h] -> [N, L, h]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        qkv = self.qkv(x).view(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(y.transpose(1, 2).reshape(n, length, width))
        return out


class CrossAttention(nn.Module):
    """Tokens attend to beta', seen as `tokens` learned projections of it: the paper's ablation of EAdaLN."""

    def __init__(self, width: int, heads: int, expression_dim: int, tokens: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.split = nn.Linear(expression_dim, tokens * width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, expression: Tensor) -> Tensor:
        """x [N, L, h], expression [N, d] -> [N, L, h]."""
        n, length, width = x.shape
        shape = (n, -1, self.heads, width // self.heads)
        k, v = self.key_value(self.split(expression).view(n, -1, width)).chunk(2, dim=-1)
        q = self.query(x).view(shape).transpose(1, 2)
        y = F.scaled_dot_product_attention(
            q, k.reshape(shape).transpose(1, 2), v.reshape(shape).transpose(1, 2)
        )
        out: Tensor = self.out(y.transpose(1, 2).reshape(n, length, width))
        return out


class MixFFN(nn.Module):
    """SegFormer's feed-forward: linear, depth-wise 3x3 over the token grid, GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.project = nn.Linear(hidden, width)

    def forward(self, x: Tensor, side: int) -> Tensor:
        """x [N, side * side, h] -> the same shape."""
        y = self.expand(x)
        grid = y.transpose(1, 2).reshape(x.shape[0], -1, side, side)
        y = self.depthwise(grid).flatten(2).transpose(1, 2)
        out: Tensor = self.project(F.gelu(y))
        return out


class SourceBlock(nn.Module):
    """x + MHSA(LN(x)), then x + MixFFN(LN(x)): a block that does not see beta', so it runs once per source.   [ours]"""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.ffn = MixFFN(width, hidden)

    def forward(self, x: Tensor, side: int) -> Tensor:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.ffn(self.norm2(x), side)
        return out


class ExpressionBlock(nn.Module):
    """x + MHSA(EAdaLN(x, b)), then x + MixFFN(EAdaLN(x, b)).   [paper, eq. 4]"""

    def __init__(self, width: int, heads: int, hidden: int, expression_dim: int) -> None:
        super().__init__()
        self.norm1 = EAdaLN(width, expression_dim)
        self.attention = SelfAttention(width, heads)
        self.norm2 = EAdaLN(width, expression_dim)
        self.ffn = MixFFN(width, hidden)

    def forward(self, x: Tensor, expression: Tensor, side: int) -> Tensor:
        x = x + self.attention(self.norm1(x, expression))
        out: Tensor = x + self.ffn(self.norm2(x, expression), side)
        return out


class CrossAttentionBlock(nn.Module):
    """The ablation: plain layer norms, the expression enters by cross-attention."""

    def __init__(
        self, width: int, heads: int, hidden: int, expression_dim: int, tokens: int
    ) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attention = SelfAttention(width, heads)
        self.cross = CrossAttention(width, heads, expression_dim, tokens)
        self.ffn = MixFFN(width, hidden)

    def forward(self, x: Tensor, expression: Tensor, side: int) -> Tensor:
        x = x + self.attention(self.norm1(x))
        x = x + self.cross(self.norm2(x), expression)
        out: Tensor = x + self.ffn(self.norm3(x), side)
        return out


class ExpressionViT(nn.Module):
    """Tokens [N, h, side, side] and beta' [N, d] -> tokens of the same shape."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        ffn_ratio: float,
        expression_dim: int,
        conditioning: str = "eadaln",  # "eadaln" | "cross_attention"
        cross_tokens: int = 16,
    ) -> None:
        super().__init__()
        hidden = int(width * ffn_ratio)

        def block() -> nn.Module:
            if conditioning == "eadaln":
                return ExpressionBlock(width, heads, hidden, expression_dim)
            return CrossAttentionBlock(width, heads, hidden, expression_dim, cross_tokens)

        self.blocks = nn.ModuleList(block() for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, expression: Tensor) -> Tensor:
        n, (_, width, side, _) = len(expression), tokens.shape
        x = (
            tokens.flatten(2).transpose(1, 2).expand(n, -1, -1)
        )  # one source may carry many expressions
        for block in self.blocks:
            x = block(x, expression, side)
        return self.norm(x).transpose(1, 2).reshape(n, width, side, side)
