"""dnnlib: typed configuration, --set, atomic files, errors of the command line."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import dnnlib.cli
import dnnlib.config
from dnnlib import (
    UserError,
    apply_overrides,
    atomic_path,
    atomic_write,
    check_free_space,
    from_dict,
    load_config,
    save_yaml,
    sha256_file,
    to_dict,
)
from training.config import Config


@dataclass(frozen=True)
class Optimiser:
    lr: float = 2e-4
    steps: int = 10
    kind: Literal["adam", "sgd"] = "adam"
    betas: tuple[float, float] = (0.9, 0.99)

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr is {self.lr}; use a positive number")


@dataclass(frozen=True)
class Root:
    name: str = "x"
    seed: int | None = None
    folder: str | None = None
    verbose: bool = False
    widths: tuple[int, ...] = (1, 2)
    files: list[str] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    optimiser: Optimiser = field(default_factory=Optimiser)
    second: Optimiser | None = None


@dataclass
class WithRequired:
    path: str
    size: int = 1


# ---- from_dict ---------------------------------------------------------------------------------------------------


def test_empty_mapping_gives_the_defaults() -> None:
    assert from_dict(Root, {}) == Root()


def test_values_are_converted_to_the_annotated_types() -> None:
    config = from_dict(
        Root,
        {
            "seed": 3,
            "widths": [4, 5, 6],
            "files": ["a"],
            "weights": {"l1": 1},
            "optimiser": {"lr": "1e-4", "betas": [0, 1]},  # YAML 1.1 reads 1e-4 as text
            "second": {"steps": 2},
        },
    )
    assert config.optimiser.lr == 1e-4 and isinstance(config.optimiser.betas, tuple)
    assert isinstance(config.weights["l1"], float) and config.widths == (4, 5, 6)
    assert config.second == Optimiser(steps=2)


@pytest.mark.parametrize(
    ("mapping", "parts"),
    [
        ({"optimizer": {}}, ["optimizer", "did you mean optimiser"]),
        ({"optimiser": {"Lr": 1.0}}, ["optimiser.Lr", "did you mean optimiser.lr"]),
        ({"optimiser": {"zzzzzz": 1}}, ["optimiser.zzzzzz", "betas, kind, lr, steps"]),
        ({"optimiser": {"lr": "fast"}}, ["optimiser.lr", "a number", "'fast'"]),
        ({"optimiser": {"steps": 1.5}}, ["optimiser.steps", "a whole number", "1.5"]),
        ({"optimiser": {"steps": True}}, ["optimiser.steps", "a whole number", "true"]),
        ({"optimiser": {"steps": "12"}}, ["optimiser.steps", "a whole number", "'12'"]),
        (
            {"optimiser": {"kind": "adm"}},
            ["optimiser.kind", "'adam', 'sgd'", "did you mean 'adam'"],
        ),
        ({"optimiser": {"betas": [1.0]}}, ["optimiser.betas", "2 values"]),
        ({"optimiser": {"betas": [1.0, "x"]}}, ["optimiser.betas[1]", "a number", "'x'"]),
        ({"optimiser": 3}, ["optimiser", "section", "3"]),
        ({"optimiser": {"lr": -1}}, ["optimiser: lr is -1", "positive"]),
        ({"verbose": 1}, ["verbose", "true or false", "1"]),
        ({"verbose": "yes"}, ["verbose", "true or false", "'yes'"]),
        ({"name": None}, ["name", "text", "null"]),
        ({"seed": "a"}, ["seed", "a whole number or null", "'a'"]),
        ({"weights": {"l1": "heavy"}}, ["weights.l1", "a number", "'heavy'"]),
        ({"weights": {1: 1.0}}, ["weights", "key 1", "quotes"]),
        ({"files": "a"}, ["files", "a list, each text", "'a'"]),
    ],
)
def test_a_mistake_is_one_sentence_with_key_and_cure(
    mapping: dict[str, object], parts: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        from_dict(Root, mapping)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_required_key_is_asked_for() -> None:
    with pytest.raises(UserError, match="path is missing"):
        from_dict(WithRequired, {"size": 2})


@given(
    lr=st.floats(1e-9, 1e9),
    steps=st.integers(-(2**40), 2**40),
    name=st.text(max_size=20),
    seed=st.none() | st.integers(0, 10**6),
    weights=st.dictionaries(
        st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False), max_size=3
    ),
)
def test_to_dict_and_from_dict_are_inverse(
    lr: float, steps: int, name: str, seed: int | None, weights: dict[str, float]
) -> None:
    config = Root(
        name=name,
        seed=seed,
        weights=weights,
        optimiser=Optimiser(lr=lr, steps=steps),
        second=Optimiser(),
    )
    assert from_dict(Root, to_dict(config)) == config


# ---- --set and files ---------------------------------------------------------------------------------------------


def test_set_changes_one_value_and_leaves_its_neighbours() -> None:
    before = {"optimiser": {"lr": 1.0, "steps": 5}}
    after = apply_overrides(
        before, ["optimiser.lr=1e-3", "name=2024", "folder=null", "widths=[3]"], Root
    )
    config = from_dict(Root, after)
    assert config.optimiser == Optimiser(lr=1e-3, steps=5)
    assert config.name == "2024"  # a text field takes the text, although YAML reads a number
    assert config.folder is None and config.widths == (3,)
    assert before == {"optimiser": {"lr": 1.0, "steps": 5}}


def test_later_sets_win_and_values_may_hold_equal_signs() -> None:
    config = from_dict(Root, apply_overrides({}, ["name=a", "name=b=c"], Root))
    assert config.name == "b=c"


@pytest.mark.parametrize(
    "text", ["optimiser.lr", "=3", "optimiser..lr=3", "name.more=3", "files=[1"]
)
def test_a_broken_set_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--set"):
        apply_overrides({"name": "x"}, [text], Root)


def test_an_unknown_key_in_set_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean train.lr"):
        load_config(Config, "tiny", ["train.lrr=1"])


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'demo'"):
        load_config(Config, "demmo")
    with pytest.raises(UserError, match=r"nowhere\.yaml does not exist"):
        load_config(Config, "nowhere.yaml")


@pytest.mark.parametrize(
    "name", ["{}/tiny.yaml", "{}/deep/demo.yml", "./tiny", "../configs/tiny", "{}/tiny"]
)
def test_a_path_is_never_taken_for_a_preset(name: str, tmp_path: Path) -> None:
    """configs/tiny.yaml exists: a path elsewhere that ends like it does not mean it."""
    with pytest.raises(UserError, match="does not exist; presets are"):
        load_config(Config, name.format(tmp_path))
    (tmp_path / "a.yaml").write_text(f"base: {name.format(tmp_path)}\n")
    with pytest.raises(UserError, match="does not exist; presets are"):
        load_config(Config, tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "change",
    [
        "loss.l1=.nan",
        "train.lr=.inf",
        "model.render.far=-.inf",
        "loss.identity=1e999",
        "train.ema_images=.nan",
    ]
    + [
        "train.betas=[0.0, .nan]",
        "train.total_images=1" + "0" * 400,
        "train.seed=-1",
        "train.lr=1e300",
    ],
)
def test_numbers_of_the_configuration_are_finite(change: str, tmp_path: Path) -> None:
    key, _, value = change.partition("=")
    name = key.rpartition(".")[2]
    with pytest.raises(UserError, match=name):
        load_config(Config, "tiny", [change])
    section, *rest = key.split(".")
    inner = f"{{{rest[-1]}: {value}}}"
    for outer in reversed(rest[:-1]):
        inner = f"{{{outer}: {inner}}}"
    (tmp_path / "c.yaml").write_text(f"{section}: {inner}\n")
    with pytest.raises(UserError, match=name):
        load_config(Config, tmp_path / "c.yaml")


@pytest.mark.parametrize("preset", dnnlib.config.preset_names())
def test_presets_load_survive_saving_and_hold_only_what_differs(
    preset: str, tmp_path: Path
) -> None:
    config = load_config(Config, preset)
    assert config.name == preset
    save_yaml(config, tmp_path / "config.yaml")
    assert load_config(Config, tmp_path / "config.yaml") == config


def test_every_section_of_the_issue_is_a_preset() -> None:
    assert {"paper256", "paper512", "base512", "demo", "tiny"} <= set(dnnlib.config.preset_names())


def test_base_names_another_preset_or_a_file_beside(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: tiny\ntrain: {batch_size: 6}\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\ntrain: {seed: 9}\n")
    config = load_config(Config, tmp_path / "b.yaml")
    assert (config.train.batch_size, config.train.seed) == (6, 9)
    assert config.model == load_config(Config, "tiny").model


def test_a_circle_of_bases_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(UserError, match=r"a\.yaml -> b\.yaml -> a\.yaml"):
        load_config(Config, tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {lr: 1\n", "not valid YAML"),
        ("- 1\n", "must hold sections"),
        ("train: {lr: 1}\ntrain: {lr: 2}\n", "line 2.*written twice"),
        ("base: 3\n", "base must be the name"),
    ],
)
def test_a_broken_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(Config, tmp_path / "c.yaml")


# ---- files -------------------------------------------------------------------------------------------------------


def test_atomic_write_leaves_the_old_file_and_no_rest_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path, "w") as file:
        file.write("größe")
    assert path.read_text(encoding="utf-8") == "größe"
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "größe"
    assert os.listdir(path.parent) == ["a.txt"]


def test_atomic_path_keeps_the_suffix_and_hides_the_file_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    with atomic_path(path) as temporary:
        assert temporary.suffix == ".mp4" and temporary.parent == tmp_path
        temporary.write_bytes(b"1")
        assert not path.exists()
    assert path.read_bytes() == b"1" and os.listdir(tmp_path) == ["video.mp4"]


def test_a_full_disk_and_a_folder_in_the_way_become_sentences(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"a\.bin: the disk is full"),
        atomic_write(tmp_path / "a.bin"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(UserError, match="is a folder; choose a file name"), atomic_write(tmp_path):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a folder"), atomic_write(tmp_path / "file" / "b"):
        pass
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_about_another_file_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic_write(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "denied", "/the/input")


def test_sha256_and_free_space(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")  # the digest of "abc" is FIPS 180-2's first example
    assert (
        sha256_file(tmp_path / "a")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    check_free_space(tmp_path / "not" / "yet" / "there", 1)
    with pytest.raises(UserError, match="GiB free"):
        check_free_space(tmp_path, 2**62)


# ---- command line ------------------------------------------------------------------------------------------------


def _script(error: BaseException | None) -> click.Command:
    @dnnlib.cli.group()
    def script() -> None:
        pass

    @script.command()
    @dnnlib.cli.preset_option(default="tiny")
    @dnnlib.cli.set_option
    def run(preset: str, overrides: tuple[str, ...]) -> None:
        if error is not None:
            raise error
        click.echo(load_config(Config, preset, overrides).train.lr)

    return script


def test_set_and_preset_reach_the_configuration() -> None:
    result = CliRunner().invoke(
        _script(None), ["run", "--config", "tiny", "--set", "train.lr=3e-3"]
    )
    assert (result.exit_code, result.output) == (0, "0.003\n")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            UserError("no face in a.jpg; use a photo with one"),
            1,
            "Error: no face in a.jpg; use a photo with one\n",
        ),
        (OSError(errno.ENOSPC, "No space", "/x"), 1, "Error: cannot write /x: the disk is full"),
        (KeyboardInterrupt(), 130, "Interrupted"),
    ],
)
def test_what_a_user_can_mend_is_one_line(error: BaseException, code: int, text: str) -> None:
    result = CliRunner().invoke(_script(error), ["run"])
    assert result.exit_code == code
    assert result.output.startswith(text) and result.output.count("\n") == 1


def test_defects_keep_their_traceback_and_debugging_shows_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert isinstance(CliRunner().invoke(_script(KeyError("x")), ["run"]).exception, KeyError)
    monkeypatch.setenv("EXPORT3D_DEBUG", "1")
    assert isinstance(CliRunner().invoke(_script(UserError("x")), ["run"]).exception, UserError)


def test_help_is_short_and_shows_defaults() -> None:
    for flag in ("-h", "--help"):
        output = CliRunner().invoke(_script(None), ["run", flag]).output
        assert "--set KEY=VALUE" in output and "[default: tiny]" in output


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError("std::bad_alloc"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 9"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 20 GiB"), True),
        (RuntimeError("shapes do not fit"), False),
    ],
)  # fmt: skip
def test_too_little_memory_is_one_sentence_and_a_defect_keeps_its_traceback(
    error: Exception, is_memory: bool
) -> None:
    @dnnlib.cli.command()
    def ask() -> None:
        raise error

    result = CliRunner().invoke(ask, [])
    assert result.exit_code == 1
    assert ("not enough memory" in result.output) is is_memory
    assert is_memory or result.exception is error
