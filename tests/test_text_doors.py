"""JSON and YAML from outside, and what is done before and after a file is written: one sentence, nothing left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from animate_support import save_tiny

from dnnlib.errors import MAX_SENTENCE, UserError
from dnnlib.files import atomic_folder, atomic_path
from dnnlib.reading.text import parse_json, parse_yaml, read_json_lines
from dnnlib.signals import Stopped
from inference.motion import load_motion
from training.checkpoints import load_model


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": ' + "[" * 70 + "]" * 70 + "}", "nested too deeply"),
        ('{"a": "\\ud800"}', "half of a character"),
        ('{"a": 1e999}', "beyond all numbers"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": ' + "9" * 400 + "}", "400 digits"),
        ('{"a": 1, "a": 2}', "'a' is written twice"),
        (b'{"a": "\xff"}', "not in UTF-8"),
        ("[1]", "a list instead of an object"),
    ],
)
def test_json_beyond_its_bounds_is_one_sentence(text: str | bytes, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_json(text, "x.json")


def test_json_within_its_bounds_is_read() -> None:
    text = (
        '{"a": "\\ud83d\\ude00", "b": "' + "[" * 99 + '", "c": [[-1e-400, 18446744073709551616]]}'
    )
    assert parse_json(text, "x") == {"a": "😀", "b": "[" * 99, "c": [[0.0, 2**64]]}
    assert parse_json('{"a": Infinity}', "x", finite=False)["a"] == float("inf")


def test_lines_that_are_cut_short_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a": \n[2]\n\n{"a": 3}')
    assert list(read_json_lines(tmp_path / "x.jsonl")) == [{"a": 1}, {"a": 3}]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("a: &a [*a]", "nested too deeply"),
        ("a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 9)),
         "its aliases multiply"),
        ("a: " + "9" * 5000, "5000 digits"),
        ("{[1]: 2}", "cannot be a key"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("a: 1\na: 2", "written twice"),
        ("a: *nowhere", "not valid YAML"),
    ],
)  # fmt: skip
def test_yaml_beyond_its_bounds_is_one_sentence(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        parse_yaml(text, "x.yaml")
    assert "\n" not in str(caught.value)


def test_dates_and_times_of_yaml_are_texts() -> None:
    assert parse_yaml("[2024-01-01, 2024-99-99, 1:30:00, ², 1.5, 0x1f, 12]", "x") == [
        *("2024-01-01", "2024-99-99", "1:30:00", "²", 1.5, 31, 12)
    ]


def test_long_sentences_keep_their_beginning_and_their_cure() -> None:
    sentence = str(UserError(f"the name {'x' * 5000} is too long; choose a shorter one"))
    assert len(sentence) <= MAX_SENTENCE
    assert sentence.startswith("the name xxx") and sentence.endswith("; choose a shorter one")


@pytest.mark.parametrize("size", [10**9, 2**31, 10**12])
@pytest.mark.parametrize("key", ["expression.hidden", "generator.width", "render.hidden"])
def test_a_checkpoint_is_compared_before_its_network_takes_memory(
    key: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network would take terabytes; its shapes tell without."""
    path = save_tiny(tmp_path / "net.safetensors")
    real = torch.empty

    def bounded(*shape: object, **given: object) -> torch.Tensor:
        made = real(*shape, **given)  # type: ignore[call-overload]
        assert made.is_meta or made.numel() < 10**8
        return made

    monkeypatch.setattr(torch, "empty", bounded)
    with pytest.raises(UserError, match=r"of another shape|cannot be made"):
        load_model(path, overrides=[f"{key}={size}"])


@pytest.mark.parametrize("way", ["file", "folder"])
def test_a_stopped_command_leaves_no_folders(way: str, tmp_path: Path) -> None:
    """Folders that were made for an output go with it; others, and what somebody else put there, stay."""
    (tmp_path / "mine").mkdir()
    target = tmp_path / "mine" / "new" / "sub" / "x"
    context = atomic_path(target) if way == "file" else atomic_folder(target, "marker")
    with pytest.raises(Stopped), context as place:
        (place if way == "file" else place / "y").write_text("half")
        raise Stopped(15)
    assert list((tmp_path / "mine").iterdir()) == []
    with pytest.raises(Stopped), atomic_path(target) as place:
        (target.parent / "theirs").touch()
        raise Stopped(15)
    assert [p.name for p in target.parent.iterdir()] == ["theirs"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ('"units": {"jawOpen": [[1]]}', r"units\.jawOpen is not a list of \[seconds, value\]"),
        ('"units": {"jawOpen": [[0, "a"]]}', r'a value of units\.jawOpen is "a", not a number'),
        ('"units": {"jawOpen": [[1, 0], [0, 1]]}', "the times of units.jawOpen do not increase"),
        ('"units": [1]', "units is a list, not a section"),
        ('"units": {}, "moments": [[0, 1]]', "a label of moments is not a text"),
        ('"moments": []', "units is missing"),
        ('"units": {}, "directions": {"v²": [[0, 1]]}', "is no direction"),
    ],
)  # fmt: skip
def test_a_motion_file_is_refused_in_its_own_words(change: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "motion.json"
    path.write_text(
        f'{{"format": "export3d-motion", "version": 1, "fps": 25, "seconds": 1, {change}}}'
    )
    with pytest.raises(UserError, match=says):
        load_motion(path)
