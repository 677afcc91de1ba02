"""What users put into folders and on command lines: stray, doubled and missing files, options that cannot be met."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import calc_metrics
from dnnlib.errors import UserError
from dnnlib.listing import natural_key
from dnnlib.reading import pictures
from dnnlib.reading.pictures import read_picture
from metrics import calc, clips
from metrics import networks as networks_module
from metrics.calc import Options, calculate
from metrics.clips import Failures, _frame_numbers, frame_pairs, list_sources, source_of
from metrics.networks import Face
from metrics.protocols import Pair, Protocol
from metrics.table import make_table, parse_columns


def save(folder: Path, *names: str, seed: int = 0) -> Path:
    """A frame of noise under every name; its grey level tells the name's place."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i, name in enumerate(names):
        image = rng.integers(0, 40, (16, 16, 3)) + 20 * (i % 10)
        Image.fromarray(image.astype(np.uint8)).save(folder / name)
    return folder


def run(*words: object) -> str:
    """The output of a command that fails with one sentence."""
    result = CliRunner().invoke(calc_metrics.main, [*map(str, words)])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1 and result.output.count("Error: ") == 1, result.output
    return result.output


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


def test_frames_are_consecutive_by_the_step_that_fits_them_all() -> None:
    assert _frame_numbers(["f000", "f005", "f010", "f020"]) == [0, 1, 2, 4]
    assert _frame_numbers(["7", "8", "10"]) == [0, 1, 3]
    assert _frame_numbers(["a1", "b1", "c"]) == [0, 1, 2]  # no numbers of frames
    assert _frame_numbers(["a2", "b1"]) == [0, 1]
    assert _frame_numbers([]) == []


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
    monkeypatch.setattr(pictures, "MAX_MEGAPIXELS", 800e-6)
    result = calculate(tmp_path / "pred", tmp_path / "ref", ["psnr"])
    assert result.n_pairs == 1 and "too many pixels" in result.failures.lines()[0]
    with pytest.raises(UserError, match="too many pixels"):
        read_picture(tmp_path / "pred" / "1.png")


def test_more_pixels_than_fit_into_memory_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for side in ("pred", "ref"):
        save(tmp_path / side, *(f"{i}.png" for i in range(7)))
        Image.new("RGB", (40, 40)).save(tmp_path / side / "6.png")
    monkeypatch.setattr(clips, "MAX_MEGAPIXELS", 1200e-6)
    whole = calculate(tmp_path / "pred", tmp_path / "ref", ["psnr", "jitter"])
    assert "40 x 40, too many pixels; reduce it" in whole.failures.lines()[0]
    with Image.open(tmp_path / "ref" / "0.png") as picture:
        monkeypatch.setattr(calc, "BATCH_PIXELS", 2 * picture.width * picture.height)
    sizes = []
    made = calc.Pairs
    monkeypatch.setattr(calc, "Pairs", lambda *a: sizes.append(len(a[0])) or made(*a))
    parts = calculate(tmp_path / "pred", tmp_path / "ref", ["psnr", "jitter"])
    assert sizes == [2, 2, 2]
    assert parts.to_dict()["scores"] == whole.to_dict()["scores"]


def test_a_large_source_picture_is_reduced(tmp_path: Path) -> None:
    Image.new("RGB", (5000, 30)).save(tmp_path / "a.png")
    assert source_of({"a": tmp_path / "a.png"}, "a").shape == (25, 4096, 3)


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
    assert [c.title for c in parse_columns("psnr,flicker, psnr", "psnr")] == [
        "psnr same",
        "flicker same",
        "psnr cross",
    ]


# ---- command lines -----------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Clips of two same-identity and one cross-identity pair, protocols of them, and a file."""
    pairs = [Pair(f"same-{i}", "same", "x", 0, "x") for i in range(2)]
    pairs.append(Pair("cross-0", "cross", "x", 0, "y"))
    for name, part in (("both", pairs), ("same", pairs[:2]), ("cross", pairs[2:])):
        Protocol(name, "folder", 0, 16, tuple(part), {}).save(tmp_path / f"{name}.json")
    for side in ("ref", "full"):
        for pair in pairs:
            save(tmp_path / side / pair.id, "0.png", "1.png", seed=len(side))
    for pair in pairs[:2]:
        save(tmp_path / "half" / pair.id, "0.png", "1.png")
    (tmp_path / "file.txt").write_text("x")
    return tmp_path


