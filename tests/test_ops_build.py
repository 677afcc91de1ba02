"""Building: never at import, once per cache, and what happens when it cannot be done."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from torch_utils import doctor
from torch_utils.ops import bias_act, build, library


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A process that has loaded nothing yet, with an empty cache."""
    monkeypatch.setattr(library, "_results", {})
    monkeypatch.setattr(library, "_warned", set())
    monkeypatch.setenv("EXPORT3D_CACHE", str(tmp_path))
    monkeypatch.delenv("EXPORT3D_NO_BUILD", raising=False)
    return tmp_path


def falls_back_with_one_warning(match: str) -> None:
    x = torch.tensor([-1.0, 2.0])
    with pytest.warns(RuntimeWarning, match=match) as caught:
        for _ in range(3):
            assert bias_act(x, dim=0, act="relu", gain=1.0).tolist() == [0.0, 2.0]
    assert len(caught) == 1


def test_no_compiler(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    falls_back_with_one_warning(r"no C\+\+ compiler was found\. Install g\+\+")


def test_failing_compiler_is_quoted(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    csrc = tmp_path / "csrc"
    csrc.mkdir()
    for name in library.SOURCES["cpu"]:
        (csrc / name).write_text("#error the moon is in the wrong phase\n")
    monkeypatch.setattr(library, "CSRC", csrc)
    falls_back_with_one_warning("error the moon is in the wrong phase")
    assert "moon" in library.load("cpu").detail
    leftovers = [p.name for p in library.library_path("cpu").parent.iterdir()]
    assert leftovers == ["build.lock"]


def test_unwritable_cache(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fresh / "file").write_text("")
    monkeypatch.setenv("EXPORT3D_CACHE", str(fresh / "file" / "below"))
    falls_back_with_one_warning("cannot be written.*EXPORT3D_CACHE")


def test_no_home_folder(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("EXPORT3D_CACHE")
    monkeypatch.setattr(Path, "expanduser", nobody)
    falls_back_with_one_warning("no home folder.*Set EXPORT3D_CACHE")
    cache = next(doctor.operators())
    assert cache.state == "broken" and "EXPORT3D_CACHE" in cache.cure


@pytest.mark.parametrize("text", ["5m", "-1", "nan"])
def test_waiting_time_that_is_no_number(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("EXPORT3D_BUILD_WAIT_S", text)
    monkeypatch.setattr(library, "_compile", lambda *_: pytest.fail("compiled all the same"))
    falls_back_with_one_warning(f"EXPORT3D_BUILD_WAIT_S='{text}' is not a number of seconds")


def test_unreadable_sources(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "CSRC", fresh / "gone")
    falls_back_with_one_warning("sources in .* cannot be read.*Install the package again")


def test_building_forbidden(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPORT3D_NO_BUILD", "1")
    monkeypatch.setattr(library, "_compile", lambda *_: pytest.fail("compiled all the same"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the user asked for it: auto says nothing
        bias_act(torch.zeros(2), dim=0)
    with pytest.warns(RuntimeWarning, match="EXPORT3D_NO_BUILD is set"):
        bias_act(torch.zeros(2), dim=0, impl="cpu")
    bias_act(torch.zeros(2), dim=0, impl="cpu")  # said once


def test_library_found_built_is_not_compiled(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    compiled: list[str] = []

    def compile_(kind: library.Kind, folder: Path) -> Path:
        compiled.append(kind)
        (folder / "made.so").write_bytes(b"")
        return folder / "made.so"

    monkeypatch.setattr(library, "_compile", compile_)
    first = library.load("cpu")
    assert first.loaded and first.seconds > 0 and compiled == ["cpu"] and loaded == []
    library._results.clear()
    second = library.load("cpu")
    assert second.path == first.path and second.seconds == 0
    assert compiled == ["cpu"] and loaded == [str(first.path)]


def test_damaged_library_is_built_again(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = library.library_path("cpu")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a file")

    def compile_(kind: library.Kind, folder: Path) -> Path:
        (folder / "made.so").write_bytes(b"whole")
        return folder / "made.so"

    monkeypatch.setattr(library, "_compile", compile_)
    assert library.load("cpu").loaded
    assert path.read_bytes() == b"whole"


def test_hanging_builder_is_overtaken(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = library.library_path("cpu").parent
    folder.mkdir(parents=True)
    monkeypatch.setenv("EXPORT3D_BUILD_WAIT_S", "0.3")
    with open(folder / "build.lock", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        start = time.monotonic()
        with library._turn(folder):
            waited = time.monotonic() - start
    assert 0.3 <= waited < 5.0
    monkeypatch.setenv("EXPORT3D_BUILD_WAIT_S", "60")
    start = time.monotonic()
    with library._turn(folder):  # the owner is gone: no waiting
        assert time.monotonic() - start < 5.0


def test_file_system_without_locks_is_not_waited_for(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unknown)
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waited"))
    with library._turn(fresh):
        pass


def test_library_of_an_image_is_found_on_another_machine(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built without a GPU and under another kernel; only the processor has to be the same."""
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    built = {kind: library.library_path(kind) for kind in library.SOURCES}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(platform, "release", lambda: "6.8.0-45-generic")
    monkeypatch.setattr(platform, "platform", lambda: "Linux-6.8.0-45-generic-x86_64")
    assert {kind: library.library_path(kind) for kind in library.SOURCES} == built
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
    hopper = library.library_path("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert library.library_path("cuda") != hopper != built["cuda"]


def test_the_key_names_what_shapes_the_library(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = library.library_path("cpu")
    assert base == library.library_path("cpu")
    assert library.library_path("cuda").parent != base.parent
    monkeypatch.setattr(library, "_processor", lambda: "another processor")
    assert library.library_path("cpu") != base
    monkeypatch.undo()
    monkeypatch.setenv("EXPORT3D_CACHE", str(fresh))
    copy = tmp_path / "csrc"
    shutil.copytree(library.CSRC, copy)
    monkeypatch.setattr(library, "CSRC", copy)
    assert library.library_path("cpu") == base
    (copy / "bias_act.h").write_text("// changed\n")
    assert library.library_path("cpu") != base


def test_first_cause() -> None:
    error = RuntimeError(
        "Error building extension\n[1/2] c++ -O3\na.cpp:3:1: error: no\nninja: stop"
    )
    assert library.first_cause(error) == "a.cpp:3:1: error: no"
    assert library.first_cause(RuntimeError("plain")) == "plain"
    assert library.first_cause(RuntimeError()) == "RuntimeError"


def test_unknown_flags_are_left_out(tmp_path: Path) -> None:
    compiler = tmp_path / "picky"
    compiler.write_text('#!/bin/sh\ncase "$*" in *march=native*) exit 1;; esac\nexit 0\n')
    compiler.chmod(0o755)
    flags = library.supported_flags(str(compiler))
    assert "-march=native" not in flags and "-fopenmp" in flags and "-O3" in flags


def test_build_command() -> None:
    run = CliRunner().invoke(build.main, ["tpu"])
    assert run.exit_code == 2 and "'tpu' is not one of 'cpu', 'cuda'" in run.output
    run = CliRunner().invoke(build.main, ["cpu"])
    assert (run.exit_code == 0) == library.load("cpu").loaded
    assert run.output.startswith("cpu: ") and len(run.output.splitlines()) == 1


def test_import_compiles_nothing(tmp_path: Path, repo_root: Path) -> None:
    code = "import sys, torch_utils.ops; sys.exit('torch.utils.cpp_extension' in sys.modules)"
    environment = {**os.environ, "EXPORT3D_CACHE": str(tmp_path), "PYTHONPATH": str(repo_root)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
    assert list(tmp_path.iterdir()) == []
