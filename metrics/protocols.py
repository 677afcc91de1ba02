"""Protocols: which frame of which clip is animated by which frames of which other, in a file that can be handed on.

{"format": "export3d-protocol", "version": 1, "name": "vfhq-same-cross", "layout": "vfhq", "seed": 0, "resolution": 256,
 "crop": {"name": "eg3d-wild", "version": 1},
 "pairs": [{"id": "same-0000", "mode": "same", "source": "clip", "source_frame": 0,
            "driving": "clip", "start": 1, "count": 50, "step": 1}, ...]}

Clips are paths inside the data folder, or names of clips of a dataset of this project (layout "heads").
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from conventions.crop import CROP_NAME, CROP_VERSION
from dataset.reader import open_dataset
from dnnlib.errors import UserError
from dnnlib.files import write_json
from dnnlib.listing import is_image, is_video, listed
from dnnlib.names import safe_name, safe_path
from dnnlib.reading.text import read_json
from dnnlib.typed import from_dict

FORMAT, VERSION = "export3d-protocol", 1
MODES = ("same", "cross")
LAYOUTS = ("heads", "folder", "vfhq", "voxceleb1", "talkinghead1kh")
# Where a clip's path says who is seen. VFHQ: Clip+VIDEO+P1+C0+F100-200. VoxCeleb1: id10001/VIDEO/00001.mp4, or
# id10001#VIDEO#START#END.mp4 of the usual preprocessing. TalkingHead-1KH: VIDEO_0000_S0_E271_L504_T63_R792_B351.mp4,
# where VIDEO stands for the person.
_IDENTITY = {
    "vfhq": re.compile(r"(?:^|/)Clip\+(?P<who>[^/]+\+P\d+)\+C\d+[^/]*$"),
    "voxceleb1": re.compile(r"(?:^|/)(?P<who>id\d{5})[#/]"),
    "talkinghead1kh": re.compile(
        r"(?:^|/)(?P<who>[^/]+)_\d{4}_S\d+_E\d+_L\d+_T\d+_R\d+_B\d+[^/]*$"
    ),
    "folder": re.compile(r"(?P<who>.+)"),
}


MOST_FRAMES = 10_000_000  # of a clip
MOST_PIXELS = 4096  # a side


@dataclass(frozen=True)
class Pair:
    """One clip of results: a source frame animated by a driving clip."""

    id: str  # names the folder of the result
    mode: str  # "same" | "cross" identity
    source: str  # clip
    source_frame: int
    driving: str  # clip
    start: int = 1  # first driving frame
    count: int = 50  # at most so many
    step: int = 1


@dataclass(frozen=True)
class Protocol:
    """What is compared; see the module."""

    name: str
    layout: str
    seed: int
    resolution: int  # pixels, of everything that is compared
    pairs: tuple[Pair, ...]
    crop: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        values = {**asdict(self), "pairs": [asdict(p) for p in self.pairs]}
        return {"format": FORMAT, "version": VERSION, **values, "crop": dict(self.crop)}

    @property
    def sha256(self) -> str:
        """Of the content, whatever the file's spacing."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def ids(self, mode: str) -> list[str]:
        """Names of the clips of a mode."""
        return [p.id for p in self.pairs if p.mode == mode]

    def record(self) -> dict[str, Any]:
        """What is printed with scores."""
        return {
            "protocol": self.name,
            "sha256": self.sha256,
            "seed": self.seed,
            "resolution": self.resolution,
            "crop": f"{self.crop.get('name')} {self.crop.get('version')}",
        }

    def save(self, path: Path) -> None:
        write_json(path, self.to_dict())


def load_protocol(path: Path) -> Protocol:
    """Read a protocol.

    Raises:
        UserError: the file is missing or is no protocol.
    """
    values = read_json(path, "make it with calc_metrics.py protocol")
    if values.pop("format", None) != FORMAT:
        raise UserError(f"{path} is not a protocol; make one with calc_metrics.py protocol")
    if (version := values.pop("version", None)) != VERSION:
        raise UserError(f"{path} has protocol version {version!r}; this program reads {VERSION}")
    try:
        protocol = from_dict(Protocol, values)
        pairs = tuple(_checked(pair, protocol.layout) for pair in protocol.pairs)
        _whole(protocol.seed, "seed", 2**63)
        if _whole(protocol.resolution, "resolution", MOST_PIXELS) < 8:
            raise ValueError(f"resolution {protocol.resolution} is below 8")
        safe_name(protocol.name, "the protocol")
        if protocol.layout not in LAYOUTS:
            raise ValueError(f"layout is {protocol.layout!r}, none of {', '.join(LAYOUTS)}")
    except (ValueError, UserError) as error:
        raise UserError(f"{path} is not a complete protocol ({error}); make it again") from error
    if len({p.id for p in pairs}) < len(pairs) or not pairs:
        raise UserError(f"{path} has no pairs or uses an id twice; make it again")
    return protocol


