"""Every command of every script with small inputs, and a guard that stops what a command must not do.

A new script, command or option is found through click itself: the tests fail until it is named here.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from dnnlib.params import InputPath, NamedInput, Output

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "",
    "benchmarks",
    "conventions",
    "dataset",
    "dnnlib",
    "inference",
    "metrics",
    "pretrained",
    "running",
    "torch_utils",
    "tracking",
    "training",
    "tuning",
    "viewer",
)


def scripts() -> list[str]:
    """Modules that can be run."""
    files = [f for p in PACKAGES for f in ((ROOT / p).rglob("*.py") if p else ROOT.glob("*.py"))]
    runs = [f for f in files if '\nif __name__ == "__main__":' in f.read_text(encoding="utf-8")]
    return sorted(".".join(f.relative_to(ROOT).with_suffix("").parts) for f in runs)


def commands() -> dict[str, click.Command]:
    """Every command, by the words that call it."""
    found: dict[str, click.Command] = {}

    def add(words: str, command: click.Command) -> None:
        if not isinstance(command, click.Group):
            found[words] = command
            return
        for name in command.list_commands(click.Context(command)):
            sub = command.get_command(click.Context(command), name)
            assert sub is not None
            add(f"{words} {name}", sub)

    for module in scripts():
        main = importlib.import_module(module).main
        if isinstance(main, click.Command):
            add(module, main)
    return found


# ---- how each command is called -----------------------------------------------------------------------------------

# Words before "=" that are inputs of the material, written <name>; <out> is the output. One line a command.
CALLS = {
    "gen_videos animate": "--source <photo> --driving <clip> --network <net> --out <out.mkv> --max-frames 2",
    "gen_videos track": "--driving <clip> --out <out.safetensors> --max-frames 2",
    "gen_videos freeview": "--source <photo> --network <net> --out <out.mp4> --seconds 0.08 --panel-px 32",
    "gen_videos reconstruct": "--driving <clip> --network <net> --out <out.mp4> --max-frames 2 --panel-px 32",
    "gen_videos grid": "--source <photo> --driving <clip> --network <net> --out <out.mp4> --max-frames 2 --panel-px 32",
    "gen_videos novel-view": "--source <photo> --driving <clip> --network <net> --out <out.mp4> --max-frames 2 "
    "--yaws 0 --panel-px 32",
    "gen_videos directions": "--source <photo> --network <net> --out <out.mp4> --seconds 0.08 --count 1 --panel-px 32",
    "gen_videos export-shape": "--source <photo> --network <net> --out <out> --driving <clip> --max-frames 1 "
    "--format ply --format png --resolution 8 --level 0.5",
    "gen_videos show": "--source <photo> --network <net> --out <out.png> --unit jawOpen=0.5 --along v1=1 --yaw 10 "
    "--driving <clip> --max-frames 2 --frame 1",
    "gen_videos compare": "--panel a=<clip> --panel b=<frames> --out <out.mp4> --panel-px 32",
    "gen_videos demo": "--source <photo> --network <net> --motion <motion> --out <out>",
    "calc_metrics calc": "--pred <clips> --ref <truth> --source <sources> --metrics psnr,csim_source --cache <out2> "
    "--json <out.json>",
    "calc_metrics list": "",
    "calc_metrics tsne": "--data <heads> --network <net> --out <out.png> --identities 2 --frames 4",
    "calc_metrics heads": "--network <net> --data <heads> --pairs 2 --out <out.json>",
    "calc_metrics probes": "--network <net> --data <heads> --out <out.json>",
    "calc_metrics protocol": "--layout heads --data <heads> --split all --same 1 --cross 1 --frames 2 --out <out.json>",
    "calc_metrics views": "--network <net> --source <photo> --views 2 --out <out.json>",
    "calc_metrics gen": "--protocol <protocol> --data <heads> --method <net> --out <out>",
    "calc_metrics table": "--protocol <protocol> --data <heads> --ref <truth> --source <sources> --method ours=<net> "
    "--method b=<clips> --same psnr --cross csim_source --cache <out2> --out <out>",
    "calc_metrics follow": "--protocol <protocol> --data <heads> --ref <truth> --network <net> --method b=<clips> "
    "--cache <out2> --out <out>",
    "dataset_tool video": "--source <videos> --dest <out> --workers 0 --resolution 64 --min-frames 1",
    "dataset_tool synth": "<out> --identities 1 --frames-per-clip 1 --resolution 16 --labels painted --workers 1",
    "dataset_tool info": "<heads>",
    "dataset_tool validate": "<heads> --sheet <out.png>",
    "dataset_tool join": "<copy>",
    "dataset_tool merge": "<heads> --dest <out>",
    "dataset_tool split": "<copy>",
    "dataset_tool export-eg3d": "<heads> --out <out.zip>",
    "train": "--preset <tiny> --data <heads> --clebs <clebs> --init-from <net> --out <out> "
    "--set train.total_images=4",
    "pretrain": "--preset <tiny> --data <heads> --out <out> --set pretrain.total_steps=1",
    "visualizer": "--source <photo> --network <net> --port 0 --seconds 0.1",
    "benchmarks.animate": "--driving <clip> --network <net> --short 1 --long 2 --json <out.json>",
    "benchmarks.viewer": "--network <net> --size 32 --repeats 1 --json <out.json>",
    "benchmarks.data index": "--clips 1 --frames 32 --json <out.json>",
    "benchmarks.data read": "<heads> --frames 32 --workers 0 --json <out.json>",
    "benchmarks.data video": "<videos> --json <out.json>",
    "benchmarks.data profile": "<videos> --resolution 64 --json <out.json>",
    "benchmarks.frame": "--preset <tiny> --repeats 1 --precision fp32 --json <out.json>",
    "benchmarks.language": "--people 1 --data <heads> --clips <videos> --json <out.json>",
    "benchmarks.metrics speed": "--pairs 2 --long 0 --json <out.json>",
    "benchmarks.metrics many": "--clips 2 --processes 1 --work <out> --json <out.json>",
    "benchmarks.metrics pose": "--people 1 --json <out.json>",
    "benchmarks.metrics score": "<copy> 2 1",
    "benchmarks.ops": "--budget 0 --json <out.json>",
    "benchmarks.presets": "--preset <tiny> --repeats 1 --json <out.json>",
    "benchmarks.gallery": "<heads> --network <net> --frames 2 --people 0,0,0 --out <out>",
    "benchmarks.mouths": "--network n=<net> --people 1 --json <out.json>",
    "benchmarks.kills": "--data <heads> --work <out> --preset <tiny> --json <out.json>",
    "benchmarks.endurance": "--data <heads> --work <out> --preset <tiny> --parts saves --steps 12 --json <out.json>",
    "benchmarks.costs": "--preset <tiny> --json <out.json>",
    "benchmarks.render": "--side 4 --repeats 1 --no-scaling --json <out.json>",
    "benchmarks.report": "--out <out>",
    "benchmarks.reference": "<out.md>",
    "benchmarks.shapes": "--work <out> --identities 10 --pairs 8 --json <out.json>",
    "benchmarks.synth": "--resolution 16 --frames-per-clip 1 --people 1 --workers 1 --json <out.json>",
    "benchmarks.train_step": "--preset <tiny> --data <heads> --steps 2 --json <out.json>",
    "torch_utils.ops.build": "cpu",
    "benchmarks.waiting": "--preset <tiny> --turns 1 --json <out.json>",
    "training.checkpoints.publish": "<net> <out.safetensors>",
    "running.report": "<run> <out.html>",
}


# ---- what they are called with ------------------------------------------------------------------------------------


@dataclass
class Material:
    """Inputs by name, and the folder that commands are run in."""

    root: Path
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def cwd(self) -> Path:
        return self.root / "alone" / "here"

    def words(self, call: str) -> list[str]:
        """A line of CALLS with the material's paths; outputs are names with a colon in the present folder."""
        words = []
        for word in CALLS[call].split():
            name, equals, value = word.rpartition("=") if "=<" in word else ("", "", word)
            if value.startswith("<out"):
                value = value[1:-1].replace("out", "a:b")
            elif value.startswith("<"):
                value = str(self.files[value[1:-1]])
            words.append(f"{name}{equals}{value}")
        return words


