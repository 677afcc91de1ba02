"""The plan of the house: every package says what lies in it, and nothing imports upwards by a back door."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "root_packages"
]
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
PACKAGES = sorted(init.parent for room in LAYERS for init in (ROOT / room).rglob("__init__.py"))
FILES = sorted(file for room in LAYERS for file in (ROOT / room).rglob("*.py"))


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("package", PACKAGES, ids=_name)
def test_the_opening_lines_of_a_package_list_its_files(package: Path) -> None:
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
    listed = re.findall(r"^([a-z0-9_]+(?:\.py|/)) ", text, re.M)
    there = [f.name for f in package.glob("*.py") if f.name != "__init__.py"]
    there += [f"{f.parent.name}/" for f in package.glob("*/__init__.py")]
    assert sorted(listed) == sorted(there)


def test_the_linter_knows_every_room() -> None:
    assert {init.parent.name for init in ROOT.glob("*/__init__.py")} == set(LAYERS)


def test_no_room_imports_a_script() -> None:
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            assert not {n.partition(".")[0] for n in names} & SCRIPTS, _name(file)


def test_what_is_imported_late_says_so() -> None:
    """By a comment that begins with "here", or by a line for a whole file of commands."""
    quick = "# What is heavy is imported when it is called, so that --help is quick."
    silent = []
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        lines = text.splitlines()
        functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
        for function in functions if quick not in text and file.parent.name != "benchmarks" else ():
            late = [n for n in ast.walk(function) if isinstance(n, (ast.Import, ast.ImportFrom))]
            said = any("# here" in line for n in late for line in lines[n.lineno - 2 : n.lineno])
            silent += [f"{_name(file)}:{function.lineno}"] if late and not said else []
    assert not silent


def test_the_page_of_the_architecture_names_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = re.findall(r"^\| `([a-z0-9_]+)/` \|", page, re.M)
    assert rooms == LAYERS  # from the top floor down, as the linter has them


def test_every_name_that_is_imported_exists() -> None:
    """Also what a function imports when it is called, in scripts and packages that mypy does not see."""
    missing = []
    for file in [*FILES, *ROOT.glob("*.py"), *(ROOT / "tests").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            if node.module.partition(".")[0] not in LAYERS:
                continue
            module = importlib.import_module(node.module)
            for name in (alias.name for alias in node.names):
                if not hasattr(module, name) and not _is_module(f"{node.module}.{name}"):
                    missing.append(f"{_name(file)}:{node.lineno} {node.module}.{name}")
    assert not missing


def _is_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
