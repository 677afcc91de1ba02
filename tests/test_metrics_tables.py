"""Protocols, results made for them, and the tables in all formats."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from training_support import SIZE, make_dataset

import calc_metrics
from dnnlib.errors import UserError
from metrics.footage import DatasetFootage, FileFootage
from metrics.generate import Method, generate, source_folder
from metrics.protocols import Protocol, build_protocol, file_clips, load_protocol
from metrics.table import parse_columns
from metrics.table_files import _latex_name


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven clips of seven painted people."""
    return make_dataset(tmp_path_factory.mktemp("table") / "heads")


def protocol_of(data: Path, **changes: object) -> Protocol:
    options = {"n_same": 6, "n_cross": 6, "n_frames": 4, "split": None, **changes}
    return build_protocol("heads", data, "toy", **options)  # type: ignore[arg-type]


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(calc_metrics.main, [*map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


# ---- protocols ---------------------------------------------------------------------------------------------------


def test_a_protocol_is_a_function_of_its_seed(data: Path, tmp_path: Path) -> None:
    first, again = protocol_of(data), protocol_of(data)
    assert first.sha256 == again.sha256 != protocol_of(data, seed=1).sha256
    assert first.resolution == SIZE  # of the dataset
    first.save(tmp_path / "p.json")
    assert load_protocol(tmp_path / "p.json") == first


def test_same_pairs_are_of_one_clip_and_cross_pairs_of_two_people(data: Path) -> None:
    protocol = protocol_of(data, n_cross=20)
    assert len(protocol.ids("same")) == 6 and len(protocol.ids("cross")) == 20
    for pair in protocol.pairs:
        assert (pair.source == pair.driving) == (pair.mode == "same")
        assert pair.mode == "cross" or pair.start > pair.source_frame  # the source is not a target
    assert len({p.source for p in protocol.pairs if p.mode == "same"}) == 6


def test_no_cross_pair_comes_twice(data: Path) -> None:
    """A repeated pair would count as two independent clips in the intervals."""
    protocol = protocol_of(data, n_cross=1000)
    cross = [(p.source, p.driving) for p in protocol.pairs if p.mode == "cross"]
    n_people = len({p.source for p in protocol.pairs})  # each has one clip
    assert len(set(cross)) == len(cross) == n_people * (n_people - 1)
    first = protocol_of(data, n_cross=4)  # fewer pairs are the first of more
    assert [(p.source, p.driving) for p in first.pairs if p.mode == "cross"] == cross[:4]


LAYOUTS = {
    "vfhq": (
        ["Clip+2m--1VxCKkA+P0+C2+F3410-3528/", "Clip+2m--1VxCKkA+P1+C0+F10-200/", "x.mp4"],
        {"2m--1VxCKkA+P0", "2m--1VxCKkA+P1"},
    ),
    "voxceleb1": (
        ["id10283/nu5M8KgLMZI/00001.mp4", "id10001#7w0IBEWc9Qw#000993#001143.mp4", "who.mp4"],
        {"id10283", "id10001"},
    ),
    "talkinghead1kh": (
        ["--Y9imYnfBw_0000_S0_E271_L504_T63_R792_B351.mp4", "other.mp4"],
        {"--Y9imYnfBw"},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_tell_people_by_their_names(layout: str, tmp_path: Path) -> None:
    names, people = LAYOUTS[layout]
    for name in names:
        path = tmp_path / name
        if name.endswith("/"):
            path.mkdir()
            Image.new("RGB", (8, 8)).save(path / "00000000.png")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"video")
    clips = file_clips(layout, tmp_path)
    assert set(clips.values()) == people and len(clips) == len(names) - 1
    with pytest.raises(UserError, match="named as"):
        file_clips("vfhq" if layout != "vfhq" else "voxceleb1", tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "x"}, "is not a protocol"),
        ({"version": 9}, "version 9"),
        ({"seed": None, "extra": 1}, "not a complete protocol"),
        ({"pairs": []}, "no pairs"),
        ({"pairs": [{"id": "../a", "mode": "same"}]}, "not a complete protocol"),
    ],
)
def test_damaged_protocols_are_refused(
    change: dict[str, object], says: str, data: Path, tmp_path: Path
) -> None:
    values = {**protocol_of(data).to_dict(), **change}
    (tmp_path / "p.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=says):
        load_protocol(tmp_path / "p.json")
    with pytest.raises(UserError, match="does not exist"):
        load_protocol(tmp_path / "absent.json")


def test_one_person_has_no_cross_pairs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.mp4").write_bytes(b"")
    assert len(build_protocol("folder", tmp_path, "p", 2, 2).pairs) == 4
    (tmp_path / "b.mp4").unlink()
    with pytest.raises(UserError, match="--cross 0"):
        build_protocol("folder", tmp_path, "p", 2, 2)


# ---- results -----------------------------------------------------------------------------------------------------


def test_baselines_write_what_they_say(data: Path, tmp_path: Path) -> None:
    protocol, footage = protocol_of(data), DatasetFootage(data)
    for name in ("truth", "copy", "blur"):
        assert generate(Method(name), protocol, footage, tmp_path / name) == []
    pair = protocol.pairs[0]

    def frame(method: str, i: int = 0) -> np.ndarray:
        return np.asarray(Image.open(tmp_path / method / pair.id / f"{i:05d}.png"))

    row = next(r for r in footage.dataset.clips if r["name"].decode() == pair.driving)
    truth = footage.dataset.image(int(row["first_frame"]) + 1).transpose(1, 2, 0)
    assert np.array_equal(frame("truth"), truth)  # frame 0 is the source
    assert np.array_equal(frame("copy"), frame("copy", 3))
    assert frame("blur").std() < frame("truth").std()
    assert len(list((tmp_path / "truth" / pair.id).iterdir())) == 4


def test_generation_goes_on_and_refuses_another_methods_folder(data: Path, tmp_path: Path) -> None:
    protocol, footage = protocol_of(data), DatasetFootage(data)
    generate(Method("truth"), protocol, footage, tmp_path / "out")
    made = tmp_path / "out" / protocol.pairs[0].id
    (made / "00000.png").write_bytes(b"kept")
    for file in (tmp_path / "out" / protocol.pairs[1].id).iterdir():
        file.unlink()
    (tmp_path / "out" / protocol.pairs[1].id).rmdir()
    generate(Method("truth"), protocol, footage, tmp_path / "out")
    assert (made / "00000.png").read_bytes() == b"kept"
    assert len(list((tmp_path / "out" / protocol.pairs[1].id).iterdir())) == 4
    with pytest.raises(UserError, match="another method or protocol"):
        generate(Method("copy"), protocol, footage, tmp_path / "out")
    with pytest.raises(UserError, match="another method or protocol"):
        generate(Method("truth"), protocol_of(data, seed=5), footage, tmp_path / "out")


def test_pictures_of_other_data_are_not_taken_over(data: Path, tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "other", frames=5)  # the same names, other frames
    copied = make_dataset(tmp_path / "copied")  # the same frames elsewhere
    protocol = protocol_of(data)
    generate(Method("truth"), protocol, DatasetFootage(data), tmp_path / "out")
    assert generate(Method("truth"), protocol, DatasetFootage(copied), tmp_path / "out") == []
    with pytest.raises(UserError, match="out was made from other data .*; choose another folder"):
        generate(Method("truth"), protocol, DatasetFootage(other), tmp_path / "out")
    tracked = DatasetFootage(data)
    tracked.tracker = {"name": "painter", "hash": "1"}
    with pytest.raises(UserError, match="another tracker; choose another folder"):
        generate(Method("truth"), protocol, tracked, tmp_path / "out")


def test_sources_of_another_protocol_are_not_taken_over(data: Path, tmp_path: Path) -> None:
    footage, sources = DatasetFootage(data), tmp_path / "source"
    source_folder(protocol_of(data), footage, sources)
    kept = (sources / "same-0000.png").stat().st_mtime_ns
    source_folder(protocol_of(data), footage, sources)
    assert (sources / "same-0000.png").stat().st_mtime_ns == kept
    with pytest.raises(UserError, match="source holds results of another .* protocol"):
        source_folder(protocol_of(data, seed=5), footage, sources)
    (sources / "generated.json").unlink()  # as earlier versions left them
    with pytest.raises(UserError, match="source is not empty; choose another folder"):
        source_folder(protocol_of(data), footage, sources)


def test_a_clip_that_came_later_is_made_then(data: Path, tmp_path: Path) -> None:
    footage, found = DatasetFootage(data), DatasetFootage(data)
    protocol = protocol_of(data)
    late = protocol.pairs[0].driving
    del footage._clips[late]
    assert generate(Method("truth"), protocol, footage, tmp_path / "out")
    assert generate(Method("truth"), protocol, found, tmp_path / "out") == []
    with pytest.raises(UserError, match=f"the clip {late} was another"):
        generate(Method("truth"), protocol, footage, tmp_path / "out")


def test_a_clip_that_is_missing_is_a_failure(data: Path, tmp_path: Path) -> None:
    values = protocol_of(data).to_dict()
    values["pairs"][0]["driving"] = "nobody"
    (tmp_path / "p.json").write_text(json.dumps(values))
    protocol = load_protocol(tmp_path / "p.json")
    failures = generate(Method("truth"), protocol, DatasetFootage(data), tmp_path / "out")
    assert len(failures) == 1 and "nobody" in failures[0]
    assert not (tmp_path / "out" / protocol.pairs[0].id).exists()
    assert not list((tmp_path / "out").glob(".*.part"))


def test_videos_and_folders_of_frames_are_tracked_alike(tmp_path: Path) -> None:
    """A head that turns, as PNG files and as a video: crops, cameras and what cannot be made."""
    from conventions.cameras import camera_label, label_angles_rad
    from dataset.synthesis.heads import SyntheticHeads
    from dataset.synthesis.motion import units_to_beta
    from tracking.media import VideoWriter

    heads = SyntheticHeads(seed=3)
    frames = [
        heads.render(1, units_to_beta(), camera_label(0.05 * i, 0.0), 160, 1).image
        for i in range(6)
    ]
    data = tmp_path / "data"
    (data / "folder").mkdir(parents=True)
    for i, image in enumerate(frames):
        Image.fromarray(image).save(data / "folder" / f"{i}.png")
    with VideoWriter(data / "video.mp4", 25.0) as writer:
        for image in frames:
            writer.write(image)
    protocol = build_protocol("folder", data, "files", 2, 2, 3, 2, resolution=96)
    footage = FileFootage(data, 96)
    found = {p.driving: list(footage.driving(p)) for p in protocol.pairs if p.mode == "same"}
    assert {name: len(moments) for name, moments in found.items()} == {"folder": 3, "video.mp4": 3}
    for a, b in zip(found["folder"], found["video.mp4"], strict=True):
        assert a.crop.shape == (96, 96, 3) and a.beta.shape == (52,)
        # compression moves landmarks by a fraction of a pixel: 0.3 degrees seen
        assert np.degrees(abs(label_angles_rad(a.camera)[0] - label_angles_rad(b.camera)[0])) < 1.5
    yaws = [float(label_angles_rad(m.camera)[0]) for m in found["folder"]]
    assert yaws[0] < yaws[1] < yaws[2]
    (data / "video.mp4").unlink()
    Image.new("RGB", (160, 160)).save(data / "folder" / "0.png")  # the source has no face
    failures = generate(Method("copy"), protocol, footage, tmp_path / "out")
    assert len(failures) == 4 and any("no face" in f for f in failures)


# ---- tables ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Three methods through the command line, pictures only."""
    folder = tmp_path_factory.mktemp("made")
    places = ("--data", data, "--out", folder / "p.json")
    code, output = run("protocol", "--layout", "heads", *places, "--frames", 4, "--split", "all")
    assert code == 0, output
    code, output = run(
        *("table", "--protocol", folder / "p.json", "--data", data, "--out", folder / "t"),
        *("--method", "blurred truth=blur", "--method", "copy_source=copy"),
        *("--method", "truth=truth", "--same", "psnr,ssim", "--cross", "l1"),
    )
    assert code == 0, output
    return folder / "t", output


def test_table_in_four_formats(table: tuple[Path, str]) -> None:
    folder, output = table
    markdown = (folder / "table.md").read_text()
    assert markdown in output and "**100.00**" in markdown and "<u>" in markdown
    assert re.search(r"Protocol p \(sha256 [0-9a-f]{12}\), seed 0, 32 px", markdown)
    tex = (folder / "table.tex").read_text()
    assert r"\textbf{100.00}" in tex and r"\underline{" in tex and r"copy\_source" in tex
    assert r"\multicolumn{2}{c}{Same identity} & \multicolumn{1}{c}{Cross identity}" in tex
    rows = list(csv.DictReader((folder / "table.csv").open()))
    assert len(rows) == 9 and {r["metric"] for r in rows} == {"psnr", "ssim", "l1"}
    found = json.loads((folder / "table.json").read_text())
    assert found["table"]["truth"]["psnr same"]["value"] == 100.0
    assert found["details"]["truth"]["same"]["protocol"]["pairs"] == 28
    assert Image.open(folder / "per_clip.png").width > 300


def test_columns_in_latex_name_the_variant() -> None:
    names = [_latex_name(c) for c in parse_columns("ms_ssim,psnr_face", "csim_source,aed")]
    assert names == [
        r"MS\_SSIM $\uparrow$",
        r"PSNR$_\mathrm{face}$ $\uparrow$",
        r"CSIM$_\mathrm{source}$ $\uparrow$",
        r"AED $\downarrow$",
    ]


def test_significance_is_against_the_first_method(table: tuple[Path, str]) -> None:
    found = json.loads((table[0] / "table.json").read_text())["table"]
    assert found["blurred truth"]["psnr same"]["p_against_first"] is None
    assert found["truth"]["psnr same"]["p_against_first"] < 0.01
    low, high = found["copy_source"]["psnr same"]["interval_95"]
    assert low < found["copy_source"]["psnr same"]["value"] < high


def test_table_from_folders_of_other_methods(
    table: tuple[Path, str], data: Path, tmp_path: Path
) -> None:
    frames = table[0] / "frames"
    other = tmp_path / "other"
    for clip in sorted((frames / "ref").iterdir()):
        if clip.is_dir() and clip.name != "same-0003":
            (other / clip.name).mkdir(parents=True)
            for file in clip.iterdir():
                (other / clip.name / file.name).write_bytes(file.read_bytes())
    words = (
        *("table", "--protocol", table[0].parent / "p.json", "--ref", frames / "ref"),
        *("--method", f"theirs={other}", "--method", f"whole={frames / 'ref'}"),
        *("--same", "psnr", "--cross", "", "--out", tmp_path / "t"),
    )
    code, output = run(*words)
    assert code == 0, output
    assert "6 of 7 clips, 1 failures" in output
    text = (tmp_path / "t" / "table.md").read_text(encoding="utf-8")
    assert (
        "| theirs† |" in text and "| whole |" in text and "- † lacks clips of the protocol" in text
    )
    assert "theirs$^{\\dagger}$ &" in (tmp_path / "t" / "table.tex").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "t" / "table.json").read_text())["lacking"] == ["theirs"]
    assert "†" not in (table[0] / "table.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--method", "a=nowhere"),
            "nowhere does not exist; give a folder of clips, a checkpoint or one of",
        ),
        (("--method", "a=copy"), "give --data"),
        (("--method", "a=copy", "--same", "", "--cross", ""), "no columns"),
        (("--method", "a=copy", "--method", "a=blur"), "twice"),
        (("--method", "a=copy", "--same", "psmr"), "did you mean 'psnr'"),
    ],
)
def test_mistakes_end_in_one_sentence(
    words: tuple[str, ...], says: str, table: tuple[Path, str], tmp_path: Path
) -> None:
    protocol = table[0].parent / "p.json"
    code, output = run("table", "--protocol", protocol, "--out", tmp_path / "t", *words)
    assert code == 1 and says in output and not (tmp_path / "t" / "table.md").exists()


