"""t-SNE of beta and beta' (the paper's figure): raw beta clusters by person, beta' should not.

The exact algorithm of van der Maaten and Hinton 2008 in numpy; enough for the few thousand points of a figure.
"""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image, ImageDraw

from dnnlib.lettering import draw_text

_PAGE, _FIELD, _LINE, _INK = (250, 250, 248), (240, 241, 238), (222, 223, 220), (38, 42, 48)
_TITLE_PX, _MARGIN_PX = 40, 44
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
    """Scatter plots beside each other, with numbers along the axes and one scale for both: uint8 [H, W, 3]."""
    names = sorted(set(labels.tolist()))
    colours = {
        name: tuple(
            round(255 * c) for c in colorsys.hls_to_rgb(i / len(names), 0.42 + 0.16 * (i % 2), 0.65)
        )
        for i, name in enumerate(names)
    }
    scale = 2  # drawn at double size, then halved: smooth dots
    width, height = side_px + _MARGIN_PX, side_px + _TITLE_PX + _MARGIN_PX
    page = Image.new("RGB", (len(panels) * width * scale, height * scale), _PAGE)
    draw = ImageDraw.Draw(page)
    for column, (title, points) in enumerate(panels):
        corner = ((column * width + _MARGIN_PX - 8) * scale, _TITLE_PX * scale)
        _draw_panel(
            draw, title, points, [colours[n] for n in labels.tolist()], corner, side_px, scale
        )
    return np.asarray(
        page.resize((page.width // scale, page.height // scale), Image.Resampling.LANCZOS)
    )


def _draw_panel(
    draw: ImageDraw.ImageDraw,
    title: str,
    points: np.ndarray,
    colours: list[tuple[int, ...]],
    corner: tuple[int, int],  # left, top of the field, pixels
    side_px: int,
    scale: int,
) -> None:
    left, top = corner
    side = side_px * scale
    low, high = points.min(axis=0), points.max(axis=0)
    middle, reach = (low + high) / 2, max(float((high - low).max()), 1e-9) * 0.55
    draw.rectangle((left, top, left + side, top + side), fill=_FIELD)
    draw_text(draw, (left + side / 2, top - _TITLE_PX * scale / 2), title, 16 * scale, _INK)
    for axis in (0, 1):
        for value in ticks(middle[axis] - reach, middle[axis] + reach):
            at = (value - middle[axis] + reach) / (2 * reach) * side
            text = f"{value:g}"
            if axis == 0:
                draw.line((left + at, top, left + at, top + side), fill=_LINE, width=scale)
                draw_text(draw, (left + at, top + side + 12 * scale), text, 11 * scale, _INK)
            else:
                draw.line(
                    (left, top + side - at, left + side, top + side - at), fill=_LINE, width=scale
                )
                draw_text(draw, (left - 18 * scale, top + side - at), text, 11 * scale, _INK)
    inner = (points - middle + reach) / (2 * reach) * side
    for (x, y), colour in zip(inner, colours, strict=True):
        u, v = left + x, top + side - y
        draw.ellipse((u - 6, v - 6, u + 6, v + 6), fill=colour)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, three to nine of them: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 8
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(next(k * power for k in (1, 2, 5, 10) if k * power >= rough))
    first = int(np.ceil(low / step))
    return [k * step for k in range(first, int(np.floor(high / step)) + 1)]
