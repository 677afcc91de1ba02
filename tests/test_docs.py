"""What the pages and the help texts say is true: commands, options, configuration keys, make targets, links."""

from __future__ import annotations

import importlib
import re
import shlex
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from dnnlib.config import load_config, preset_names
from training.config import Config

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("train", "pretrain", "gen_videos", "visualizer", "calc_metrics", "dataset_tool")
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "models").rglob("*.md")]
)

Leaf = tuple[str, click.Command]


def _leaves(name: str, command: click.Command) -> list[Leaf]:
    """Every command below `command` that does something, with the words that call it."""
    if not isinstance(command, click.Group):
        return [(name, command)]
    context = click.Context(command)
    found: list[Leaf] = []
    for word in command.list_commands(context):
        sub = command.get_command(context, word)
        assert sub is not None
        found += _leaves(f"{name} {word}", sub)
    return found


def _script(name: str) -> click.Command:
    command = importlib.import_module(name.removesuffix(".py")).main
    assert isinstance(command, click.Command)
    return command


def _shell_lines(page: Path) -> list[str]:
    """Lines of the page's code blocks (fenced or indented), continued lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    fenced = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.M | re.S)
    lines = [line for block in fenced for line in block.splitlines()]
    lines += [line for line in text.splitlines() if line.startswith("    ")]
    return [line.strip().removeprefix("$ ") for line in lines]


def _calls(page: Path) -> list[list[str]]:
    """Words of each call of one of our scripts, from the script's name on."""
    calls = []
    for line in _shell_lines(page):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue  # prose or a picture in an indented block
        for i, word in enumerate(words):
            starts = (
                i == 0 or words[i - 1].endswith(("python", "python3")) or "torchrun" in words[:i]
            )
            if starts and word.removesuffix(".py") in SCRIPTS and word.endswith(".py"):
                calls.append(words[i:])
                break
    return calls


CALLS = [
    pytest.param(page, call, id=f"{page.name}: {' '.join(call)[:60]}")
    for page in PAGES
    for call in _calls(page)
]


@pytest.mark.parametrize(("page", "call"), CALLS)
def test_commands_on_the_pages_exist_with_their_options(page: Path, call: list[str]) -> None:
    command = _script(call[0])
    words = call[1:]
    while isinstance(command, click.Group):
        sub = next((w for w in words if not w.startswith("-")), None)
        assert sub is not None, f"{page.name}: {' '.join(call)} names no command"
        found = command.get_command(click.Context(command), sub)
        assert found is not None, f"{page.name}: {call[0]} has no command {sub}"
        words.remove(sub)
        command = found
    known = {opt for p in command.params for opt in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("--"):
            assert option in known, f"{page.name}: {' '.join(call)}: no option {option}"
    for value in _values_of(words, "--set"):
        _check_key(value.partition("=")[0])
    for value in [*_values_of(words, "--preset"), *_values_of(words, "--config")]:
        assert value in preset_names() or value.endswith((".yaml", "FILE", "NAME"))


def _values_of(words: list[str], option: str) -> list[str]:
    following = [words[i + 1] for i, w in enumerate(words[:-1]) if w == option]
    return following + [w.partition("=")[2] for w in words if w.startswith(f"{option}=")]


def _check_key(dotted: str) -> None:
    place: Any = load_config(Config, "tiny")
    for name in dotted.split("."):
        assert is_dataclass(place) and name in {f.name for f in fields(place)}, (
            f"no configuration key {dotted}"
        )
        place = getattr(place, name)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_make_targets_and_links_of_the_pages_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    # Only in code: "to make it" is prose.
    for named in re.findall(r"(?:`|^\s{4})make ([a-z][a-z-]+)", text, re.M):
        assert named in targets, f"{page.name}: no target make {named}"
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", link):
            assert (page.parent / link.partition("#")[0]).exists(), (
                f"{page.name}: broken link {link}"
            )


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_and_option_has_a_help_text(script: str) -> None:
    for words, leaf in _leaves(f"{script}.py", _script(script)):
        assert leaf.help, f"{words} has no help"
        for parameter in leaf.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{words} {parameter.opts[0]} has no help"


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_refuse_an_unknown_option_with_a_sentence(script: str) -> None:
    result = CliRunner().invoke(_script(script), ["--no-such-option"])
    assert result.exit_code == 2 and "No such option" in result.output


def test_pre_commit_and_configs_are_yaml() -> None:
    for path in (
        ROOT / ".pre-commit-config.yaml",
        ROOT / "environment.yml",
        *(ROOT / "configs").glob("*.yaml"),
    ):
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_no_page_or_source_names_a_machine() -> None:
    # Paths of one machine and package hosts do not belong into a public repository.
    pattern = re.compile(r"/(?:root|work)/|file://")
    for file in [
        *PAGES,
        *ROOT.glob("*.py"),
        *ROOT.glob("requirements*"),
        *(ROOT / "configs").glob("*"),
    ]:
        assert not pattern.search(file.read_text(encoding="utf-8")), file.name
