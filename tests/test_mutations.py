"""A short version of `python tests/mutations.py`: wrong inputs end in one sentence, or in a result that is right."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from mutation_bench import Call
from mutation_judge import judged, left_over
from mutation_kinds import KINDS
from mutations import run

N_CASES = 5 * len(KINDS)  # about twenty seconds, a third of which are imports and good inputs


def test_wrong_inputs_end_in_one_sentence_or_in_a_right_result() -> None:
    report = run(N_CASES, seed=1)
    assert report.faults == []
    for kind in KINDS:  # the changes do reach what reads them
        assert any(o.kind == kind and o.result == "refused" for o in report.outcomes), kind


@click.command()
@click.argument("how")
def _ends(how: str) -> None:
    if how == "a traceback":
        raise RecursionError("as the library says it")
    if how in ("a sentence", "two sentences", "own words", "no memory"):
        words = {
            "own words": "'NoneType' object is not iterable",
            "no memory": "there is not enough memory",
        }
        click.echo("Error: first" if how == "two sentences" else "working", err=True)
        raise click.ClickException(words.get(how, "x.json is damaged; restore the file"))
    click.echo("done")


@pytest.mark.parametrize(
    ("how", "must_fail", "fault"),
    [
        ("a sentence", False, ""),
        ("success", False, ""),
        ("a traceback", False, "traceback: RecursionError"),
        ("two sentences", False, "2 sentences"),
        ("own words", False, "own words"),
        ("no memory", False, "memory was taken"),
        ("success", True, "cannot be right"),
    ],
)
def test_faults_are_seen(how: str, must_fail: bool, fault: str) -> None:
    _, faults = judged(CliRunner().invoke(_ends, [how]), Call("x", [], "", must_fail))
    assert bool(faults) == bool(fault) and all(fault in found for found in faults)


def test_a_run_may_be_left_where_training_had_begun_and_nowhere_else(tmp_path: Path) -> None:
    run_folder = tmp_path / "a:b"
    run_folder.mkdir()
    record = {"starts": [{"command": "train"}]}
    (run_folder / "record.json").write_text(json.dumps(record))
    (run_folder / "stats.jsonl").touch()
    found = {"a:b", "a:b/record.json", "a:b/stats.jsonl"}
    assert left_over("train", "", tmp_path, set()) == found  # it does not say how it ended
    record["starts"][0]["ended"] = {"how": "failed: too many frames cannot be read"}  # type: ignore[assignment]
    (run_folder / "record.json").write_text(json.dumps(record))
    assert left_over("train", "", tmp_path, set()) == set()
    assert left_over("gen_videos animate", "", tmp_path, set()) == found
    (run_folder / "stats.jsonl").unlink()
    assert left_over("train", "", tmp_path, set()) == found - {"a:b/stats.jsonl"}


def test_a_report_may_be_left_by_the_command_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "a:b" / "videos").mkdir(parents=True)
    for name in ("report.html", "report.json", "videos/00000.json", "clips.npy"):
        (tmp_path / "a:b" / name).touch()
    said = "Error: no video gave a clip; a:b/report.html tells the reason of each"
    assert left_over("dataset_tool video", said, tmp_path, set()) == {"a:b/clips.npy"}
    assert len(left_over("dataset_tool video", "Error: x", tmp_path, set())) == 6
