"""Kinds of wrong inputs of `mutations.py`: words of the command line. Names, numbers, settings."""

from __future__ import annotations

from pathlib import Path

import click
import mutation_values as values
import numpy as np
from guard_support import commands, inputs_of, outputs_of, with_value
from mutation_bench import Bench, Call, good_call
from mutation_values import pick

from dnnlib.params import InputFile, NamedNumber, Number, Numbers, OutputFile, Whole

_NAMES = {
    "too long": "x" * 300,
    "a way too long": "y/" * 3000 + "x",
    "a lone surrogate": "a\udcffb",
    "spaces": "   ",
    "a line end": "a\nb",
    "a zero byte": "a\0b",
    "a home": "~nobody/x",
    "an address": "https://127.0.0.1:9/x",
    "another address": "file:/etc/passwd",
    "a minus": "-",
    "a dot": ".",
    "a slash too many": "a:b//",
}
_NO_INPUTS = {"all files": "/", "standard input": "/dev/stdin", "memory": "/proc/self/mem"}


def names(bench: Bench, place: Path, rng: np.random.Generator) -> Call:
    def paths(command: click.Command) -> list[click.Parameter]:
        return [*inputs_of(command), *outputs_of(command)]

    call = good_call(bench, place, rng, lambda form: bool(paths(commands()[form[0]])))
    command = commands()[call.command]
    param = pick(rng, paths(command))
    is_read = param in inputs_of(command)
    what, name = pick(rng, {**_NAMES, **_NO_INPUTS} if is_read else _NAMES)
    suffix = param.type.suffixes[0] if isinstance(param.type, OutputFile) else ""
    if isinstance(param.type, InputFile) and what not in _NO_INPUTS:
        suffix = pick(rng, ["", ".yaml", ".safetensors", ".mp4"])
    call.words = with_value(command, call.words, param, name + suffix)
    call.what, call.must_fail = f"{param.name}: {what}", what in _NO_INPUTS
    return call


# ---- options -----------------------------------------------------------------------------------------------------

_NUMBERS = (
    *(
        "nan",
        "inf",
        "-inf",
        "NaN",
        "Infinity",
        "1e999",
        "-1e999",
        "1e400",
        values.NINES,
        str(10**30),
        str(-(10**30)),
    ),
    *(
        "²",
        "٣",
        "0x10",
        "1e",
        "",
        " ",
        "\udcff",
        "a\nb",
        "x" * 5000,
        "None",
        "true",
        "[1]",
        "1,2",
        "2024-01-01",
    ),
    *("1e-400", "1,nan", ",", "1/0", "--", "½", "1e3000000000"),
)
_WORDS = (
    *(
        "",
        " ",
        "²",
        "\udcff",
        "a\nb",
        "\0",
        "x" * 5000,
        "a=b",
        "=",
        "a=",
        "=b",
        "None",
        "[]",
        "{}",
        "*",
        "../..",
    ),
    *(
        "/dev/null",
        "1e999",
        "-1",
        "0",
        values.NINES,
        "nan",
        "1/0",
        "0/0",
        "2/1",
        "1/2",
        "psnr,psnr",
        "psnr,",
    ),
    *(
        ",psnr",
        "nowhere:Name",
        "a.py:B",
        ":",
        "\x1b[2J",
        "left",
        "largest",
        "png",
        "jpg:1000",
        "webp:nan",
    ),
)


def options(bench: Bench, place: Path, rng: np.random.Generator) -> Call:
    """Numbers that are none, and words of another kind."""

    def params(command: click.Command) -> list[click.Parameter]:
        plain = (Number, Whole, Numbers, NamedNumber, click.Choice, click.types.StringParamType)
        return [p for p in command.params if isinstance(p.type, plain) and p.name != "overrides"]

    call = good_call(bench, place, rng, lambda form: bool(params(commands()[form[0]])))
    command = commands()[call.command]
    param = pick(rng, params(command))
    is_number = isinstance(param.type, (Number, Whole, Numbers))
    value = pick(rng, _NUMBERS if is_number else _WORDS)
    call.words = with_value(command, call.words, param, value)
    call.what = f"{param.name} = {value[:40]!r}"
    call.must_fail = (is_number and value not in ("٣", "1e-400", "1,2", " ", "")) or isinstance(
        param.type, click.Choice
    )
    return call


def settings(bench: Bench, place: Path, rng: np.random.Generator) -> Call:
    """`--set KEY=VALUE` with keys of the configuration and values of every kind."""
    from dnnlib.config import load_config
    from dnnlib.typed import flat
    from training.config import Config

    def settable(form: tuple[str, str]) -> bool:
        return any(p.name == "overrides" for p in commands()[form[0]].params)

    call = good_call(bench, place, rng, settable)
    keys = sorted(flat(load_config(Config, "tiny")))
    sections = sorted({k.rpartition(".")[0] for k in keys} - {""})
    key = pick(
        rng, keys if rng.random() < 0.8 else [*sections, "", ".", "a.b.c", "x" * 3000, "\udcff"]
    )
    what, value = pick(rng, values.YAML_VALUES)
    if rng.random() < 0.1:
        what, text = pick(rng, values.YAML_TEXTS)
        value = text.decode("utf-8", "surrogateescape").replace("\0", "")
    if call.command.split()[0] not in ("train", "pretrain", "benchmarks.train_step"):
        key = key.removeprefix("model.")  # of a checkpoint's model alone
    call.words += ["--set", f"{key}={value}"]
    call.may_be_large = True
    call.what = f"{key[:40]} = {what}"
    return call
