"""The judge of `mutations.py`: what is wrong with how a command ended, and with what it left."""

from __future__ import annotations

import json
import re
import traceback
from pathlib import Path
from typing import Any

from mutation_bench import Call

MAX_SENTENCE = 700  # characters
# What only its author understands.
_JARGON = re.compile(
    r"NoneType|index out of|object is not|has no attribute|unhashable|invalid literal|could not convert"
    r"|unsupported operand|subscriptable|codec can't|positional argument|Errno|cannot unpack|values to unpack"
    r"|__\w+__|<class|\bndarray\b|must be real number|'(?:str|int|float|dict|list)'|Error\b.*Error\b|\bdtype\("
)


# What may be left by a command that fails, below its output a:b: frames that were made before another input was looked
# at, which the same command takes up again; and the report that the sentence names, with what it was made of.
_KEPT_FRAMES = re.compile(r"a:b(/frames(/.*)?)?$")
_REPORT = re.compile(r"a:b(/report\.(json|html)|/videos(/(\d+|list)\.(json|jpg))?)?$")


def left_over(command: str, said: str, here: Path, names: set[str]) -> set[str]:
    """What a command that failed has put beside `names` and should not have."""
    left = names_in(here) - names
    left = {n for n in left if not (n.startswith("a:b") and "/.lock" in n and "a:b" in names)}
    if command in ("train", "pretrain") and has_begun(here / "a:b"):
        left = {n for n in left if not n.startswith("a:b")}
    if command in ("calc_metrics table", "calc_metrics follow"):
        left = {n for n in left if not _KEPT_FRAMES.match(n)}
    if command == "dataset_tool validate" and "has the problems listed above" in said:
        left.discard("a:b.png")  # the contact sheet, which shows them
    if "report.html tells the reason" in said:
        left = {n for n in left if not _REPORT.match(n)}
    return left


def has_begun(run: Path) -> bool:
    """Whether the folder of a run is that of a training which came to its first step, and says how it ended."""
    try:
        starts = json.loads((run / "record.json").read_text(encoding="utf-8"))["starts"]
        return bool(starts[-1]["ended"]["how"]) and (run / "stats.jsonl").is_file()
    except (OSError, ValueError, LookupError, TypeError):
        return False


def judged(result: Any, call: Call) -> tuple[str, list[str]]:
    """The sentence, and what is wrong with how the command ended."""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        frames = traceback.extract_tb(result.exc_info[2])[-4:]
        way = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames))
        return "", [
            f"traceback: {type(result.exception).__name__} {result.exception!s:.200} ({way})"
        ]
    lines = [line for line in result.output.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("Error: ")]
    if result.exit_code == 0:
        faults = ["accepted, but cannot be right"] if call.must_fail else []
        return lines[-1] if lines else "", faults + (["an error, but status 0"] if said else [])
    if len(said) != 1 or lines[-1] != said[0] or "Traceback" in result.output:
        return "", [f"status {result.exit_code} with {len(said)} sentences: {result.output[-800:]}"]
    faults = [] if result.exit_code in (1, 2) else [f"status {result.exit_code}"]
    if _JARGON.search(said[0]):
        faults.append("the program's own words")
    if "not enough memory" in said[0] and not call.may_be_large:
        faults.append("memory was taken before the input was looked at")
    if len(said[0]) > MAX_SENTENCE:
        faults.append(f"a sentence of {len(said[0])} characters")
    return said[0], faults


def unsound(folder: Path) -> list[str]:
    """Written files that no other program would read."""

    def refuse(text: str) -> None:
        raise ValueError(text)

    found = []
    for path in folder.rglob("*.json"):
        try:
            if path.is_file():
                json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
        except (ValueError, OSError) as error:
            found.append(f"{path.relative_to(folder)} is no JSON: {error}")
    return found


def names_in(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*")}