def make_material(root: Path) -> Material:
    """The smallest inputs with which every command succeeds; all of them are links."""
    import numpy as np
    from animate_support import save_tiny
    from click.testing import CliRunner
    from PIL import Image
    from preparation_support import moving, portrait, write_video
    from training_support import make_dataset

    import pretrain
    from conventions.spaces import ARKIT52
    from metrics.protocols import build_protocol

    real = root / "real"
    for name in ("frames", "sources", "videos"):
        (real / name).mkdir(parents=True)
    make_dataset(real / "heads", space=ARKIT52)
    shutil.copytree(real / "heads", real / "copy")
    save_tiny(real / "net.safetensors")
    Image.fromarray(portrait(256)).save(real / "photo.png")
    write_video(real / "clip.mp4", moving(3))
    write_video(real / "videos" / "v.mp4", moving(9))
    protocol = build_protocol("heads", real / "heads", "p", 1, 1, 2, split=None)
    protocol.save(real / "protocol.json")
    for pair in protocol.pairs:
        Image.fromarray(portrait(32)).save(real / "sources" / f"{pair.id}.png")
        for side in ("clips", "truth"):
            (real / side / pair.id).mkdir(parents=True)
            for i in range(2):
                noise = np.random.default_rng(i).integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(noise).save(real / side / pair.id / f"{i}.png")
    Image.fromarray(portrait(32)).save(real / "frames" / "0.png")
    still = {"format": "export3d-motion", "version": 1, "fps": 25, "seconds": 0.08, "units": {}}
    (real / "motion.json").write_text(json.dumps({**still, "moments": [[0.0, "rest"]]}))
    shutil.copy(ROOT / "configs" / "tiny.yaml", real / "tiny.yaml")
    words = ["--preset", "tiny", "--data", str(real / "heads"), "--out", str(root / "pre")]
    done = CliRunner().invoke(pretrain.main, [*words, "--set", "pretrain.total_steps=1"])
    assert done.exit_code == 0, done.output
    shutil.copy(root / "pre" / "clebs-latest.safetensors", real / "clebs.safetensors")
    shutil.copytree(root / "pre", real / "run")
    material = Material(root)
    (root / "in").mkdir()
    material.cwd.mkdir(parents=True)
    (root / "tmp").mkdir()
    for path in real.iterdir():
        link = root / "in" / path.name
        link.symlink_to(path)
        material.files[path.stem] = link
    material.files["copy"] = real / "copy"  # changed in place
    return material


