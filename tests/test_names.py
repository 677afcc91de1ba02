"""Names that come from files stay inside the folder that they are joined to: the rule, and every place that uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

import calc_metrics
from dataset.preparation.lists import read_list
from dataset.preparation.results import ImportedResults
from dataset.preparation.tracks import read_track
from dnnlib import UserError, inside, safe_name, safe_path
from metrics.footage import FileFootage
from metrics.generate import Method, generate
from metrics.protocols import Pair, Protocol, load_protocol

CLIMBING = [
    "..",
    "../../x",
    "/etc/passwd",
    "a/../../b",
    "",
    "a\0b",
    "a\nb",
    "..\\x",
    "C:/x",
    "\ud800",
    ".",
]


@pytest.mark.parametrize("name", [*CLIMBING, None, 7, ["a"], "x" * 256])
def test_names_that_climb_are_refused(name: object) -> None:
    for check in (safe_name, safe_path):
        with pytest.raises(UserError, match=r"^pair 3 of p\.json "):
            check(name, "pair 3 of p.json")


def test_plain_names_have_no_folders_and_are_not_hidden() -> None:
    for name in ("a/b", ".hidden", "./a"):
        with pytest.raises(UserError, match="plain name"):
            safe_name(name, "it")
    assert safe_path("./a/.b/c d.mp4", "it") == "./a/.b/c d.mp4"  # as `find .` writes it
    assert safe_name("Clip+a+P0+C1+F1-2", "it") == "Clip+a+P0+C1+F1-2"
    assert safe_name("größe …", "it") == "größe …"


@given(st.text(st.sampled_from("ab./\\:\0 \n"), max_size=12))
@example("a/./..")
def test_what_is_let_through_stays_inside(name: str) -> None:
    """Against the operating system's own idea of where a path leads."""
    folder = Path("/somewhere/data")
    try:
        joined = inside(folder, name, "it")
    except UserError:
        return
    import os

    assert Path(os.path.normpath(joined)).is_relative_to(folder)
    assert Path(os.path.normpath(joined)) != folder


# ---- protocols ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["id", "source", "driving"])
@pytest.mark.parametrize("name", ["..", "../../x", "/etc/passwd", "", "a\0b"])
def test_protocols_that_climb_are_refused(key: str, name: str, tmp_path: Path) -> None:
    pair = {"id": "same-0", "mode": "same", "source": "a", "source_frame": 0, "driving": "a"}
    values = Protocol("p", "folder", 0, 32, (Pair("x", "same", "a", 0, "a"),), {}).to_dict()
    (tmp_path / "p.json").write_text(json.dumps({**values, "pairs": [{**pair, key: name}]}))
    with pytest.raises(UserError, match="p.json is not a complete protocol"):
        load_protocol(tmp_path / "p.json")


def test_protocols_made_in_memory_climb_no_further(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "data").mkdir()
    footage = FileFootage(tmp_path / "data", 32)
    with pytest.raises(UserError, match="points outside"):
        footage.fingerprint("../secret")
    pairs = (Pair("..", "same", "a", 0, "a"),)
    with pytest.raises(UserError, match="plain name|points outside"):
        generate(
            Method("truth"), Protocol("p", "folder", 0, 32, pairs, {}), footage, tmp_path / "o"
        )
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("name", ["../../evil", "..", "a/b", ".hidden", "/evil"])
def test_methods_of_a_table_make_plain_folders(name: str, tmp_path: Path) -> None:
    made = Protocol("p", "folder", 0, 32, (Pair("x", "same", "a", 0, "a"),), {})
    made.save(tmp_path / "p.json")
    (tmp_path / "data").mkdir()
    words = ["table", "--protocol", "p.json", "--data", "data", "--out", "out/deep"]
    words = [str(tmp_path / w) if w[0] not in "-t" else w for w in words]
    done = CliRunner().invoke(calc_metrics.main, [*words, "--method", f"{name}=copy"])
    assert done.exit_code == 2 and "Traceback" not in done.output
    assert "points outside" in done.output or "plain name" in done.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "p.json"]


# ---- lists of videos ----------------------------------------------------------------------------------------------

LISTS = {
    "a.csv": "path,name\n{name},x\n",
    "b.jsonl": '{{"path": {json}}}\n',
    "c.txt": "{name}\n",
    "d.txt": "{name} 00:30-01:00\n",
    "e.txt": "{name}, 100, 100, 0, 10, 0, 0, 10, 10\n",
    "f.json": '{{"clips": {{"clip": {{"ytb_id": {json}, "duration": {{"start_sec": 0, "end_sec": 1}}, "bbox": '
    '{{"left": 0, "top": 0, "right": 1, "bottom": 1}}}}}}}}',
    "g.csv": "path,name\nv.mp4,{name}\n",
}


@pytest.mark.parametrize("file", LISTS)
@pytest.mark.parametrize("name", ["../../x.mp4", "/etc/passwd", "a/../../b.mp4"])
def test_lists_that_climb_are_refused(file: str, name: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(LISTS[file].format(name=name, json=json.dumps(name)))
    with pytest.raises(UserError, match="points outside|plain name|not of the form"):
        read_list(tmp_path / file)


def test_track_files_that_climb_are_refused(tmp_path: Path) -> None:
    text = "Identity : id00017\nReference : ../../x\nFRAME X Y W H\n000001 0.1 0.1 0.4 0.7\n"
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(UserError, match="points outside"):
        read_track(tmp_path / "t.txt")


def test_imported_results_are_looked_for_inside_their_folder(tmp_path: Path) -> None:
    import numpy as np

    (tmp_path / "in").mkdir()
    for place in (tmp_path / "in" / "v.npz", tmp_path / "other.npz"):
        np.savez(place, expression=np.zeros((2, 5)))
    with pytest.raises(UserError, match="points outside"):
        ImportedResults(tmp_path / "in").begin("../other.mp4")
