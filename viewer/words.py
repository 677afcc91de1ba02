"""The command line that makes what a visitor sees."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from inference.looks import Look
from inference.options import NetworkChoice
from inference.steering import Steer


def show_command(words: Sequence[str], out: str) -> str:
    """`python gen_videos.py show ...`, quoted for a shell."""
    return shlex.join(["python", "gen_videos.py", "show", *words, "-o", out])


def driver_words(driver: str, steer: Steer, frame: int) -> list[str]:
    """The options of a driver, of what is taken over, and of one of its frames."""
    words = ["-d", driver, *_steer_words(steer)]
    return [*words, "--frame", str(frame)] if frame else words


def network_words(choice: NetworkChoice) -> list[str]:
    """The options of a network that were not left at their defaults."""
    words = []
    for field in fields(choice):
        value = getattr(choice, field.name)
        declared = field.metadata["option"]
        if callable(declared):  # shared with other commands
            if field.name == "overrides":
                words += [word for given in value for word in ("--set", given)]
            elif value != "auto":
                words += [f"--{field.name}", str(value)]
        elif value and value != field.default:
            flag = declared["flag"].split()[-1]
            words += [flag] if value is True else [flag, _shown(value)]
    return words


def _steer_words(steer: Steer) -> list[str]:
    words = ["--relative"] if steer.relative else []
    if steer.strength != 1:
        words += ["--strength", f"{steer.strength:g}"]
    if steer.regions:
        words += ["--region", ",".join(steer.regions)]
    return words


def look_words(look: Look) -> list[str]:
    """The options of what is added and shown."""
    words = [w for name, amount in look.units for w in ("--unit", f"{name}={amount:g}")]
    words += [w for i, amount in look.directions for w in ("--along", f"v{i + 1}={amount:g}")]
    for flag, degrees in (("--yaw", look.yaw_deg), ("--pitch", look.pitch_deg)):
        words += [flag, f"{degrees:g}"] if degrees else []
    return words if look.kind == "image" else [*words, "--show", look.kind]


def _shown(value: object) -> str:
    return str(short_path(value)) if isinstance(value, Path) else str(value)


def short_path(path: Path) -> Path:
    """A path from here, where it lies below."""
    path = path.absolute()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
