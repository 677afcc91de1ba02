"""Scenes of the tests of the fused renderer, and what the plain torch renderer makes of them in float64."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from conventions.cameras import camera_label
from torch_utils.ops.triplane_render import Layout, RaySpec, triplane_render
from training.rendering.rays import ray_bundle
from training.rendering.triplane import TriplaneDecoder, sample_triplane
from training.rendering.volume import render_rays

NAMES = ("features", "depth", "opacity")
NAMES += ("planes", "w1", "b1", "w2", "b2", "origins", "directions")


@dataclass
class Case:
    """Rays of n cameras through random planes, with a random decoder and random cotangents."""

    channels: int
    hidden: int
    colours: int
    size: int
    side: int
    spec: RaySpec
    n: int = 1
    noisy: bool = False
    density: float = 0.0  # added to the decoder's density bias

    def __post_init__(self) -> None:
        labels = [torch.from_numpy(camera_label(0.3 * i - 0.2, 0.1)) for i in range(self.n)]
        self.origins, self.directions = ray_bundle(torch.stack(labels), self.side)
        decoder = TriplaneDecoder(self.channels, self.hidden, self.colours)
        torch.nn.init.normal_(decoder.hidden.bias)
        torch.nn.init.normal_(decoder.out.bias)
        with torch.no_grad():
            decoder.out.bias[0] += self.density
        self.planes = torch.randn(self.n, 3, self.channels, self.size, self.size)
        layers = (decoder.hidden, decoder.out)
        self.weights = [t.detach() for layer in layers for t in (layer.weight, layer.bias)]
        rays = self.side**2
        self.noise: tuple[Tensor, Tensor] | None = None
        if self.noisy:
            counts = (self.spec.samples_coarse, self.spec.samples_fine)
            self.noise = tuple(torch.rand(self.n, rays, s) for s in counts)  # type: ignore[assignment]
        self.cotangents = [torch.randn(self.n, rays, k) for k in (self.colours, 1, 1)]

    def leaves(self, dtype: torch.dtype) -> list[Tensor]:
        leaves = (self.planes, *self.weights, self.origins, self.directions)
        return [t.detach().to(dtype).clone().requires_grad_() for t in leaves]

    def with_gradients(self, out: Any, leaves: list[Tensor]) -> list[Tensor]:
        pairs = zip(out, self.cotangents, strict=True)
        loss = torch.stack([(y * c.to(y)).sum() for y, c in pairs]).sum()
        return [*(y.detach() for y in out), *torch.autograd.grad(loss, leaves)]

    def reference(self, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        leaves = self.leaves(dtype)
        planes, w1, b1, w2, b2, *rays = leaves
        s = self.spec

        def field(x: Tensor) -> tuple[Tensor, Tensor]:
            # TriplaneDecoder without its .float()
            at = sample_triplane(planes, x, s.box_side, s.layout)
            y = F.linear(F.softplus(F.linear(at, w1, b1)), w2, b2)
            return torch.sigmoid(y[..., 1:]) * 1.002 - 0.001, F.softplus(y[..., :1] - 1)

        noise = None if self.noise is None else tuple(t.to(dtype) for t in self.noise)
        out = render_rays(field, *rays, s.near, s.far, s.samples_coarse, s.samples_fine, noise)  # type: ignore[misc]
        return self.with_gradients(out, leaves)

    def fused(self) -> list[Tensor]:
        leaves = self.leaves(torch.float32)
        planes, decoder, rays = leaves[0], tuple(leaves[1:5]), leaves[5:]
        out = triplane_render(planes, decoder, rays[0], rays[1], self.spec, self.noise)  # type: ignore[arg-type]
        return self.with_gradients(out, leaves)


def spec(coarse: int, fine: int, box: float = 1.0, layout: Layout = "xyz") -> RaySpec:
    return RaySpec(2.25, 3.3, coarse, fine, box, layout)


CASES = {
    "two images, noise, odd sizes": lambda: Case(8, 16, 5, 13, 6, spec(7, 5), 2, True),
    "the paper's numbers": lambda: Case(32, 64, 32, 64, 10, spec(48, 48)),
    "the paper's numbers, noise": lambda: Case(32, 64, 32, 64, 7, spec(48, 48), 1, True),
    "demo with motion": lambda: Case(
        32, 32, 35, 32, 9, dataclasses.replace(spec(16, 0), box_side=0.76, near=2.32), 2, True
    ),
    "eg3d_legacy": lambda: Case(20, 24, 3, 16, 8, spec(8, 4, layout="eg3d_legacy")),
    "most samples outside": lambda: Case(16, 64, 32, 16, 8, spec(8, 4, box=0.3)),
    "everything outside": lambda: Case(4, 3, 2, 4, 3, spec(4, 2, box=1e-3)),
    "a wall": lambda: Case(16, 16, 4, 16, 8, spec(24, 24), density=60.0),
    "empty space": lambda: Case(16, 16, 4, 16, 8, spec(24, 24), density=-60.0),
    "one ray, one channel, two samples": lambda: Case(1, 1, 1, 1, 1, spec(2, 0)),
    "one fine sample": lambda: Case(3, 5, 2, 3, 4, spec(2, 1), 3, True),
    "many channels": lambda: Case(50, 70, 40, 9, 5, spec(6, 6)),
    "more rays than a block of the backward pass": lambda: Case(48, 16, 3, 16, 48, spec(40, 0)),
}


def assert_agrees(case: Case) -> None:
    """Values and gradients of the kernels against the reference in float64."""
    for what, got, want in zip(NAMES, case.fused(), case.reference(), strict=True):
        assert got.shape == want.shape, what
        # float32 of at most a few thousand sums; the plain renderer in float32 is as far off (worst 6e-6).
        # In empty space everything is of the order 1e-26; absolute errors of 1e-20 are nothing.
        error = (got.double() - want).norm() / (want.norm() + 1e-20)
        assert error < (2e-6 if what in NAMES[:3] else 5e-5), (what, float(error))


def lazy_and_full(case: Case, min_weight: float) -> list[tuple[Tensor, Tensor]]:
    """(full, lazy) of features, depth and opacity."""
    decoder: Any = tuple(case.weights)
    rays = case.origins, case.directions
    lazy = dataclasses.replace(case.spec, min_weight=min_weight)
    outs = [triplane_render(case.planes, decoder, *rays, s, case.noise) for s in (case.spec, lazy)]
    return list(zip(*outs, strict=True))
