"""Following: r and gain by hand-made numbers, pooling over clips, what is not measured, and the command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import calc_metrics
from conventions.spaces import ARKIT52
from metrics import networks as networks_module
from metrics.clips import Failures
from metrics.follow import MIN_DEVIATION, Following, follow_clip
from metrics.networks import Face
from metrics.protocols import Pair, Protocol
from metrics.units import GROUPS, signals

OF = {group.name: group for group in GROUPS}


def betas(**units: list[float]) -> np.ndarray:
    """Expressions [T, 52] in which the named units take these values and the others are 0."""
    out = np.zeros((len(next(iter(units.values()))), ARKIT52.dim))
    for unit, values in units.items():
        out[:, ARKIT52.names.index(unit)] = values
    return out


def following(*clips: tuple[np.ndarray, np.ndarray]) -> Following:
    return Following({str(i): follow_clip(*clip) for i, clip in enumerate(clips)}, Failures())


def test_groups_are_of_the_space_and_share_no_unit() -> None:
    units = [unit for group in GROUPS for side in group.signals for unit in side]
    assert set(units) <= set(ARKIT52.names) and len(set(units)) == len(units)
    assert len(GROUPS) == 12


def test_gain_is_the_slope_and_r_the_correlation() -> None:
    driver, result = betas(jawOpen=[0.0, 0.4, 0.8]), betas(jawOpen=[0.3, 0.3, 0.6])
    found = following((driver, result)).of(OF["jaw"])
    # deviations -.4, 0, .4 and -.1, -.1, .2: sums xy .12, xx .32, yy .06
    assert found.gain == pytest.approx(0.12 / 0.32)
    assert found.r == pytest.approx(0.12 / np.sqrt(0.32 * 0.06))
    assert found.driver_deviation == pytest.approx(np.sqrt(0.32 / 3))
    assert found.clips == 1
    assert found.r_interval is None and found.gain_interval is None  # one clip
    copied = following((driver, driver)).of(OF["jaw"])
    assert copied.gain == pytest.approx(1) and copied.r == pytest.approx(1)
    assert following((driver, 0.8 - driver)).of(OF["jaw"]).gain == pytest.approx(-1)


def test_people_may_differ_at_rest() -> None:
    """Half the driver's motion around other means in each clip: a regression over raw values would see the means."""
    motion = np.array([0.0, 0.2, 0.4])
    clips = [
        (betas(jawOpen=[*(at + motion)]), betas(jawOpen=[*(rest + motion / 2)]))
        for at, rest in ((0.0, 0.5), (0.2, 0.2), (0.5, 0.0))
    ]
    found = following(*clips).of(OF["jaw"])
    assert found.gain == pytest.approx(0.5) and found.r == pytest.approx(1.0)
    assert found.clips == pytest.approx(3.0)


def test_a_clip_counts_by_its_frames_and_by_how_much_its_driver_moves() -> None:
    """In the last clip the driver hardly moves and gain is -20: noise of the tracker."""
    wide = betas(jawOpen=[0.0, 0.8, 0.0, 0.8])  # deviation 0.4
    narrow = betas(jawOpen=[0.1, 0.3] * 6)  # deviation 0.1, three times the frames
    still, noise = betas(jawOpen=[0.0, 0.002] * 2), betas(jawOpen=[0.04, 0.0] * 2)  # 0.001
    clips = [(wide, 0.8 * wide), (narrow, 0.4 * narrow), (still, noise)]
    found = following(*clips).of(OF["jaw"])
    weights = 4 * 0.4 + 12 * 0.1 + 4 * 0.001
    assert found.gain == pytest.approx((1.6 * 0.8 + 1.2 * 0.4 - 0.004 * 20) / weights)
    assert found.r == pytest.approx((1.6 + 1.2 - 0.004) / weights)
    assert found.driver_deviation == pytest.approx(weights / 20)
    assert found.clips == pytest.approx(weights**2 / (1.6**2 + 1.2**2 + 0.004**2))


def test_what_the_driver_does_not_move_is_not_measured() -> None:
    barely = betas(jawOpen=[0.0, 1.9 * MIN_DEVIATION], mouthPucker=[0.0, 2.1 * MIN_DEVIATION])
    found = following((barely, barely))
    assert not found.of(OF["jaw"]).measured and np.isnan(found.of(OF["jaw"]).r)
    assert found.of(OF["pucker"]).measured
    assert found.medians() == (pytest.approx(1.0), pytest.approx(1.0))  # of what is measured
    assert found.to_dict()["median"]["groups"] == 1
    assert found.to_dict()["units"]["jaw"]["gain"]["value"] is None
    nothing = following((np.zeros((0, 52)), np.zeros((0, 52))))
    assert np.isnan(nothing.medians()).all() and json.dumps(nothing.to_dict(), allow_nan=False)


