"""The run directory: configuration, provenance, statistics, pictures, progress.

config.yaml                the whole configuration
record.json                one entry for every start: command line, versions, git, device, data, loss networks
stats.jsonl                one line a logged step
events.out.tfevents.*      the same for TensorBoard
images/000001000.png       source | driving | raw | final | depth
network-000008000.safetensors, network-latest.safetensors    averaged weights and what is needed to use them
state-000001000.safetensors                                  everything needed to go on
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from torch import nn

from dataset.frames import FrameDataset
from dnnlib import UserError, atomic_path, atomic_write, save_yaml
from dnnlib.config import read_config
from dnnlib.typed import flat
from torch_utils import distributed
from torch_utils.train_state import latest_train_state
from training.config import Config
from training.steps import count_parameters

_PACKAGES = ("torch", "torchvision", "numpy", "safetensors", "pillow")
# They change what is written or how fast, or how long the run goes on, but not the steps already taken.
FREE_KEYS = frozenset(
    {
        "name",
        "data.path",
        "data.num_workers",
        "train.total_images",
        "train.lr_decay_images",
        "train.log_every",
        "train.image_every",
        "train.save_every",
        "train.keep_last",
        "train.eval_every",
        "train.eval_pairs",
        "train.protocol",
        "pretrain.total_steps",
        "pretrain.log_every",
        "pretrain.save_every",
        "pretrain.keep_last",
    }
)


def differing_keys(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) wherever two configurations differ."""
    a, b = flat(old), flat(new)
    return [(key, a[key], b[key]) for key in a if a[key] != b[key]]


class RunDirectory:
    """The folder of one run; only the main process makes one."""

    def __init__(self, path: Path, config: Config) -> None:
        """Make or reopen the folder.

        Raises:
            UserError: it holds a run of another configuration, or another process trains in it at this moment.
        """
        self.path = path
        self.check(path, config)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = open(path / ".lock", "w", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise UserError(
                f"the run directory {path} cannot be written ({error.strerror}); choose another --out"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"another process is training in {path}; wait for it or choose another --out"
            ) from error
        save_yaml(config, path / "config.yaml")
        self._stats: IO[str] | None = None
        self._board: Any = None

    @staticmethod
    def check(path: Path, config: Config) -> None:
        """Refuse a folder whose run has another configuration; touches nothing.

        Raises:
            UserError: names the first differing key.
        """
        if path.exists() and not path.is_dir():
            raise UserError(f"--out {path} is a file; give a folder")
        if not (path / "config.yaml").is_file():
            if latest_train_state(path) is not None:
                raise UserError(
                    f"{path} holds training states but no config.yaml; choose another --out"
                )
            return
        old = read_config(Config, path / "config.yaml")
        if not (differing := [d for d in differing_keys(old, config) if d[0] not in FREE_KEYS]):
            return
        if latest_train_state(path) is None:  # nothing was computed that could be mixed up
            return
        key, was, now = differing[0]
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise UserError(
            f"{path} holds a run with {key}={was!r} but this command asks for {now!r}{more}; "
            "choose another --out or repeat the command of that run"
        )

    def record_start(self, facts: Mapping[str, Any]) -> None:
        """Append an entry to record.json: this start's command line, versions and `facts`."""
        path = self.path / "record.json"
        starts = json.loads(path.read_text(encoding="utf-8"))["starts"] if path.is_file() else []
        starts.append({**provenance(), **facts})
        with atomic_write(path, "w") as file:
            json.dump({"starts": starts}, file, indent=1)

    def begin(self, step: int) -> None:
        """Open the statistics; what a killed process wrote about later steps is dropped."""
        from torch.utils.tensorboard import SummaryWriter  # here: slow to import

        path = self.path / "stats.jsonl"
        if path.is_file():
            with open(path, encoding="utf-8") as file:
                kept = [line for line in file if _step_of(line) <= step]
            with atomic_write(path, "w") as out:
                out.writelines(kept)
        self._stats = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._board = SummaryWriter(str(self.path), purge_step=step + 1 if step else None)

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """One line of stats.jsonl; numbers go to TensorBoard too."""
        assert self._stats is not None, "begin() first"
        self._stats.write(json.dumps({"step": step, **values}) + "\n")
        self._stats.flush()
        for name, value in values.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self._board.add_scalar(name, value, step)

    def image(self, step: int, name: str, grid: npt.NDArray[np.uint8]) -> None:
        """A picture [H, W, 3]: images/<step>.png and TensorBoard."""
        with atomic_path(self.path / "images" / f"{step:09d}.png") as temporary:
            Image.fromarray(grid).save(temporary)
        self._board.add_image(name, grid, step, dataformats="HWC")

    def publish(self, path: Path, latest: str) -> None:
        """Make the file called `latest` the same as `path`."""
        with atomic_path(path.with_name(latest)) as temporary:
            try:
                os.link(path, temporary)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, temporary)

    def prune(self, prefix: str, keep_last: int) -> None:
        """Delete all but the newest `keep_last` files <prefix>-<number>.safetensors, and what kills left over."""
        for old in sorted(self.path.glob(f"{prefix}-[0-9]*.safetensors"))[:-keep_last]:
            old.unlink(missing_ok=True)
        for leftover in self.path.glob(f".{prefix}-*.tmp-*"):
            leftover.unlink(missing_ok=True)

    def close(self) -> None:
        if self._stats is not None:
            self._stats.close()
            self._board.close()
        self._lock.close()


