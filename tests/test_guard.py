"""Nothing leaves, nothing is started, no good file is lost: every command of every script under a guard.

Sockets, child processes beyond the named ones and writes outside of the output are stopped by an audit hook; what
libraries write past it is seen by comparing all files before and after.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import click
import pytest
from click.testing import CliRunner, Result
from guard_stand_ins import STAND_INS
from guard_support import (
    CALLS,
    Forbidden,
    Guard,
    Material,
    commands,
    inputs_of,
    make_material,
    outputs_of,
    scripts,
    signature,
    with_value,
)

import dnnlib.cli
import dnnlib.params
from dnnlib.config import load_config
from dnnlib.params import (
    InputPath,
    NamedNumber,
    Number,
    Numbers,
    OutputFile,
    OutputFolder,
    Whole,
    Words,
)
from training.config import Config

COMMANDS = commands()
# Options whose text is neither a path nor a number.
TEXTS = {
    "overrides",
    "allow_change",
    "changes",
    "face",
    "driver_face",
    "names",
    "long_metrics",
    "name",
    "same",
    "cross",
    "part",
}
TEXTS |= {"host"}  # of visualizer.py: checked before anything else
TEXTS |= {"codec", "tracker", "layout"}  # of dataset_tool.py video: checked with its other options


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return make_material(tmp_path_factory.mktemp("guard"))


@pytest.fixture(scope="module")
def guard() -> Guard:
    return Guard()


@pytest.fixture(autouse=True)
def _here(material: Material, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each command starts in an empty folder whose parent holds nothing else."""
    shutil.rmtree(material.cwd, ignore_errors=True)
    material.cwd.mkdir(parents=True)
    monkeypatch.chdir(material.cwd)
    yield


def _caches() -> list[Path]:
    from dataset.synthesis.basis import cache_folder
    from torch_utils.ops import library

    return [library.cache_folder(), cache_folder()]


def _run(guard: Guard, material: Material, name: str, words: list[str]) -> Result:
    """A command under the guard; its outputs are those that its words name."""
    module = importlib.import_module(name.split()[0])
    command = COMMANDS[name]
    outputs = [Path(w) for w in words if w.startswith("a:b")]
    if any(isinstance(p.type, OutputFolder) and p.type.exists for p in command.params):
        outputs.append(material.files["copy"])
    patches = [mock.patch(target, new) for target, new in STAND_INS.get(name, {}).items()]
    for patch in patches:
        patch.start()
    try:
        with guard.watching(material.root, outputs, _caches()):
            result = CliRunner().invoke(module.main, [*name.split()[1:], *words])
    finally:
        for patch in patches:
            patch.stop()
    assert guard.seen == []
    return result


def _declared(material: Material, name: str) -> set[str]:
    """The outputs of a call."""
    return {word for word in material.words(name) if word.startswith("a:b")}


def _refused(result: Result) -> bool:
    """One sentence, no traceback."""
    sentences = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    clean = isinstance(result.exception, SystemExit) and "Traceback" not in result.output
    return result.exit_code in (1, 2) and clean and len(sentences) == 1


# ---- nothing escapes ----------------------------------------------------------------------------------------------


def test_every_command_is_called() -> None:
    assert set(CALLS) == set(COMMANDS)
    assert {name.split()[0] for name in COMMANDS} == set(scripts()) - {"torch_utils.doctor"}


@pytest.mark.parametrize("name", COMMANDS)
def test_parameters_are_of_the_types_that_are_checked(name: str) -> None:
    command = COMMANDS[name]
    assert isinstance(command, dnnlib.cli.Command)
    known = (InputPath, dnnlib.params.Output, Number, Whole, Numbers, NamedNumber, Words)
    known = (*known, click.Choice)
    for param in command.params:
        plain = (
            isinstance(param.type, known) or param.is_flag
            if isinstance(param, click.Option)
            else isinstance(param.type, known)
        )
        assert plain or param.name in TEXTS, f"{name}: {param.name} is of no checked type"


@pytest.mark.parametrize("name", COMMANDS)
def test_numbers_are_finite_and_bounded(name: str) -> None:
    command = COMMANDS[name]
    for param in command.params:
        if not isinstance(param.type, (Number, Whole, Numbers)):
            continue
        for value in ("nan", "inf", "-inf", "1e999", "", str(10**30), str(-(10**30))):
            with pytest.raises(click.UsageError):
                param.type.convert(value, param, click.Context(command))


