"""Kinds of wrong inputs of `mutations.py`: a file among the inputs, what lies in its place, what a command left."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import mutation_values as values
import numpy as np
from fuzz_readers import changed
from guard_support import CALLS, commands, outputs_of, with_value
from mutation_bench import AGAIN, FORMS, Bench, Call, good_call, run_once, used
from mutation_values import pick

from dnnlib.params import OutputFile

# ---- a file among the inputs -------------------------------------------------------------------------------------

Change = Callable[[bytes, np.random.Generator], tuple[bytes, str]]


def _changed_npz(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    if rng.random() < 0.4:
        return values.changed_zip(content, rng)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {i.filename: archive.read(i) for i in archive.infolist()}
    name = pick(rng, list(members))
    members[name], what = values.changed_npy(members[name], rng)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return buffer.getvalue(), f"{name}: {what}"


def _changed_checkpoint(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Another number in the configuration, sealed as the writer would; or another header."""
    from torch_utils.checkpoints import header_sha256

    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    texts = header["__metadata__"]
    how = rng.random()
    if how < 0.75 and "export3d" in texts:
        metadata = json.loads(texts["export3d"])
        part = metadata.get("config", metadata)
        text, what = _changed_section(part, rng)
        try:
            new = json.loads(text)
        except (ValueError, RecursionError):
            new = None
        if new is not None and how < 0.65:
            if "config" in metadata:
                metadata["config"] = new
            else:
                metadata = new
            if isinstance(metadata, dict):
                metadata.pop("header_sha256", None)
                seal = next((k for k in metadata if "sha256" in k and k != "sha256"), None)
                if seal is not None:
                    metadata[seal] = header_sha256(metadata, texts.get("tree"))
            texts["export3d"] = json.dumps(metadata)
        else:
            texts["export3d"] = text.decode("utf-8", "replace")
        made = json.dumps(header).encode()
        return len(made).to_bytes(8, "little") + made + content[
            8 + size :
        ], f"its description: {what}"
    if how < 0.9:
        made, what = values.changed_json(json.dumps(header).encode(), rng)
        return len(made).to_bytes(8, "little") + made + content[8 + size :], f"its header: {what}"
    number = int(rng.choice(np.array([0, 1, 2**31, 2**63 - 1], np.uint64)))
    return number.to_bytes(8, "little") + content[8:], f"a header of {number} bytes"


def _changed_section(tree: Any, rng: np.random.Generator) -> tuple[bytes, str]:
    """Half of the time a size of the network that would take all memory."""
    if rng.random() < 0.5:
        return values.changed_tree(tree, rng, values.JSON_VALUES)
    huge = {str(n): str(n) for n in (10**9, 2**31, 10**5, 10**15, 70_000)}
    return values.changed_tree(tree, rng, huge)


