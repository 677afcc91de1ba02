"""Good inputs of `mutations.py`, and the forms in which commands are called with them."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import fuzz_samples
import numpy as np
from click.testing import CliRunner
from guard_stand_ins import STAND_INS
from guard_support import CALLS, Material, make_material
from mutation_values import pick
from PIL import Image

# Further forms in which the commands are called: words before "|" name the command.
FORMS = [
    *((name, words) for name, words in CALLS.items()),
    ("dataset_tool info", "<eg3d>"),
    ("dataset_tool validate", "<eg3d>"),
    ("dataset_tool info", "<eg3d-folder>"),
    ("calc_metrics protocol", "--layout heads --data <eg3d> --split all --same 1 --cross 0 --out <out.json>"),
    ("pretrain", "--preset <tiny> --data <eg3d-folder> --out <out> --set pretrain.total_steps=1"),
    ("train", "--preset <tiny> --data <heads> --out <out> --clebs <clebs> --dry-run"),
    *(("dataset_tool video", f"{given} --dest <out> --workers 0 --resolution 64 --min-frames 1") for given in (
        "--source <list.csv>", "--source <list.jsonl>", "--source <celeb.json>", "--source <packed>",
        "--source <videos> --results <results>", "--source <videos> --results <matlab>")),
    ("gen_videos compare", "--panel a=<clip> --panel b=<clip> --out <out.mp4> --panel-px 32"),
    ("gen_videos freeview", "--source <deep> --network <net> --out <out.mp4> --seconds 0.08 --panel-px 32"),
]  # fmt: skip
# What a command finds in its output folder when it is called again.
AGAIN = ("train", "pretrain", "calc_metrics gen", "calc_metrics calc", "calc_metrics table", "calc_metrics follow",
         "dataset_tool video", "dataset_tool synth", "benchmarks.metrics speed", "benchmarks.metrics many",
         "benchmarks.data index", "benchmarks.ops")  # fmt: skip


@dataclass
class Bench:
    """Good inputs, which no case changes, and where the cases have their folders."""

    root: Path
    files: dict[str, Path]

    def words(self, form: tuple[str, str], put: dict[str, Path]) -> list[str]:
        """The words of a form; `put`: other paths for some of the inputs."""
        material = Material(self.root, {**self.files, **put})
        CALLS["form"] = form[1]
        try:
            return material.words("form")
        finally:
            del CALLS["form"]


@dataclass
class Call:
    """A command with something wrong."""

    command: str
    words: list[str]
    what: str
    must_fail: bool = False  # no result could be right
    note: str = ""
    in_place: list[Path] = field(default_factory=list)  # inputs that the command changes
    may_be_large: bool = False  # what is asked for takes memory, and nothing can tell before
    without_rights: bool = False  # files' modes count for root, too


def make_bench(root: Path) -> Bench:
    material = make_material(root / "good")
    files = {name: path.resolve() for name, path in material.files.items()}
    real = root / "good" / "real"
    more = root / "good" / "more"
    more.mkdir()
    (more / "archives").mkdir()
    files["eg3d"] = more / "archives" / "eg3d.zip"
    words = ["export-eg3d", str(files["heads"]), "--out", str(files["eg3d"]), "--with-expression"]
    assert CliRunner().invoke(importlib.import_module("dataset_tool").main, words).exit_code == 0
    with zipfile.ZipFile(files["eg3d"]) as archive:
        archive.extractall(more / "eg3d-folder")
    files["eg3d-folder"] = more / "eg3d-folder"
    (more / "lists").mkdir()
    shutil.copy(real / "videos" / "v.mp4", more / "lists" / "v.mp4")
    row = {"path": "v.mp4", "name": "v", "start_s": 0.04, "end_s": 0.3, "left": 0.1, "top": 0.1,
           "right": 0.9, "bottom": 0.9, "identity": "a", "split": "train"}  # fmt: skip
    (more / "lists" / "list.csv").write_text(
        ",".join(row) + "\n" + ",".join(map(str, row.values())) + "\n"
    )
    (more / "lists" / "list.jsonl").write_text(json.dumps(row) + "\n")
    box = {"top": 0.1, "bottom": 0.9, "left": 0.1, "right": 0.9}
    clip = {"ytb_id": "v", "duration": {"start_sec": 0.04, "end_sec": 0.3}, "bbox": box}
    (more / "lists" / "celeb.json").write_text(json.dumps({"clips": {"v_1": clip}}))
    files |= {name: more / "lists" / name for name in ("list.csv", "list.jsonl", "celeb.json")}
    with zipfile.ZipFile(more / "packed.zip", "w") as archive:
        archive.write(real / "videos" / "v.mp4", "v.mp4")
    files["packed"] = more / "packed.zip"
    rng = np.random.default_rng(0)
    (more / "results").mkdir()
    np.savez(more / "results" / "v.npz", expression=rng.normal(size=(9, 50)).astype(np.float32))
    (more / "matlab" / "v").mkdir(parents=True)
    from scipy.io import savemat

    for i in range(9):
        arrays = {
            "exp": rng.normal(size=(1, 64)),
            "angle": np.zeros((1, 3)),
            "trans": np.ones((1, 3)),
        }
        savemat(more / "matlab" / "v" / f"{i}.mat", arrays, do_compression=bool(i % 2))
    (more / "weights").mkdir()
    fuzz_samples.checkpoints(more / "weights")
    files |= {
        "results": more / "results",
        "matlab": more / "matlab",
        "pth": more / "weights" / "a.pth",
    }
    grey = np.asarray(Image.open(files["photo"]).convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(more / "deep.png")
    files["deep"] = more / "deep.png"
    (more / "containers").mkdir()
    fuzz_samples.videos(more / "containers")
    files["containers"] = more / "containers"
    (more / "pictures").mkdir()
    fuzz_samples.pictures(more / "pictures")
    files["pictures"] = more / "pictures"
    return Bench(root, files)


def run_once(bench: Bench, name: str) -> None:
    """The command in the present folder, without anything wrong."""
    main = importlib.import_module(name.split()[0]).main
    with contextlib.ExitStack() as stack:
        for target, new in STAND_INS.get(name, {}).items():
            stack.enter_context(mock.patch(target, new))
        done = CliRunner().invoke(main, [*name.split()[1:], *bench.words((name, CALLS[name]), {})])
    assert done.exit_code == 0, (name, done.output, done.exc_info)


def used(form: tuple[str, str]) -> list[str]:
    """Names of the inputs of a form."""
    words = [w.rpartition("=")[2] for w in form[1].split()]
    return [w[1:-1] for w in words if w.startswith("<") and not w.startswith("<out")]


def good_call(
    bench: Bench,
    place: Path,
    rng: np.random.Generator,
    fits: Callable[[tuple[str, str]], bool],
) -> Call:
    """A good call of a form that fits."""
    form = pick(rng, [f for f in FORMS if fits(f)])
    put = {}
    if "copy" in used(form):
        put["copy"] = Path(shutil.copytree(bench.files["copy"], place / "in" / "copy"))
    return Call(form[0], bench.words(form, put), "", in_place=list(put.values()))