# ---- what a command does ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_write_their_output_and_nothing_else(
    name: str, guard: Guard, material: Material
) -> None:
    """Inputs are links, outputs have a colon in their name: a protocol to some libraries."""
    words = material.words(name)
    without = [material.cwd, material.root / "tmp"]
    if str(material.files["copy"]) in words:
        without.append(material.files["copy"])
    before = signature(material.root, without)
    result = _run(guard, material, name, words)
    assert result.exit_code == 0, result.output or result.exception
    assert signature(material.root, without) == before
    made = {p.name for p in material.cwd.iterdir()}
    declared = _declared(material, name)
    assert made <= declared and bool(made) == bool(declared)  # a cache may have nothing to keep
    assert not [p for p in material.cwd.rglob("*") if ".tmp-" in p.name or p.name.endswith(".part")]


# ---- bad places ---------------------------------------------------------------------------------------------------


def _bad_outputs(material: Material, command: click.Command, param: click.Parameter) -> list[str]:
    """Values of an output option that no command may take, made in the present folder."""
    suffix = param.type.suffixes[0] if isinstance(param.type, OutputFile) else ""
    os.mkfifo(f"pipe{suffix}")
    Path("link" + suffix).symlink_to("nowhere")
    values = ["", f"http://127.0.0.1:9/x{suffix}", "/dev/null", "/dev/full", f"pipe{suffix}"]
    if isinstance(param.type, OutputFile):
        Path(f"folder{suffix}").mkdir()
        values += [f"folder{suffix}", "..", f"link{suffix}", f"/dev/null/x{suffix}"]
    words = material.words(next(n for n, c in COMMANDS.items() if c is command))
    used = {str(p): p for p in material.files.values() if any(str(p) in w for w in words)}
    for number, path in enumerate(used.values()):
        if path == material.files["copy"]:
            continue
        target = path.resolve()
        values += [str(path), str(target)]
        whole = target if target.is_file() else next(p for p in target.rglob("*") if p.is_file())
        twin = Path(f"twin{number}{suffix}")
        os.link(whole, twin)  # the same file by device and inode
        alias = Path(f"alias{number}{suffix}")
        alias.symlink_to(whole)
        values += [str(twin), str(alias)]
        if target.is_dir():
            values.append(str(path / f"new{suffix}"))
    return values


@pytest.mark.parametrize("name", [n for n, c in COMMANDS.items() if outputs_of(c)])
def test_outputs_that_would_cost_a_file_are_refused(
    name: str, guard: Guard, material: Material
) -> None:
    command = COMMANDS[name]
    for param in outputs_of(command):
        values = _bad_outputs(material, command, param)
        before = signature(material.root, [material.root / "tmp"])
        for value in values:
            words = with_value(command, material.words(name), param, value)
            result = _run(guard, material, name, words)
            assert _refused(result), (param.name, value, result.output, result.exception)
            assert signature(material.root, [material.root / "tmp"]) == before, (param.name, value)
        shutil.rmtree(material.cwd)
        material.cwd.mkdir()
        os.chdir(material.cwd)


@pytest.mark.parametrize("name", [n for n, c in COMMANDS.items() if inputs_of(c)])
def test_inputs_that_are_no_files_are_refused(name: str, guard: Guard, material: Material) -> None:
    command = COMMANDS[name]
    os.mkfifo("pipe")
    Path("pipe.yaml").symlink_to("pipe")
    Path("folder.yaml").mkdir()
    Path("circle").symlink_to("circle")
    without = [material.root / "tmp", *(material.cwd / name for name in _declared(material, name))]
    before = signature(material.root, without)
    for param in inputs_of(command):
        for value in ("", "http://127.0.0.1:9/x.yaml", "/dev/null", "/dev/full", "pipe", "pipe.yaml",
                      "folder.yaml", "circle", "a:b", ".."):  # fmt: skip
            words = with_value(command, material.words(name), param, value)
            result = _run(guard, material, name, words)
            assert _refused(result), (param.name, value, result.output, result.exception)
            assert signature(material.root, without) == before, (param.name, value)


def _paths_of_the_configuration(section: Any, prefix: str = "") -> list[str]:
    found = []
    for f in fields(section):
        value = getattr(section, f.name)
        if is_dataclass(value):
            found += _paths_of_the_configuration(value, f"{prefix}{f.name}.")
        elif f.metadata.get("reads"):
            found.append(prefix + f.name)
    return found