def _damaged(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    return changed(content, rng), "damage"


CHANGES: dict[str, Change] = {
    ".json": values.changed_json,
    ".jsonl": values.changed_lines,
    ".yaml": values.changed_yaml,
    ".npy": values.changed_npy,
    ".npz": _changed_npz,
    ".zip": values.changed_zip,
    ".safetensors": _changed_checkpoint,
    ".mp4": values.changed_video,
}


def files_of(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [p for p in found if p.suffix in suffixes] if suffixes else found


def with_changed(
    bench: Bench,
    place: Path,
    rng: np.random.Generator,
    suffixes: tuple[str, ...],
    act: Callable[[Path], str],  # on a copy of a file; says what it did
    must_fail: bool = False,
) -> Call:
    """A form one of whose inputs has such a file, in a copy of its own."""
    options = [
        (form, name)
        for form in FORMS
        for name in dict.fromkeys(used(form))
        if files_of(bench.files[name], suffixes)
    ]
    form, name = pick(rng, options)
    source = bench.files[name]
    if source.parent.name == "lists":  # with the videos that it names
        shutil.copytree(source.parent, place / "in" / "lists")
        copy = place / "in" / "lists" / source.name
    else:
        copy = place / "in" / source.name
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    target = pick(rng, files_of(copy, suffixes))
    did = act(target)
    what = f"{target.relative_to(place / 'in')}: {did}"
    put, in_place = {name: copy}, []
    if "copy" in used(form) and name != "copy":
        shutil.copytree(bench.files["copy"], place / "in" / "copy")
        put["copy"] = place / "in" / "copy"
    if "copy" in put:
        in_place.append(put["copy"])
    return Call(form[0], bench.words(form, put), what, must_fail, in_place=in_place)


def rewrite(rng: np.random.Generator, change: Change | None = None) -> Callable[[Path], str]:
    def act(path: Path) -> str:
        content, what = (change or CHANGES.get(path.suffix, _damaged))(path.read_bytes(), rng)
        path.write_bytes(content)
        return what

    return act


def of(*suffixes: str) -> Callable[[Bench, Path, np.random.Generator], Call]:
    return lambda bench, place, rng: with_changed(bench, place, rng, suffixes, rewrite(rng))


def bombs(bench: Bench, place: Path, rng: np.random.Generator) -> Call:
    what, make = pick(rng, values.BOMBS)

    def act(path: Path) -> str:
        path.write_bytes(make())
        return what

    return with_changed(bench, place, rng, (".png",), act)


def damage(bench: Bench, place: Path, rng: np.random.Generator) -> Call:
    if rng.random() < 0.5:
        return with_changed(bench, place, rng, (), rewrite(rng, _damaged))
    # Another container or picture under the name of the input.
    kind, suffix = pick(rng, [("containers", ".mp4"), ("pictures", ".png")])

    def act(path: Path) -> str:
        sample = pick(rng, sorted(bench.files[kind].iterdir()))
        path.write_bytes(changed(sample.read_bytes(), rng))
        return f"a damaged {sample.name}"

    return with_changed(bench, place, rng, (suffix,), act)


# ---- what lies in a file's place ---------------------------------------------------------------------------------


def puts() -> dict[str, Callable[[Path], None]]:
    def loop(path: Path) -> None:
        path.symlink_to(path.name)

    def socket(path: Path) -> None:
        import socket as sockets

        with sockets.socket(sockets.AF_UNIX) as server:
            os.chdir(path.parent)
            server.bind(path.name)

    return {
        "a pipe": os.mkfifo,
        "a device": lambda p: p.symlink_to("/dev/zero"),
        "an empty device": lambda p: p.symlink_to("/dev/null"),
        "a loop of links": loop,
        "a link to nothing": lambda p: p.symlink_to("nowhere"),
        "a link to its folder": lambda p: p.symlink_to("."),
        "a folder": Path.mkdir,
        "nothing": lambda p: None,
        "an empty file": Path.touch,
        "a socket": socket,
    }


def places(bench: Bench, place: Path, rng: np.random.Generator) -> Call:
    what, put = pick(rng, puts())

    def act(path: Path) -> str:
        here = Path.cwd()
        path.unlink()
        put(path)
        os.chdir(here)
        return what

    return with_changed(bench, place, rng, (), act)


def rights(bench: Bench, place: Path, rng: np.random.Generator) -> Call:
    """Inputs that may not be read, outputs where nothing may be written."""

    def act(path: Path) -> str:
        victim = pick(rng, [path, path.parent if path.parent != place / "in" else path])
        victim.chmod(0)
        return "no permission"

    if rng.random() < 0.6:
        call = with_changed(bench, place, rng, (), act, must_fail=False)
    else:
        call = good_call(bench, place, rng, lambda form: bool(outputs_of_form(form)))
        folder = place / "alone" / "locked"
        folder.mkdir()
        command = commands()[call.command]
        param = pick(rng, outputs_of(command))
        suffix = param.type.suffixes[0] if isinstance(param.type, OutputFile) else ""
        call.words = with_value(command, call.words, param, str(folder / f"x{suffix}"))
        folder.chmod(0o555)
        call.what, call.must_fail = f"{param.name} where nothing may be written", True
    call.without_rights = True
    return call


def outputs_of_form(form: tuple[str, str]) -> list[click.Parameter]:
    return outputs_of(commands()[form[0]])


# ---- what an earlier call left -----------------------------------------------------------------------------------


def states(bench: Bench, place: Path, rng: np.random.Generator) -> Call:
    """The command again, after one of its own files was changed."""
    name, here = pick(rng, AGAIN), Path.cwd()
    run_once(bench, name)
    target = pick(rng, files_of(here, tuple(CHANGES)))
    if rng.random() < 0.15:
        what, put = pick(rng, puts())
        target.unlink()
        put(target)
        os.chdir(here)
    else:
        what = rewrite(rng)(target)
    words = bench.words((name, CALLS[name]), {})
    if name == "train" and rng.random() < 0.5:
        words[words.index("train.total_images=4")] = "train.total_images=8"
        words += ["--allow-change", "train.total_images"]
    return Call(name, words, f"{target.relative_to(here)}: {what}")