# ---- parameters that take paths -----------------------------------------------------------------------------------


def inputs_of(command: click.Command) -> list[click.Parameter]:
    return [p for p in command.params if isinstance(p.type, InputPath)]


def outputs_of(command: click.Command) -> list[click.Parameter]:
    return [p for p in command.params if isinstance(p.type, Output)]


def with_value(
    command: click.Command, words: list[str], param: click.Parameter, value: str
) -> list[str]:
    """The call with another value of one parameter, whether it had one or not."""
    if isinstance(param.type, NamedInput):
        value = f"{'arcface' if param.name == 'weights' else 'name'}={value}"
    if isinstance(param, click.Argument):
        place = [p for p in command.params if isinstance(p, click.Argument)].index(param)
        return [*words[:place], value, *words[place + 1 :]]
    option = max(param.opts, key=len)
    if option in words:
        at = words.index(option)
        return [*words[: at + 1], value, *words[at + 2 :]]
    return [*words, option, value]


# ---- the guard ----------------------------------------------------------------------------------------------------

_SOCKETS = ("connect", "bind", "sendto", "sendmsg", "getaddrinfo", "gethostbyname")
_CHILDREN = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.spawn", "os.fork")
NAMED_CHILDREN = ("git", "c++", "g++", "clang++", "ninja", "uname", "ldconfig")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Event -> places of its paths and of the descriptors of the folders that they are relative to.
_CHANGES: dict[str, tuple[tuple[int, ...], tuple[int | None, ...]]] = {
    "os.rename": ((0, 1), (2, 3)),
    "os.link": ((0, 1), (2, 3)),
    "os.remove": ((0,), (1,)),
    "os.rmdir": ((0,), (1,)),
    "os.mkdir": ((0,), (2,)),
    "os.symlink": ((1,), (2,)),
    "os.truncate": ((0,), (None,)),
    "os.chmod": ((0,), (2,)),
}


