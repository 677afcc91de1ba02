"""Motion along the basis that can be seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from animate_support import photo, tiny_network
from test_gen_videos_inout import pictures
from training_support import make_dataset

from conventions.spaces import ARKIT52, ExpressionSpace
from dnnlib import UserError
from inference.demo import astronaut, load_demo_network
from inference.directions import MOST, VISIBLE, directions, spreads, visible_steps
from inference.network import Expressive, direction_scales
from inference.tracked import NetworkTracker


def test_steps_by_hand() -> None:
    """A picture that changes by `gain` of 255 a step: the step is VISIBLE / gain, and at most MOST deviations."""
    gains, spread = (1.0, 8.0, 0.1), np.array([1.0, 1.0, 2.0])

    def picture(i: int, step: float) -> np.ndarray:
        return np.full((4, 4, 3), round(100 + gains[i] * step), np.uint8).astype(np.uint8)

    steps = visible_steps(picture, spread)
    tick = MOST / 2**5  # of the search, and half a grey level of the picture
    assert steps[0] == pytest.approx(4.0, abs=tick + 0.5)
    assert steps[1] == pytest.approx(0.5, abs=tick + 0.5 / 8)
    assert steps[2] == MOST * 2.0


def test_spreads_over_data_and_without(tmp_path: Path) -> None:
    network = tiny_network()
    over_heads = spreads(network)
    assert over_heads.shape == (4,) and (over_heads > 0).all()
    make_dataset(tmp_path / "heads", space=ARKIT52)
    over_data = spreads(network, tmp_path / "heads")
    assert over_data.shape == (4,) and not np.allclose(over_data, over_heads)
    network.space = ExpressionSpace("mine", 52, "me", "1", ARKIT52.names)
    assert spreads(network) == pytest.approx(direction_scales(network).numpy())
    with pytest.raises(UserError, match="different expression spaces"):
        spreads(network, tmp_path / "heads")


def test_the_video_begins_and_ends_with_the_photo(tmp_path: Path) -> None:
    out = tmp_path / "d"
    directions(tiny_network(), photo(), out, count=3, amount=100, seconds=0.4, panel_px=32)
    frames = pictures(out)
    assert len(frames) == 10 and frames[0].shape == (8 + 26 + 40, 8 + 3 * 40, 3)
    assert np.array_equal(frames[5], frames[0]) and not np.array_equal(frames[2], frames[0])


@pytest.mark.slow
def test_every_direction_of_the_shipped_network_shows() -> None:
    """With the range of single units, as it was, v8 and v9 changed a pixel by 1.5 and v2 and v4 by 7."""
    network = load_demo_network()
    source = NetworkTracker(network).image(astronaut(), "astronaut")
    features = network.encode(source.crop, source.camera, source.beta)
    base, rows = network.refine(source.beta), network.directions()[:10]

    def picture(i: int, step: float) -> np.ndarray:
        planes = network.planes_from_refined(features, base + step * rows[i])
        return network.render(planes, source.camera).image

    spread = spreads(network)[:10]
    steps = visible_steps(picture, spread)
    own = Expressive(network, features).frame(source.beta, source.camera).image.astype(float)
    change = [
        np.mean([np.abs(picture(i, s) - own).mean() for s in (-steps[i], steps[i])])
        for i in range(10)
    ]
    print(np.round(steps / spread, 1), np.round(change, 1))
    assert min(change) > 2.0 and max(change) < 1.5 * VISIBLE
    assert (steps <= MOST * spread + 1e-9).all()