def test_a_result_that_does_not_move_does_not_follow() -> None:
    driver = betas(jawOpen=[0.0, 0.4, 0.8])
    found = following((driver, betas(jawOpen=[0.3, 0.3, 0.3]))).of(OF["jaw"])
    assert found.r == 0 and found.gain == 0


def test_left_and_right_are_pooled_as_series_of_their_own() -> None:
    """A wink of the left eye, which the result shows with the right: the mean of both sides would call it perfect."""
    wink, none = [0.0, 1.0, 0.0], [0.2, 0.2, 0.2]
    driver = betas(eyeBlinkLeft=wink, eyeBlinkRight=none)
    assert following((driver, driver)).of(OF["blink"]).gain == pytest.approx(1)
    swapped = betas(eyeBlinkLeft=none, eyeBlinkRight=wink)
    found = following((driver, swapped)).of(OF["blink"])
    assert found.gain == pytest.approx(0, abs=1e-12) and found.r == pytest.approx(0, abs=1e-12)


def test_gaze_has_a_direction() -> None:
    left = betas(eyeLookOutLeft=[0.0, 0.5], eyeLookInRight=[0.0, 0.5])
    right = betas(eyeLookInLeft=[0.0, 0.5], eyeLookOutRight=[0.0, 0.5])
    assert signals(OF["gaze x"], left)[1].tolist() == [0.5, 0.5]
    assert following((left, right)).of(OF["gaze x"]).gain == pytest.approx(-1)
    up, down = (
        betas(**{f"eyeLook{way}Left": [0.0, 0.5], f"eyeLook{way}Right": [0.0, 0.5]})
        for way in ("Up", "Down")
    )
    assert following((up, down)).of(OF["gaze y"]).gain == pytest.approx(-1)


def test_medians_are_over_groups_and_intervals_over_clips() -> None:
    rng = np.random.default_rng(0)
    gains = {"jawOpen": 0.9, "mouthPucker": 0.5, "browInnerUp": 0.1}
    clips = []
    for _ in range(12):
        driver = betas(**{unit: [*rng.uniform(0, 1, 30)] for unit in gains})
        result = 0.05 * rng.normal(size=driver.shape)
        for unit, gain in gains.items():
            column = ARKIT52.names.index(unit)
            result[:, column] += gain * driver[:, column]
        clips.append((driver, result))
    found = following(*clips)
    for group, unit in (
        ("jaw", "jawOpen"),
        ("pucker", "mouthPucker"),
        ("brow inner up", "browInnerUp"),
    ):
        one = found.of(OF[group])
        assert one.gain_interval is not None and one.r_interval is not None
        assert one.gain_interval[0] < gains[unit] < one.gain_interval[1]
        assert one.r_interval[0] < one.r < one.r_interval[1] <= 1
        # 360 frames of noise 0.05 on a motion of 0.29: the slope's standard error is 0.01
        assert one.gain_interval[1] - one.gain_interval[0] < 0.06
    assert found.medians()[1] == found.of(OF["pucker"]).gain


def test_intervals_of_r_stay_in_its_range() -> None:
    """Five clips, one of them against the driver: a bootstrap-t interval would end beyond 1."""
    driver = betas(jawOpen=[0.0, 0.4, 0.8])
    low, high = following(*[(driver, driver)] * 4, (driver, 0.8 - driver)).of(OF["jaw"]).r_interval  # type: ignore[misc]
    assert -1 <= low < 0.6 < high <= 1


# ---- the command -------------------------------------------------------------------------------------------------


def clip(folder: Path, values: list[float | None]) -> None:
    """Frames whose grey level says how far the jaw is open; None: no face."""
    folder.mkdir(parents=True)
    for i, value in enumerate(values):
        level = 255 if value is None else round(100 * value)
        Image.new("RGB", (16, 16), (level, level, level)).save(folder / f"{i:05d}.png")


