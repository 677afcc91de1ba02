"""docs/configuration.md: every key of the configuration, made from the dataclasses of `training/config.py`.

    python -m benchmarks.reference docs/configuration.md

A key's meaning is the comment at its field, or the one above it; a test holds that every key has one and that the page
is up to date.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

import dnnlib.cli
from dnnlib.config import load_config, preset_names
from dnnlib.files import atomic_write
from dnnlib.params import OutputFile
from dnnlib.typed import plain
from training import config as source
from training.config import Config

_INTRODUCTION = """# Configuration

Every value that `train.py` and `pretrain.py` take, made by `python -m benchmarks.reference docs/configuration.md` from
the dataclasses of [training/config.py](../training/config.py). A preset (`configs/*.yaml`) holds what differs from the
defaults here; `--set` changes one value:

    python train.py --preset demo --data heads --out runs/demo --set train.lr=1e-4 --set train.batch_size=8

`--set` takes the whole key in every command: `--set model.render.samples_coarse=96` of `gen_videos.py` and
`calc_metrics.py` changes the section `model` of the network's own configuration. Letters of the paper are in the
[glossary](glossary.md).
"""
# How the names or the meanings of keys tell their unit.
_UNITS = (
    (r"(^|_)images$|half-life", "images"),
    (r"_every$|_interval$|_steps$|skip_limit", "steps"),
    (r"_s$", "seconds"),
    (r"world units", "world units"),
    (r"^resolution$|image_size|^pixels", "pixels"),
)


class Key(NamedTuple):
    """One value of the configuration."""

    name: str  # with its sections
    default: Any
    meaning: str
    choices: str  # of a value that is one of some words

    @property
    def unit(self) -> str:
        last = self.name.rpartition(".")[2]
        for pattern, unit in _UNITS:
            if re.search(pattern, last) or re.search(pattern, self.meaning):
                return unit
        return ""


def keys(section: Any, prefix: str = "") -> Iterator[Key]:
    """The keys of a configuration, depth first, in the order in which they are declared."""
    comments = _comments_of(type(section).__name__)
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from keys(value, f"{prefix}{field.name}.")
            continue
        words = (
            re.findall(r"['\"]([^'\"]*)['\"]", str(field.type))
            if "Literal" in str(field.type)
            else []
        )
        yield Key(f"{prefix}{field.name}", value, comments.get(field.name, ""), ", ".join(words))


def page() -> str:
    """The text of docs/configuration.md."""
    parts = [_INTRODUCTION]
    title = None
    for key in keys(Config()):
        section = key.name.rpartition(".")[0] or "name"
        if section != title:
            about = _about(section)
            parts.append(
                f"\n## {section}\n\n{about}| key | default | unit | meaning |\n|---|---|---|---|\n"
            )
            title = section
        choices = f" ({key.choices})" if key.choices else ""
        meaning = key.meaning
        cells = (f"`{key.name}`", f"`{_shown(key.default)}`", key.unit, f"{meaning}{choices}")
        parts.append(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in cells)} |\n")
    presets = ", ".join(f"`{name}`" for name in preset_names())
    parts.append(f"\nPresets: {presets}.\n")
    return "".join(parts)


def _about(section: str) -> str:
    place: Any = Config()
    for name in section.split("."):
        place = getattr(place, name)
    said = inspect.cleandoc(type(place).__doc__ or "") if dataclasses.is_dataclass(place) else ""
    return "" if not said or said.startswith(type(place).__name__) else f"{said}\n\n"


def _shown(value: Any) -> str:
    value = plain(value)
    if value == "":
        return '""'
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).replace("'", "")


def _comments_of(name: str) -> dict[str, str]:
    """Field -> its comment: behind it or inside its brackets, else the lines right above it."""
    text = inspect.getsource(source)
    comments, alone = {}, set()
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row = token.start[0]
            comments[row] = token.string.lstrip("# ").strip()
            if lines[row - 1].lstrip().startswith("#"):
                alone.add(row)
    found = {}
    classes = (n for n in ast.parse(text).body if isinstance(n, ast.ClassDef) and n.name == name)
    for node in (n for made in classes for n in made.body if isinstance(n, ast.AnnAssign)):
        assert isinstance(node.target, ast.Name) and node.end_lineno is not None
        rows = [r for r in range(node.lineno, node.end_lineno + 1) if r in comments]
        if not rows:
            row = node.lineno - 1
            while row in alone and not comments[row].endswith(":"):
                rows.insert(0, row)
                row -= 1
        found[node.target.id] = " ".join(comments[r] for r in rows)
    return found


@dnnlib.cli.command("reference")
@click.argument("out", type=OutputFile(".md"))
def main(out: Path) -> None:
    """Write the page of all keys of the configuration."""
    load_config(Config, "tiny")  # the presets are what the page speaks of
    with atomic_write(out, "w") as file:
        file.write(page())


if __name__ == "__main__":
    main()