def test_a_protocol_of_which_nothing_can_be_made_is_an_error(tmp_path: Path) -> None:
    clip = tmp_path / "clips" / "faceless"
    clip.mkdir(parents=True)
    for i in range(2):
        Image.fromarray(np.full((96, 96, 3), 128, np.uint8)).save(clip / f"{i}.png")
    places = ("--data", tmp_path / "clips", "--out")
    code, output = run(
        *("protocol", "--layout", "folder", *places, tmp_path / "p.json"),
        *("--same", 1, "--cross", 0, "--resolution", 64),
    )
    assert code == 0, output
    code, output = run(
        *("gen", "--protocol", tmp_path / "p.json", "--method", "truth", *places, tmp_path / "g")
    )
    assert code == 1 and "no pair of p could be made" in output
    code, output = run(
        *("table", "--protocol", tmp_path / "p.json", "--method", "a=copy", *places, tmp_path / "t")
    )
    assert code == 1 and "no face was found in frame 0 of faceless" in output
    (tmp_path / "nothing").mkdir()
    code, output = run(
        *("protocol", "--layout", "folder", "--data", tmp_path / "nothing"),
        *("--out", tmp_path / "q.json"),
    )
    assert code == 1 and "holds no videos and no folders of frames" in output


def test_columns_are_the_papers() -> None:
    columns = parse_columns("psnr,ssim,akd,csim,aed", "csim_source,aed")
    assert [c.title for c in columns][-2:] == ["csim_source cross", "aed cross"]


@pytest.mark.parametrize(
    "change",
    [
        {"resolution": float("nan")}, {"resolution": 10**7}, {"resolution": 64.5}, {"seed": -1}, {"crop": 5},
        {"name": "../x"}, {"count": float("inf")}, {"count": 10**12}, {"step": True}, {"start": 0.5},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_of_a_protocol_are_whole_and_bounded(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    pair = {"id": "same-0", "mode": "same", "source": "a", "source_frame": 0, "driving": "a"}
    whole = {"format": "export3d-protocol", "version": 1, "name": "p", "layout": "folder", "seed": 0,
             "resolution": 64, "pairs": [pair], "crop": {}}  # fmt: skip
    path = tmp_path / "p.json"
    path.write_text(json.dumps(whole))
    load_protocol(path)
    for name, value in change.items():
        (pair if name in ("count", "step", "start") else whole)[name] = value
    path.write_text(json.dumps(whole))
    with pytest.raises(UserError, match="is not a complete protocol|is no number"):
        load_protocol(path)
