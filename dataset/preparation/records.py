"""The record of a finished video, `videos/00000.json`, as it is read again: whole, or none.

A record whose values are of another kind is one that was never written: the video is prepared anew.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dataset.preparation.video import record_path
from dataset.spec import SPLITS
from dnnlib.errors import UserError
from dnnlib.reading.text import read_json
from dnnlib.typed import from_dict


@dataclass(frozen=True)
class _Clip:
    """What is looked at of a clip."""

    name: str
    split: str
    identity: int
    frames: int
    face_px: float
    sharpness: float
    fit: float
    jitter_px: tuple[float, float]

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"there is no split {self.split!r}")


@dataclass(frozen=True)
class _Record:
    number: int
    name: str
    identity: str
    fingerprint: str
    status: str
    problem: str
    notes: list[str]
    width: int
    height: int
    fps: float
    shots: int
    frames: int
    kept: int
    rejected: dict[str, int]
    clips: list[dict[str, Any]]


def read_record(dest: Path, number: int) -> dict[str, Any] | None:
    """The record of a finished source, None when there is none, or none that is whole."""
    try:
        record = read_json(record_path(dest, number))
        _check(_Record, record)
        for clip in record["clips"]:
            _check(_Clip, clip)
    except UserError:
        return None
    return record if record["number"] == number else None


def _check(cls: type, values: dict[str, Any]) -> None:
    known = {field.name for field in fields(cls)}
    from_dict(cls, {key: value for key, value in values.items() if key in known})
