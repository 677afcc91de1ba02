"""Where a run comes from, as record.json tells it: command line, versions, git, device, and each of its starts."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dnnlib import UserError
from dnnlib.reading.text import read_json
from running.parameters import parameter_table
from running.steps import count_parameters
from torch_utils import distributed

_TIME = "%Y-%m-%dT%H:%M:%S%z"
_PACKAGES = ("torch", "torchvision", "numpy", "safetensors", "pillow")


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
        "modules": parameter_table(modules),
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
        "time": now(),
        "command": [sys.executable, *sys.argv],
        "host": platform.node(),
        "versions": versions,
        "git": git_revision(),
    }


def now() -> str:
    """Local time and its distance from UTC, as record.json tells times."""
    return time.strftime(_TIME)


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


def read_starts(path: Path) -> list[dict[str, Any]]:
    """The starts of a run as record.json tells them, the newest last; none without the file.

    Raises:
        UserError: the file is damaged.
    """
    if not path.is_file():
        return []
    advice = "move it away; it is not needed to go on"
    starts = read_json(path, advice, finite=False).get("starts")
    if not isinstance(starts, list) or not all(isinstance(s, dict) for s in starts):
        raise UserError(f"{path} has no list of starts; {advice}")
    return starts
