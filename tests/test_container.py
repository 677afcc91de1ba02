"""The container file, as far as a machine without a builder can say: what it copies is there, its make would run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import torch
from cluster_support import ROOT

FILE = ROOT / "docs" / "cluster" / "Containerfile"
# of tests and of commands that no training needs
NOT_IN_IT = {"requirements-dev.lock", "requirements-reference.lock", "requirements-cluster.lock"}


def instructions() -> list[tuple[str, str]]:
    """(instruction, its words), one a line."""
    lines = [line for line in FILE.read_text().splitlines() if line and line[0] != "#"]
    pairs = [line.partition(" ") for line in lines]
    return [(name, words) for name, _, words in pairs]


def tracked() -> set[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n"))


def test_known_instructions_in_an_order_that_builds() -> None:
    names = [name for name, _ in instructions()]
    assert names[0] == "FROM" and names.count("FROM") == 1
    assert set(names) <= {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "ENTRYPOINT", "CMD"}
    assert names.index("WORKDIR") < names.index("COPY")


def test_what_is_copied_and_started_is_in_the_repository() -> None:
    files = tracked()
    copied = [words.split()[:-1] for name, words in instructions() if name == "COPY"]
    assert copied[-1] == ["."]
    for source in (path for paths in copied[:-1] for path in paths):
        assert source in files, source
    started = json.loads(dict(instructions())["CMD"])
    assert started[0] in files


def test_its_make_runs_with_the_files_that_are_there_by_then(tmp_path: Path) -> None:
    made = []
    for name, words in instructions():
        if name == "COPY" and not words.startswith(". "):
            for source in words.split()[:-1]:
                shutil.copy(ROOT / source, tmp_path)
        for command in words.split("&&") if name == "RUN" else ():
            if (call := shlex.split(command))[0] == "make":
                done = subprocess.run(
                    ["make", "--dry-run", *call[1:]], cwd=tmp_path, capture_output=True, text=True
                )
                assert done.returncode == 0, done.stderr
                made.append(done.stdout)
    (steps,) = made
    installed = set(re.findall(r"-r (\S+)", steps))
    assert installed == {p.name for p in ROOT.glob("requirements*.lock")} - NOT_IN_IT
    assert "pip install --no-deps" in steps


def test_its_compiler_is_of_the_cuda_that_torch_is_built_with() -> None:
    (image,) = (words for name, words in instructions() if name == "FROM")
    found = re.fullmatch(r"nvidia/cuda:(\d+\.\d+)\.\d+-devel-\S+", image)
    assert found is not None
    assert torch.version.cuda is None or found[1] == torch.version.cuda


def test_an_image_holds_what_git_holds() -> None:
    def patterns(name: str) -> list[str]:
        lines = (ROOT / name).read_text().splitlines()
        return [line for line in lines if line and not line.startswith("#")]

    # git's "/out/" is the one at the top, its "build/" any
    translated = [
        p.strip("/") if p.startswith("/") else f"**/{p.rstrip('/')}" for p in patterns(".gitignore")
    ]
    assert patterns(".dockerignore") == translated
