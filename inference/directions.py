"""Motion along each orthogonal direction v_i of the expression basis, strong enough to be seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from conventions.spaces import ARKIT52, check_same_space
from dataset.reader import open_dataset
from dataset.synthesis.motion import sample_clip
from dnnlib.errors import UserError
from inference.background import NETWORK, Background
from inference.network import Expressive, Network, direction_scales
from inference.output import Report, write_video
from inference.panels import Canvas
from inference.photo import Photo
from inference.showing import showing
from inference.views import GRID_CELL_PX, VIEW_FPS

VISIBLE = 4.0  # mean change of a pixel, of 255, at the ends of a swing
MOST = 4.0  # standard deviations that a swing has at most: beyond, heads come apart
_STEPS = 5  # of the search for a swing's size
_N_SAMPLED = 2000  # expressions that a spread is taken over


def directions(
    network: Network,
    source: Photo,
    out: Path,
    count: int = 10,
    amount: float = 1.0,  # 1: as far as `visible_steps` says
    seconds: float = 3.0,
    columns: int = 5,
    panel_px: int = 0,
    background: Background = NETWORK,
    data: Path | None = None,  # whose expressions tell how far a coefficient goes
) -> Report:
    """beta' + a_i sin(t) v_i, one panel for each v_i, which says a_i in standard deviations of lambda_i.

    Raises:
        UserError: `data` is no data set of the network's expression space.
    """
    rows = network.directions()[:count]  # [n, d]
    spread = spreads(network, data)[:count]
    base = network.refine(source.beta)  # [1, d]
    features = network.encode(source.crop, source.camera, source.beta)
    shown = showing(source, Expressive(network, features), background)
    view = shown.view(source.camera)
    n_frames = max(2, round(seconds * VIEW_FPS))

    def picture(i: int, step: float) -> np.ndarray:
        planes = network.planes_from_refined(features, base + step * rows[i])
        return shown.picture(network.render(planes, view), view)

    steps = amount * visible_steps(picture, spread)

    def frames() -> Iterator[np.ndarray]:
        labels = [
            f"v{i + 1}   {s / max(d, 1e-9):.1f} sd" for i, (s, d) in enumerate(zip(steps, spread))
        ]
        canvas = Canvas(labels, min(columns, len(rows)), panel_px or GRID_CELL_PX)
        for t in range(n_frames):
            a = math.sin(2 * math.pi * t / n_frames)
            yield canvas.compose([picture(i, a * float(s)) for i, s in enumerate(steps)])

    return write_video(out, frames(), VIEW_FPS, None, n_frames, "directions")


def spreads(network: Network, data: Path | None = None) -> np.ndarray:
    """float64 [n]: standard deviation of each coefficient lambda_i over expressions.

    Those of a data set, up to 2,000 of its frames; without one those of synthetic talking heads; of a space that these
    do not speak, the range over its single units.

    Raises:
        UserError: see `directions`.
    """
    if data is not None:
        dataset = open_dataset(data)
        if dataset.space is None:
            raise UserError(
                f"{data} has no expression parameters; give a data set of dataset_tool.py"
            )
        check_same_space(network.space, dataset.space, f"{network.name} and {data}")
        chosen = np.unique(np.linspace(0, len(dataset) - 1, _N_SAMPLED).astype(int))
        betas = np.stack([dataset.beta(int(i)) for i in chosen])
    elif network.space == ARKIT52:
        rng = np.random.default_rng(0)
        betas = np.concatenate(
            [sample_clip(rng, 50, 0.2).beta_true for _ in range(_N_SAMPLED // 50)]
        )
    else:
        return direction_scales(network).double().cpu().numpy()
    along = network.refine(betas) @ network.directions().T
    return np.asarray(along.double().std(dim=0, correction=0).cpu().numpy())


def visible_steps(picture: Callable[[int, float], np.ndarray], spread: np.ndarray) -> np.ndarray:
    """float64 [n]: how far to go along each direction.

    So far that the picture changes by VISIBLE at the ends, the mean of both, and at most MOST standard deviations:
    equal coefficients would hide one motion and tear another.

    picture: (number of a direction, step along it) -> uint8 [H, W, 3].
    """
    steps = np.zeros(len(spread))
    for i, deviation in enumerate(spread):
        rest = picture(i, 0.0).astype(np.float64)

        def change(step: float, i: int = i, rest: np.ndarray = rest) -> float:
            return float(np.mean([np.abs(picture(i, s) - rest).mean() for s in (-step, step)]))

        low, high = 0.0, MOST * float(deviation)
        if change(high) <= VISIBLE:
            steps[i] = high
            continue
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (low, middle) if change(middle) > VISIBLE else (middle, high)
        steps[i] = high
    return steps
