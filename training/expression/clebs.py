"""CLeBS, the contrastive learned basis scaling of expression parameters (paper, sec. 3.2).

Letters: beta expression parameters [N, D]; lambda expression coefficients [N, n]; V = (v_1 .. v_n) orthonormal
basis [d, n]; beta' = f_e(beta) refined expression [N, d].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.config import ExpressionConfig


class BasisScaling(nn.Module):
    """f_e(beta) = sum_i lambda_i(beta) v_i, with V orthonormal.   [paper, eq. 1]"""

    def __init__(
        self,
        space_dim: int,  # D, length of beta
        n_bases: int = 10,  # n
        dim: int = 512,  # d >= n
        hidden: int = 256,
        layers: int = 4,
    ) -> None:
        super().__init__()
        widths = [space_dim] + [hidden] * (layers - 1) + [n_bases]
        steps: list[nn.Module] = []
        for i, (a, b) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            steps.append(nn.Linear(a, b))
            if i < layers - 1:
                steps.append(nn.LeakyReLU(0.2))
        self.mlp = nn.Sequential(*steps)
        self.matrix = nn.Parameter(torch.randn(dim, n_bases))

    def basis(self) -> Tensor:
        """V [d, n], float32, V^T V = 1: the QR decomposition of the learned matrix.

        The signs are those that make diag(R) positive; without this rule a small step of the matrix could
        turn a direction round.
        """
        with torch.autocast(self.matrix.device.type, enabled=False):
            q, r = torch.linalg.qr(self.matrix.float())
            return q * torch.where(r.diagonal() < 0, -1.0, 1.0)

    @torch.no_grad()
    def standardise(self, beta: Tensor) -> None:
        """Give lambda mean 0 and deviation 1 over beta [M, D]: an affine change of the last layer alone.

        The contrastive loss sees angles only and leaves the scale to chance (0.1 was seen); a generator that starts
        from such small numbers listens to the expression late.
        """
        coefficients = self.coefficients(beta)
        gain = 1 / coefficients.std(dim=0).clamp_min(1e-4)
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        last.weight.mul_(gain[:, None])
        last.bias.sub_(coefficients.mean(dim=0)).mul_(gain)

    @torch.no_grad()
    def rotate(self, rotation: Tensor) -> None:
        """Other directions, the same f_e: lambda <- R lambda, V <- V R^T for an orthogonal R [n, n]."""
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        self.matrix.copy_(self.basis() @ rotation.T)
        last.weight.copy_(rotation @ last.weight)
        last.bias.copy_(rotation @ last.bias)

    def coefficients(self, beta: Tensor) -> Tensor:
        """lambda [N, n] of beta [N, D]."""
        out: Tensor = self.mlp(beta)
        return out

    def forward(self, beta: Tensor) -> Tensor:
        """beta [N, D] -> beta' [N, d]."""
        coefficients = self.coefficients(beta).float()
        with torch.autocast(beta.device.type, enabled=False):
            return coefficients @ self.basis().T


class ExpressionEncoder(nn.Module):
    """The expression path chosen by `ExpressionConfig.mode`.

    `clebs` and `lebs` are the same network, trained contrastively and then frozen, or end to end (the paper's
    "E2E LeBS"); `identity` hands beta on as it is (the paper's "beta directly").
    """

    def __init__(self, config: ExpressionConfig, space_dim: int) -> None:
        super().__init__()
        self.mode = config.mode
        self.space_dim = space_dim
        self.scaling: BasisScaling | None = None
        if config.mode != "identity":
            self.scaling = BasisScaling(
                space_dim, config.n_bases, config.dim, config.hidden, config.layers
            )

    @property
    def out_dim(self) -> int:
        """Length of beta': d, or D for mode identity."""
        return self.space_dim if self.scaling is None else self.scaling.matrix.shape[0]

    def directions(self) -> Tensor:
        """The directions along which an expression can be moved, as rows [n, d]: V^T, or unit vectors."""
        if self.scaling is None:
            return torch.eye(self.space_dim)
        return self.scaling.basis().T

    def forward(self, beta: Tensor) -> Tensor:
        """beta [N, D] -> beta' [N, d]. Raises ValueError when beta has another length."""
        if beta.ndim != 2 or beta.shape[1] != self.space_dim:
            raise ValueError(f"beta is {tuple(beta.shape)}; expected [N, {self.space_dim}]")
        if self.scaling is None:
            return beta
        out: Tensor = self.scaling(beta)
        return out