class ProgressLine:
    """A bar with the time left and images per second in a terminal, a plain line now and then elsewhere."""

    def __init__(self, total: int, done: int, unit: str = "images", quiet: bool = False) -> None:
        self.total, self.unit, self.quiet = total, unit, quiet
        self._start_time, self._start_done = time.monotonic(), done
        self._bar: Progress | None = None
        if not quiet and sys.stderr.isatty():
            from rich.console import Console  # here: slow to import

            self._bar = Progress(
                MofNCompleteColumn(),
                TextColumn(unit),
                BarColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=total, completed=done)

    def rate(self, done: int) -> float:
        """Images per second since the start of this process."""
        return (done - self._start_done) / max(time.monotonic() - self._start_time, 1e-9)

    def update(self, done: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def report(self, done: int, text: str) -> None:
        """Show `text` beside the progress."""
        rate = self.rate(done)
        if self._bar is not None:
            description = f"{rate:.1f} {self.unit}/s  {text}"
            self._bar.update(self._task, completed=done, description=description)
        elif not self.quiet:
            left = _clock((self.total - done) / rate) if rate else "?"
            line = f"{done}/{self.total} {self.unit}  {rate:.1f}/s  {left} left  {text}"
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def start_facts(
    step: int, total_steps: int, device: torch.device, modules: Mapping[str, nn.Module]
) -> dict[str, Any]:
    """What a start is made of: where in the run, on what, and how large."""
    return {
        "step": step,
        "total_steps": total_steps,
        "device": str(device),
        "processes": distributed.world_size(),
        "threads": torch.get_num_threads(),
        "parameters": {name: count_parameters(module) for name, module in modules.items()},
    }


def data_facts(dataset: FrameDataset) -> dict[str, Any]:
    """Which data a run sees."""
    return {
        "path": str(dataset.path),
        "n_clips": len(dataset.clips),
        "n_train_clips": len(dataset.clips_of("train")),
        "n_frames": len(dataset),
        **{k: v for k, v in dataset.spec.to_dict().items() if k != "expression"},
    }


def provenance() -> dict[str, Any]:
    """Command line, time, versions and git revision of this process."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "?"
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [sys.executable, *sys.argv],
        "host": platform.node(),
        "versions": versions,
        "git": git_revision(),
    }


def git_revision() -> str:
    """Hash of the checked-out commit, with "-dirty" when tracked files were changed; "unknown" without git."""
    root = Path(__file__).resolve().parents[1]
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return run.stdout.strip()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut short by a kill


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
