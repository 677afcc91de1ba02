"""What users put into folders and on command lines: stray, doubled and missing files, options that cannot be met."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dnnlib.errors import UserError
from inference.pictures import natural_key, read_picture
from metrics import networks as networks_module
from metrics.calc import Options, calculate
from metrics.clips import Failures, frame_pairs, list_sources
from metrics.networks import Face


def save(folder: Path, *names: str, seed: int = 0) -> Path:
    """A frame of noise under every name; its grey level tells the name's place."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i, name in enumerate(names):
        image = rng.integers(0, 40, (16, 16, 3)) + 20 * (i % 10)
        Image.fromarray(image.astype(np.uint8)).save(folder / name)
    return folder


# ---- frames ------------------------------------------------------------------------------------------------------


def test_a_cache_gives_the_numbers_of_no_cache_whatever_frames_a_method_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second method has a frame before the reference's first: its numbers must not move those of the cache."""

    def seen(self: networks_module.Networks, image: np.ndarray) -> Face:
        landmarks = np.full((478, 3), image.mean(), np.float32)
        return Face(landmarks, np.zeros(52, np.float32), np.eye(3), np.zeros(3), 1.0)

    monkeypatch.setattr(networks_module.Networks, "face", seen)
    names = [f"{i}.png" for i in range(1, 10)]
    ref = save(tmp_path / "ref", *names, seed=1)
    same = save(tmp_path / "same", *names, seed=1)
    longer = save(tmp_path / "longer", *names, seed=1)
    save(longer, "0.png", seed=2)
    options = Options(cache=tmp_path / "cache")
    assert calculate(same, ref, ["akd"], options).mean("akd") == 0.0
    second = calculate(longer, ref, ["akd"], options)
    assert second.mean("akd") == calculate(longer, ref, ["akd"]).mean("akd") == 0.0
    assert second.clips["ref"].cached == 9
    # By order of the files: one of another name in their midst takes no place in the reference.
    found = list(frame_pairs(longer, ref, Failures(), "clip"))
    assert [pair.place for pair in found] == list(range(9))
    assert [pair.number for pair in found] == list(range(1, 10))


def test_a_frame_that_both_sides_lack_is_a_gap(tmp_path: Path) -> None:
    for side in ("pred", "ref"):
        save(tmp_path / side, "f0.png", "f1.png", "f3.png", "f4.png")
    result = calculate(tmp_path / "pred", tmp_path / "ref", ["flicker", "psnr"])
    assert result.count("flicker") == 2 and result.count("psnr") == 4
    # Without numbers the order counts.
    for side in ("pred", "ref"):
        save(tmp_path / f"{side}_named", "a.png", "b.png", "d.png")
    result = calculate(tmp_path / "pred_named", tmp_path / "ref_named", ["flicker"])
    assert result.count("flicker") == 2
    # Folders that are matched by order: the reference's numbers.
    save(tmp_path / "other", "g0.png", "g1.png", "g2.png", "g3.png")
    assert calculate(tmp_path / "other", tmp_path / "ref", ["flicker"]).count("flicker") == 2


def test_pictures_beside_clips_are_refused(tmp_path: Path) -> None:
    for side in ("pred", "ref"):
        save(tmp_path / side / "a", "0.png")
    save(tmp_path / "pred", "grid.png")
    with pytest.raises(UserError, match="picture grid.png and the clip a;"):
        calculate(tmp_path / "pred", tmp_path / "ref", ["psnr"])
    (tmp_path / "pred" / "a" / "0.png").unlink()  # an empty folder is no clip
    (tmp_path / "pred" / "b.mp4").write_bytes(b"video")
    with pytest.raises(UserError, match="picture grid.png and the clip b.mp4;"):
        calculate(tmp_path / "pred", tmp_path / "ref", ["psnr"])


def test_two_files_of_one_frame_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "pred", "0.png", "1.png")
    save(tmp_path / "ref", "0.jpg", "0.png", "1.png")
    with pytest.raises(UserError, match="0.jpg and 0.png, two files of one frame"):
        calculate(tmp_path / "pred", tmp_path / "ref", ["psnr"])
    with pytest.raises(UserError, match="0.jpg and 0.png, two sources of one name"):
        list_sources(tmp_path / "ref")


def test_names_may_hold_any_digits(tmp_path: Path) -> None:
    ordered = sorted(map(Path, ["x²", "x10", "x2", "②", "x٣"]), key=natural_key)
    assert [p.name for p in ordered if p.name in ("x2", "x٣", "x10")] == ["x2", "x٣", "x10"]
    for side in ("pred", "ref"):
        save(tmp_path / side / "②", "①.png", "²2.png")
    assert calculate(tmp_path / "pred", tmp_path / "ref", ["psnr"]).n_pairs == 2


def test_a_picture_of_too_many_pixels_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for side in ("pred", "ref"):
        save(tmp_path / side, "0.png", "1.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "pred" / "1.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)  # an error above twice as many
    result = calculate(tmp_path / "pred", tmp_path / "ref", ["psnr"])
    assert result.n_pairs == 1 and "too many pixels" in result.failures.lines()[0]
    with pytest.raises(UserError, match="too many pixels"):
        read_picture(tmp_path / "pred" / "1.png")


def test_a_missing_source_fails_the_metrics_that_need_it_alone(tmp_path: Path) -> None:
    for side in ("pred", "ref"):
        for clip in ("a", "b"):
            save(tmp_path / side / clip, "0.png", "1.png")
    save(tmp_path / "sources", "a.png")
    options = Options(source=tmp_path / "sources")
    result = calculate(tmp_path / "pred", tmp_path / "ref", ["psnr", "csim_source"], options)
    assert result.count("psnr") == 4 and result.failed("psnr") == 0
    assert (
        result.failed("csim_source") == 4
    )  # noise shows no face; two of them for want of a source
    assert result.clips["b"].failures.lines() == [
        "b: csim_source: b has no source picture; give one of that name in --source, 2 times"
    ]


def test_a_metric_named_twice_is_scored_once(tmp_path: Path) -> None:
    pred = save(tmp_path / "pred", *(f"{i}.png" for i in range(12)), seed=1)
    ref = save(tmp_path / "ref", *(f"{i}.png" for i in range(12)), seed=2)
    once = calculate(pred, ref, ["flicker"])
    twice = calculate(pred, ref, ["flicker", "flicker"])
    assert twice.mean("flicker") == once.mean("flicker") and len(twice.metrics) == 1