@pytest.mark.parametrize("key", _paths_of_the_configuration(load_config(Config, "tiny")))
def test_paths_of_the_configuration_are_inputs(key: str, guard: Guard, material: Material) -> None:
    os.mkfifo("pipe")
    for value in ("pipe", "/dev/zero", "a:b/x"):
        words = [*material.words("train"), "--set", f"{key}={value}"]
        Path("a:b").mkdir(exist_ok=True)
        Path("a:b/x").mkdir(exist_ok=True)
        result = _run(guard, material, "train", words)
        if value != "a:b/x":  # a folder beside what the run writes is no conflict by itself
            assert _refused(result) and value in result.output, (value, result.output)
    Path("a:b/network-latest.safetensors").write_bytes(b"mine")
    words = [*material.words("train"), "--set", f"{key}=a:b/network-latest.safetensors"]
    result = _run(guard, material, "train", words)
    assert _refused(result) and "is also an input" in result.output, result.output
    assert Path("a:b/network-latest.safetensors").read_bytes() == b"mine"


# ---- options without effect ---------------------------------------------------------------------------------------

UNUSED = {
    "gen_videos animate": [
        "--orbit-yaw 5",
        "--camera fixed --orbit-seconds 2",
        "--reference first",
        "--absolute --reference first",
        "--layout full --panel-px 32",  # of other layouts
        "--layout result --panel-px 32",
        "--source-frame 1",  # of a photo
        "--bfm-weights <net>",  # of a network of ARKit's units
    ],
    "gen_videos grid": ["--reference first"],
    "gen_videos novel-view": ["--reference neutral"],
    "calc_metrics calc": ["--metrics psnr", "--weights inception=<net>", "--metrics psnr,ssim"],
    "calc_metrics protocol": ["--resolution 64", "--layout folder --split test"],
    "calc_metrics gen": [
        "--method truth --set render.samples_coarse=4",
        "--method copy --device cpu",
        "--method blur --bfm-weights <net>",
        "--bfm-weights <net>",
    ],
    "calc_metrics table": [
        "--cross l1",
        "--weights lpips_vgg=<net>",
        "--method ours=copy --set a=1",
    ],
    "calc_metrics views": ["--weights inception=<net>"],
    "dataset_tool video": [
        "--weights <net>",
        "--bfm-model <net>",
        "--results <frames> --tracker deep3d --weights <net>",
    ],
    "train": ["--set model.expression.mode=identity"],  # beside --clebs
    "benchmarks.train_step": ["--identities 8"],
}


@pytest.mark.parametrize(
    ("name", "more"), [(name, more) for name, calls in UNUSED.items() for more in calls]
)
def test_options_without_effect_are_refused(
    name: str, more: str, guard: Guard, material: Material
) -> None:
    words = material.words(name)
    for word in more.split():
        for known, path in material.files.items():
            word = word.replace(f"<{known}>", str(path))
        words.append(word)
    if "--method ours=copy" in more:  # the network gives way
        at = words.index(f"ours={material.files['net']}")
        del words[at - 1 : at + 1]
    result = _run(guard, material, name, words)
    assert _refused(result), (result.output, result.exception)
    said = result.output.splitlines()[-1]
    assert (
        "has no effect" in said
        or "belongs to" in said
        or "take the place" in said
        or "does not use" in said
    ), said
    assert not list(material.cwd.iterdir())


# ---- the guard itself ---------------------------------------------------------------------------------------------


def test_the_guard_sees_what_it_forbids(guard: Guard, material: Material) -> None:
    import socket
    import subprocess

    def connect() -> None:
        with socket.socket() as place:
            place.connect(("127.0.0.1", 9))

    acts = {
        "socket.connect": connect,
        "subprocess.Popen": lambda: subprocess.run(["gs", "--version"]),
        "open": lambda: (material.root / "real" / "new").write_text("x"),
        "os.rename": lambda: os.rename(material.files["net"], "a:b"),
        "os.remove": lambda: os.remove(material.files["net"]),
        "os.truncate": lambda: os.truncate(material.files["net"], 0),
    }
    before = signature(material.root, [])
    for event, act in acts.items():
        with guard.watching(material.root, [Path("a:b")], []), pytest.raises(Forbidden):
            act()
        assert len(guard.seen) == 1 and guard.seen[0].startswith(event)
    assert signature(material.root, []) == before