def _whole(value: Any, what: str, most: int) -> int:
    """A whole number from 0 to `most`; JSON also writes fractions, NaN and infinity. Raises ValueError."""
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{what} is {value!r}, no whole number from 0 to {most}")
    return value


def _checked(pair: Pair, layout: str) -> Pair:
    """A pair whose numbers are in range and whose names stay inside the folders that they are joined to."""
    for name in ("source_frame", "start", "count", "step"):
        _whole(getattr(pair, name), f"{name} of {pair.id}", MOST_FRAMES)
    safe_name(pair.id, "a pair")
    if layout != "heads":  # there a clip is a name in an index, no path
        safe_path(pair.source, f"the source of {pair.id}")
        safe_path(pair.driving, f"the driving clip of {pair.id}")
    if pair.mode not in MODES or min(pair.source_frame, pair.start) < 0:
        raise ValueError(f"pair {pair.id}: mode {pair.mode!r} or a negative frame")
    if min(pair.count, pair.step) < 1 or not re.fullmatch(r"[\w.+-]+", pair.id):
        raise ValueError(f"pair {pair.id!r}: count, step or characters of the id")
    return pair


# ---- builders ----------------------------------------------------------------------------------------------------


def build_protocol(
    layout: str,
    data: Path,
    name: str,
    n_same: int = 50,
    n_cross: int = 50,
    n_frames: int = 50,
    step: int = 1,
    resolution: int = 256,
    seed: int = 0,
    split: str | None = "test",  # of layout "heads"
) -> Protocol:
    """Draw pairs: same-identity clips in random order; cross pairs of clips of two people. Frame 0 is the source.

    Deterministic by seed and the clips' names. With fewer clips than pairs asked for, same-identity pairs are as many
    as clips; each clip drives several cross pairs, every time another source, until there is no other: a pair that
    came twice would count as two independent clips in the intervals.

    Raises:
        UserError: no clips of this layout, or one person only for cross pairs.
    """
    clips = dataset_clips(data, split) if layout == "heads" else file_clips(layout, data)
    names = list(clips)
    rng = np.random.default_rng(seed)
    order = [names[i] for i in rng.permutation(len(names))]
    pairs = [
        Pair(f"same-{i:04d}", "same", clip, 0, clip, 1, n_frames, step)
        for i, clip in enumerate(order[:n_same])
    ]
    if n_cross and len(set(clips.values())) < 2:
        raise UserError(f"{data} shows one person, cross-identity pairs need two; give --cross 0")
    clips_of = Counter(clips.values())
    n_cross = min(n_cross, sum(len(names) - clips_of[who] for who in clips.values()))
    taken: dict[str, set[str]] = {driving: set() for driving in order}
    cross: list[Pair] = []
    for driving in cycle(order):
        if len(cross) == n_cross:
            break
        others = [c for c in names if clips[c] != clips[driving] and c not in taken[driving]]
        if others:
            source = others[int(rng.integers(len(others)))]
            taken[driving].add(source)
            pair_id = f"cross-{len(cross):04d}"
            cross.append(Pair(pair_id, "cross", source, 0, driving, 0, n_frames, step))
    crop = {"name": CROP_NAME, "version": CROP_VERSION}
    if layout == "heads":
        resolution = open_dataset(data).resolution
    return Protocol(name, layout, seed, resolution, (*pairs, *cross), crop)


def dataset_clips(data: Path, split: str | None) -> dict[str, int]:
    """Name -> identity of the clips of a dataset with at least two frames."""
    dataset = open_dataset(data)
    rows = [dataset.clips[i] for i in dataset.clips_of(split)]
    found = {r["name"].decode(): int(r["identity"]) for r in rows if r["n_frames"] > 1}
    if not found:
        raise UserError(f"{data} has no clip of two frames in the split {split}; take another")
    return found


def file_clips(layout: str, data: Path) -> dict[str, str]:
    """Path inside `data` -> person, for videos and folders of frames, in natural order.

    Raises:
        UserError: there are no clips, or none whose path follows the layout.
    """
    if layout not in _IDENTITY:
        raise UserError(f"there is no layout {layout!r}; use one of {', '.join(LAYOUTS)}")
    if not data.is_dir():
        raise UserError(f"{data} is not a folder; give the folder with the clips")
    found: dict[str, str] = {}
    for path in _clips_below(data):
        relative = path.relative_to(data).as_posix()
        if match := _IDENTITY[layout].search(relative):
            found[relative] = match["who"]
    if not found and layout == "folder":
        raise UserError(f"{data} holds no videos and no folders of frames; give a folder of clips")
    if not found:
        raise UserError(f"{data} holds no clips named as {layout} names them; see docs/metrics.md")
    return found


def _clips_below(folder: Path) -> list[Path]:
    found = []
    for entry in listed(folder):
        if entry.is_dir():
            holds_frames = any(map(is_image, listed(entry)))
            found += [entry] if holds_frames else _clips_below(entry)
        elif is_video(entry):
            found.append(entry)
    return found
