"""t-SNE of beta and beta' (the paper's figure): raw beta clusters by person, beta' should not.

The exact algorithm of van der Maaten and Hinton 2008 in numpy; enough for the few thousand points of a figure.
"""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image, ImageDraw

from dnnlib.lettering import draw_text

MAX_POINTS = 3000  # exact t-SNE needs memory for a few n x n matrices


def tsne(
    points: np.ndarray,  # [N, D]
    perplexity: float = 30.0,
    iterations: int = 500,
    seed: int = 0,
) -> np.ndarray:
    """Embed points in the plane, float64 [N, 2]. Deterministic by seed.

    p_ij = (p_j|i + p_i|j) / 2N with Gaussian neighbourhoods of equal perplexity, q_ij from a Student t with one degree
    of freedom, KL(P || Q) minimised by gradient descent with momentum and early exaggeration.

    Raises ValueError for fewer than 4 or more than MAX_POINTS points.
    """
    n = len(points)
    if not 4 <= n <= MAX_POINTS:
        raise ValueError(f"t-SNE of {n} points; give 4 to {MAX_POINTS}")
    p = _affinities(points.astype(np.float64), min(perplexity, (n - 1) / 3))
    rng = np.random.default_rng(seed)
    y = rng.normal(scale=1e-4, size=(n, 2))
    step, gains = np.zeros_like(y), np.ones_like(y)
    rate = max(n / 48, 50.0)  # learning rate n / exaggeration / 4, as is common
    for i in range(iterations):
        exaggeration = 12.0 if i < iterations // 4 else 1.0
        gradient = _gradient(p * exaggeration, y)
        # a coordinate that keeps its direction may go faster
        gains = np.where(np.sign(gradient) != np.sign(step), gains + 0.2, gains * 0.8).clip(
            min=0.01
        )
        step = (0.5 if i < iterations // 4 else 0.8) * step - rate * gains * gradient
        y = y + step
        y -= y.mean(axis=0)
    return y


def _gradient(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dKL/dy_i = 4 sum_j (p_ij - q_ij) (y_i - y_j) / (1 + |y_i - y_j|^2)."""
    kernel = 1 / (1 + _squared_distances(y))
    np.fill_diagonal(kernel, 0)
    force = (p - kernel / kernel.sum()) * kernel
    gradient: np.ndarray = 4 * (force.sum(axis=1, keepdims=True) * y - force @ y)
    return gradient


def _affinities(points: np.ndarray, perplexity: float) -> np.ndarray:
    """Symmetric p_ij [N, N]: each row's Gaussian width is found by bisection on its entropy, all rows at once."""
    d = _squared_distances(points)
    np.fill_diagonal(d, np.inf)
    d -= d.min(axis=1, keepdims=True)  # the same p, without underflow
    low, high = np.full(len(d), -30.0), np.full(len(d), 30.0)  # log2 of the precision
    finite = np.where(np.isfinite(d), d, 0.0)
    scale = finite.sum(axis=1, keepdims=True) / len(d) + 1e-12
    for _ in range(50):
        middle = (low + high) / 2
        weights = np.exp(-d / scale * 2.0 ** middle[:, None])
        p = weights / weights.sum(axis=1, keepdims=True)
        entropy = -(p * np.log2(np.maximum(p, 1e-300))).sum(axis=1)
        too_wide = entropy > np.log2(perplexity)
        low, high = np.where(too_wide, middle, low), np.where(too_wide, high, middle)
    return np.asarray((p + p.T) / (2 * len(d)))


def _squared_distances(x: np.ndarray) -> np.ndarray:
    squares = (x * x).sum(axis=1)
    return np.maximum(squares[:, None] + squares[None] - 2 * x @ x.T, 0)


def purity(embedded: np.ndarray, labels: np.ndarray) -> float:
    """Share of points whose nearest neighbour has the same label; chance is the labels' collision probability."""
    d = _squared_distances(embedded)
    np.fill_diagonal(d, np.inf)
    return float((labels[d.argmin(axis=1)] == labels).mean())


def draw_scatter(
    panels: list[tuple[str, np.ndarray]],  # title, points [N, 2]
    labels: np.ndarray,  # int [N], one colour each
    side_px: int = 560,
) -> np.ndarray:
    """Scatter plots beside each other, uint8 [H, W, 3]."""
    scale, strip = 2, 40  # drawn at double size, then halved: smooth dots
    page = Image.new(
        "RGB", (len(panels) * side_px * scale, (side_px + strip) * scale), (250, 250, 248)
    )
    draw = ImageDraw.Draw(page)
    names = sorted(set(labels.tolist()))
    colour = {
        name: tuple(
            round(255 * c) for c in colorsys.hls_to_rgb(i / len(names), 0.42 + 0.16 * (i % 2), 0.65)
        )
        for i, name in enumerate(names)
    }
    for column, (title, points) in enumerate(panels):
        low, high = points.min(axis=0), points.max(axis=0)
        inner = (points - low) / np.maximum(high - low, 1e-9) * 0.9 + 0.05
        left = column * side_px * scale
        centre = (left + side_px * scale / 2, strip * scale / 2)
        draw_text(draw, centre, title, 18 * scale, (38, 42, 48))
        for (x, y), name in zip(inner * side_px * scale, labels.tolist(), strict=True):
            at = (left + x, strip * scale + y)
            draw.ellipse((at[0] - 6, at[1] - 6, at[0] + 6, at[1] + 6), fill=colour[name])
    return np.asarray(
        page.resize((page.width // scale, page.height // scale), Image.Resampling.LANCZOS)
    )
