"""The closed share of AED: how far a method is on the way from copying the source to the floor."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from training_support import make_dataset

import calc_metrics
from metrics import networks as networks_module
from metrics.clips import Failures
from metrics.networks import Face
from metrics.registry import get_metric
from metrics.result import ClipScores, Result
from metrics.table import closed_parts


def result(**clips: tuple[float, int]) -> Result:
    """AED of each clip: mean over its frames, and their number."""
    scores = {
        name: ClipScores(sums={"aed": mean * n}, counts={"aed": n})
        for name, (mean, n) in clips.items()
    }
    place = Path("nowhere")
    return Result([get_metric("aed")], scores, {}, Failures(), place, place, {"aed": "none"})


COPY = result(a=(0.10, 10), b=(0.08, 30))
FLOOR = result(a=(0.02, 10), b=(0.02, 30))


def share(method: Result, copy: Result = COPY, floor: Result = FLOOR) -> float:
    above, below = closed_parts(method, copy, floor, "aed")
    return float(above.sum() / below.sum())


def test_copying_closes_nothing_and_the_floor_everything() -> None:
    assert share(COPY) == 0 and share(FLOOR) == 1
    half = result(a=(0.06, 10), b=(0.05, 30))
    assert share(half) == pytest.approx(0.5)
    assert share(result(a=(0.14, 10), b=(0.11, 30))) == pytest.approx(-0.5)


def test_it_is_the_ratio_of_the_scores_where_all_was_measured() -> None:
    ours = result(a=(0.03, 10), b=(0.07, 30))
    copy, floor, mean = (r.mean("aed") for r in (COPY, FLOOR, ours))
    # by hand: copy .085, floor .02, ours .06
    assert (
        share(ours) == pytest.approx((copy - mean) / (copy - floor)) == pytest.approx(0.025 / 0.065)
    )


def test_clips_that_one_of_the_three_lacks_are_left_out() -> None:
    ours = result(a=(0.06, 5), b=(0.05, 30), c=(0.0, 9))
    without_b = result(a=(0.02, 10), b=(0.0, 0))
    assert share(ours, floor=without_b) == pytest.approx(0.5)
    above, below = closed_parts(ours, COPY, FLOOR, "aed")
    # a clip counts by the method's own frames
    np.testing.assert_allclose(above, [5 * 0.04, 30 * 0.03])
    np.testing.assert_allclose(below, [5 * 0.08, 30 * 0.06])


@pytest.fixture
def grey_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracker that reads the picture's mean: no two frames of the toy data are alike."""

    def seen(self: networks_module.Networks, image: np.ndarray) -> Face:
        beta = np.full(52, image.mean() / 255, np.float32)
        return Face(np.zeros((478, 3), np.float32), beta, np.eye(3), np.zeros(3), 1.0)

    monkeypatch.setattr(networks_module.Networks, "face", seen)


@pytest.mark.usefixtures("grey_faces")
def test_tables_with_both_baselines_have_the_column(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "heads")
    places = ("--data", data, "--out", tmp_path / "p.json", "--split", "all", "--frames", 4)
    call("protocol", "--layout", "heads", *places)
    words = ("table", "--protocol", tmp_path / "p.json", "--data", data, "--out", tmp_path / "t")
    words += ("--method", "ours=blur", "--method", "still=copy", "--method", "least=floor:16")
    output = call(*words, "--same", "psnr,aed", "--cross", "aed")
    head = output.splitlines()[0]
    assert "aed same ↓ | aed_closed same ↑ | aed cross ↓ | aed_closed cross ↑" in head
    assert "aed_closed: (still - method) / (still - least) of aed" in output
    found = json.loads((tmp_path / "t" / "table.json").read_text())["table"]
    for mode in ("same", "cross"):
        aed = {m: found[m][f"aed {mode}"]["value"] for m in found}
        closed = {m: found[m][f"aed_closed {mode}"] for m in found}
        expected = (aed["still"] - aed["ours"]) / (aed["still"] - aed["least"])
        assert closed["ours"]["value"] == pytest.approx(expected)
        assert closed["still"]["value"] == 0 and closed["least"]["value"] == 1
        low, high = closed["ours"]["interval_95"]
        assert low < expected < high and math.isfinite(low + high)
    tex = (tmp_path / "t" / "table.tex").read_text()
    assert r"AED$_\mathrm{closed}$ $\uparrow$" in tex
    rows = list(csv.DictReader((tmp_path / "t" / "table.csv").open()))
    assert {r["metric"] for r in rows} == {"psnr", "aed", "aed_closed"}
    # without the floor there is nothing to be measured on
    alone = call(*words[:-2], "--same", "aed", "--cross", "")
    assert "aed_closed" not in alone


def call(*words: object) -> str:
    outcome = CliRunner().invoke(calc_metrics.main, [*map(str, words)])
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def test_a_floor_without_a_network_says_its_resolution(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "heads")
    call(
        "protocol",
        "--layout",
        "heads",
        "--data",
        data,
        "--out",
        tmp_path / "p.json",
        "--split",
        "all",
    )
    words = ("table", "--protocol", tmp_path / "p.json", "--data", data, "--out", tmp_path / "t")
    outcome = CliRunner().invoke(calc_metrics.main, [*map(str, words), "--method", "least=floor"])
    assert outcome.exit_code == 1 and "give floor:PX" in outcome.output