@pytest.fixture
def grey_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracker that reads such pictures."""

    def seen(self: networks_module.Networks, image: np.ndarray) -> Face | None:
        if image[0, 0, 0] == 255:
            return None
        beta = betas(jawOpen=[image[0, 0, 0] / 100])[0].astype(np.float32)
        return Face(np.zeros((478, 3), np.float32), beta, np.eye(3), np.zeros(3), 1.0)

    monkeypatch.setattr(networks_module.Networks, "face", seen)


@pytest.mark.usefixtures("grey_faces")
def test_the_command_measures_folders_of_any_method(tmp_path: Path) -> None:
    pairs = tuple(
        Pair(f"{mode}-{i}", mode, f"s{i}", 0, f"d{i}")
        for mode in ("same", "cross")
        for i in range(2)
    )
    Protocol("toy", "folder", 0, 16, pairs, {"name": "c", "version": 1}).save(tmp_path / "p.json")
    for pair in pairs:
        clip(tmp_path / "ref" / pair.id, [0.0, 0.4, 0.8, 0.2])
        still = pair.mode == "cross"
        clip(tmp_path / "ours" / pair.id, [0.1, 0.3, 0.5, None] if not still else [0.3] * 4)
    words = ("follow", "--protocol", tmp_path / "p.json", "--ref", tmp_path / "ref")
    words += ("--method", f"ours={tmp_path / 'ours'}", "--method", f"truth={tmp_path / 'ref'}")
    result = CliRunner().invoke(calc_metrics.main, [*map(str, words), "--out", str(tmp_path / "f")])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "f" / "follow.json").read_text())
    same, cross = (found["methods"]["ours"][mode] for mode in ("same", "cross"))
    assert same["units"]["jaw"]["gain"]["value"] == pytest.approx(0.5)
    assert same["units"]["jaw"]["r"]["value"] == pytest.approx(1.0)
    assert same["frames"] == 6 and same["n_failures"] == 2
    assert same["failures"][0].startswith("same-0: no face in the result")
    assert cross["units"]["jaw"]["gain"]["value"] == cross["units"]["jaw"]["r"]["value"] == 0
    assert cross["units"]["smile"]["gain"]["value"] is None and cross["median"]["groups"] == 1
    assert found["methods"]["truth"]["cross"]["median"] == {"r": 1.0, "gain": 1.0, "groups": 1}
    record = found["protocol"]
    assert record["protocol"] == "toy" and "sha256" in record["extractor"]
    assert record["groups"]["gaze y"][0] == {"eyeLookUpLeft": 1, "eyeLookDownLeft": -1}
    text = (tmp_path / "f" / "follow.md").read_text()
    assert text in result.output and "| jaw | 1.00 | 0.50 | 1.00 | 1.00 |" in text
    assert "| **median** | **0.00** | **0.00** | **1.00** | **1.00** |" in text
    # what was seen of the references is kept
    again = CliRunner().invoke(calc_metrics.main, [*map(str, words), "--out", str(tmp_path / "f")])
    assert (
        again.exit_code == 0 and json.loads((tmp_path / "f" / "follow.json").read_text()) == found
    )


@pytest.mark.usefixtures("grey_faces")
@pytest.mark.parametrize(
    ("methods", "says"),
    [
        ((), "nothing to measure; give --network CHECKPOINT"),
        (("--method", "a=nowhere"), "nowhere does not exist; give a folder of clips, a checkpoint"),
        (("--method", "a={faceless}"), "a, same identity: no frame of .* could be compared"),
        (("--method", "a={ref}", "--method", "a={ref}"), "names a twice"),
        (("--method", "f=floor"), "give --data"),
    ],
)
def test_mistakes_end_in_a_sentence(methods: tuple[str, ...], says: str, tmp_path: Path) -> None:
    pairs = (Pair("same-0", "same", "s", 0, "d"),)
    Protocol("toy", "folder", 0, 16, pairs, {"name": "c", "version": 1}).save(tmp_path / "p.json")
    clip(tmp_path / "ref" / "same-0", [0.0, 0.4])
    clip(tmp_path / "faceless" / "same-0", [None, None])
    places = {"ref": tmp_path / "ref", "faceless": tmp_path / "faceless"}
    words = ["follow", "--protocol", tmp_path / "p.json", "--ref", tmp_path / "ref"]
    words += [m.format(**places) for m in methods] + ["--out", tmp_path / "f"]
    result = CliRunner().invoke(calc_metrics.main, [str(w) for w in words])
    assert result.exit_code == 1 and result.output.count("Error: ") == 1, result.output
    assert re.search(says, result.output), result.output