class Forbidden(Exception):
    """A command did what no command may do."""


class Guard:
    """An audit hook of this process; watches only inside `watching`. What it saw is in `seen`."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._places: list[Path] | None = None
        sys.addaudithook(self._hook)

    @contextmanager
    def watching(self, root: Path, outputs: list[Path], free: list[Path]) -> Iterator[None]:
        """outputs: files and folders that may be written. free: folders of caches and temporary files."""
        self.seen.clear()
        before = tempfile.tempdir
        tempfile.tempdir = str(root / "tmp")
        self._outputs = [Path(os.path.abspath(o)) for o in outputs]
        self._places = [root / "tmp", *free]
        try:
            yield
        finally:
            self._places = None
            tempfile.tempdir = before

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._places is None:
            return
        if event.startswith("socket.") and event.partition(".")[2] in _SOCKETS:
            self._forbid(f"{event} {arguments[1:]!r}")
        elif event in _CHILDREN:
            name = str(arguments[0]).rpartition("/")[2] if arguments else ""
            if name not in NAMED_CHILDREN:
                self._forbid(f"{event} {arguments!r}")
        elif event == "open":
            if arguments[2] and int(arguments[2]) & _WRITING:
                self._write(event, arguments[0])
        elif event in _CHANGES:
            paths, folders = _CHANGES[event]
            for path, folder in zip(paths, folders, strict=True):
                at = -1 if folder is None else arguments[folder]
                self._write(event, arguments[path], at)

    def _write(self, event: str, path: Any, folder: int = -1) -> None:
        if isinstance(path, int) or path is None:  # opened already
            return
        here = os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else os.getcwd()
        place = Path(os.path.normpath(os.path.join(here, os.fsdecode(path))))
        if place.suffix == ".pyc" or place.parent.name == "__pycache__":
            return
        if str(place) in ("/dev/null", "/proc/self/clear_refs"):
            return
        if any(place.is_relative_to(p) for p in self._places or ()):
            return
        for output in self._outputs:
            temporary = place.parent == output.parent and place.name.startswith(
                f".{output.stem[:64]}.tmp-"
            )
            below = f".{output.stem[:64]}.tmp-"
            inside = any(
                p.name.startswith(below) for p in place.parents if p.parent == output.parent
            )
            if place.is_relative_to(output) or temporary or inside:
                return
            if event == "os.mkdir" and output.is_relative_to(place):
                return
        self._forbid(f"{event} {place}")

    def _forbid(self, what: str) -> None:
        self.seen.append(what)
        raise Forbidden(what)


def signature(folder: Path, without: list[Path]) -> dict[str, tuple[int, int, int]]:
    """Size, time and inode of everything below, links not followed."""
    found = {}
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = [f for f in folders if here / f not in without]
        for name in [*folders, *names]:
            status = (here / name).lstat()
            if here / name not in without and name not in folders:
                found[str(here / name)] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return found