def words(place: Path, protocol: str, *more: object, method: str = "full") -> tuple[object, ...]:
    """Of `table`."""
    paths = ("--protocol", place / f"{protocol}.json", "--ref", place / "ref")
    return ("table", *paths, "--method", f"m={place / method}", "--out", place / "t", *more)


def test_no_gpu_is_one_sentence(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    clips = ("--pred", place / "full", "--ref", place / "ref")
    assert "use --device cpu" in run("calc", *clips, "--device", "cuda")


def test_outputs_that_are_files_are_refused_before_work(place: Path) -> None:
    file = place / "file.txt"
    clips = ("--pred", place / "full", "--ref", place / "ref")
    for metric in ("psnr", "akd"):
        output = run("calc", *clips, "--metrics", metric, "--cache", file)
        assert "file.txt is a file, not a folder" in output
    assert "is a file" in run("calc", *clips, "--cache", file / "below")
    assert "file.txt is a file, not a folder" in run(*words(place, "same"), "--out", file)
    assert "file.txt is a file, not a folder" in run(*words(place, "same"), "--cache", file)
    made = ("gen", "--protocol", place / "same.json", "--data", place / "ref", "--method", "truth")
    assert "file.txt is a file, not a folder" in run(*made, "--out", file)
    output = run("tsne", "--data", place, "--network", file, "--out", place / "fig.txt")
    assert "fig.txt must end in one of .png" in output


def test_columns_are_not_lost_in_silence(place: Path) -> None:
    output = run(*words(place, "same", "--same", "psnr", "--cross", "psnr"))
    assert "psnr: the protocol same has no cross-identity pairs" in output
    assert "give --cross psnr" in run(*words(place, "cross", "--cross", ""))
    done = CliRunner().invoke(
        calc_metrics.main, [*map(str, words(place, "same", "--same", "psnr,psnr"))]
    )  # the default of --cross is left out
    assert done.exit_code == 0, done.output
    assert "| method | psnr same ↑ |\n" in (place / "t" / "table.md").read_text()


def test_a_method_without_clips_of_a_mode_is_named_before_scoring(place: Path) -> None:
    more = ("--method", f"z={place / 'half'}", "--same", "psnr", "--cross", "l1")
    output = run(*words(place, "both", *more))
    assert "method z has no clip for the cross-identity pairs of both" in output
    assert "m: same identity" not in output
    pairs = (Pair("same-0", "same", "x", 0, "x"), Pair("c", "cross", "x", 0, "y"))
    protocol = Protocol("both", "folder", 0, 16, pairs, {})
    with pytest.raises(UserError, match="method m has no clip .* of both in .* \\(c: no face\\)"):
        make_table(
            {"m": place / "full"},
            *(place / "ref", None, protocol, parse_columns("psnr", "psnr")),
            failures={"m": ["same-0: no face", "c: no face"]},
        )
    # What fails while it is scored is named too.
    for name in ("0.png", "1.png"):
        (place / "full" / "cross-0" / name).write_bytes(b"")
    output = run(*words(place, "both", "--same", "psnr", "--cross", "l1"))
    assert "m, cross identity: no frame" in output


# ---- what is made ------------------------------------------------------------------------------------------------


def test_a_table_renders_on_the_device_that_it_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metrics.generate import Method

    told = []

    def load(what: str, device: str = "auto", overrides: tuple[str, ...] = ()) -> Method:
        told.append(device)
        raise UserError("stop here")

    monkeypatch.setattr(Method, "load", load)
    method = f"net={place / 'file.txt'}"
    more = ("--method", method, "--data", place / "ref", "--same", "psnr", "--device", "cpu")
    assert "stop here" in run(*words(place, "same", *more)) and told == ["cpu"]


def test_files_that_changed_are_other_data(tmp_path: Path) -> None:
    from metrics.footage import FileFootage

    clip = save(tmp_path / "data" / "a", "0.png", "1.png")
    footage = FileFootage(tmp_path / "data", 64)
    assert set(footage.tracker) == {"landmarks", "name", "hash"}
    first = footage.fingerprint("a")
    assert first == footage.fingerprint("a") and footage.fingerprint("b") is None
    save(clip, "1.png", seed=3)
    assert footage.fingerprint("a") != first
    json.dumps(footage.tracker)
