"""Results for a protocol: a network's, the truth, and what costs nothing (the source itself, the blurred truth, the
truth through a resolution)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from conventions.spaces import check_same_space
from dnnlib.errors import UserError
from dnnlib.files import atomic_write, remove_empty, sha256_file
from dnnlib.names import safe_name
from dnnlib.reading.text import read_json
from inference.network import Expressive, Network
from inference.tracked import check_trained_on
from metrics.footage import Footage, Moment
from metrics.protocols import Pair, Protocol
from torch_utils import distributed

BASELINES = ("truth", "copy", "blur", "floor")  # floor: PX behind a colon
MIN_FLOOR_PX = 8
BLUR_SHARE = 1 / 64  # radius of the blurred truth, widths of the picture
CLAIM = "generated.json"  # in every folder that is made here: what it was made of
# 2: networks are given the source's own beta, and its crop at their own resolution; 3: with its detail
CLAIM_VERSION = 3


@dataclass(frozen=True)
class Method:
    """Makes frames of a pair: a baseline's name, or a network."""

    name: str  # of the record
    network: Network | None = None
    sha256: str = ""
    floor_px: int = 0  # of the method `floor`

    @classmethod
    def load(cls, what: str, device: str = "auto", overrides: tuple[str, ...] = ()) -> Method:
        """`truth`, `copy`, `blur`, `floor:PX`, or the path of a checkpoint. Raises UserError for anything else."""
        kind, _, pixels = what.partition(":")
        if kind == "floor":
            if not pixels.isdigit() or int(pixels) < MIN_FLOOR_PX:
                raise UserError(
                    f"the method {what} names no resolution; give floor:PX with the network's, for example floor:128"
                )
            return cls(what, floor_px=int(pixels))
        if what in BASELINES:
            return cls(what)
        path = Path(what)
        # a score must not depend on what the machine multiplies fast
        network = Network.load(path, device, "fp32", overrides)
        return cls(path.name, network, f"{sha256_file(path)} {' '.join(overrides)}".strip())

    def frames(self, source: Moment, driving: Iterator[Moment]) -> Iterator[np.ndarray]:
        """Frames uint8 [H, W, 3] of a pair, one at a time."""
        if self.network is not None:
            yield from _animated(self.network, source, driving)
            return
        for moment in driving:
            if self.floor_px:
                yield resized(moment.crop, min(self.floor_px, len(moment.crop)))
            elif self.name == "blur":
                picture = Image.fromarray(moment.crop)
                radius = picture.width * BLUR_SHARE
                yield np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)))
            else:
                yield source.crop if self.name == "copy" else moment.crop


def _animated(network: Network, source: Moment, driving: Iterator[Moment]) -> Iterator[np.ndarray]:
    crop = resized(source.crop, network.crop_size(len(source.crop)))
    head = Expressive(network, network.encode(crop, source.camera, source.beta))
    for moment in driving:
        yield head.frame(moment.beta, moment.camera).image


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, H, 3] at another resolution, Lanczos."""
    if image.shape[0] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))


def generate(
    method: Method,
    protocol: Protocol,
    footage: Footage,
    out: Path,
    say: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Write the frames of every pair to `out`/PAIR/00000.png; returns failures.

    Pairs that are there already are kept, so the same command goes on where it was stopped. A pair that cannot be
    made (no face, a missing clip) is a failure and leaves no folder. In a process group the pairs are shared.

    Raises:
        UserError: `out` holds results of another method, protocol, data or tracker, or expression space, crop or
            tracker are not the network's.
    """
    if method.network is not None:
        network = method.network
        check_same_space(network.space, footage.space, f"{network.name} and the data")
        check_trained_on(network, footage.crop, footage.tracker)
    if distributed.is_main():
        _claim(out, _record(protocol, footage, method))
    distributed.barrier()
    failures = []
    mine = protocol.pairs[distributed.rank() :: distributed.world_size()]
    for i, pair in enumerate(mine):
        if (out / safe_name(pair.id, "the protocol")).is_dir():
            continue
        try:
            n = _write(method, pair, footage, out, protocol.resolution)
            say(f"{method.name} {pair.id}: {n} frames ({i + 1} of {len(mine)})")
        except UserError as error:
            failures.append(f"{pair.id}: {error}")
    return _gathered(failures)


def _gathered(failures: list[str]) -> list[str]:
    """Those of all processes; also waits for them."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return failures
    parts: list[list[str]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, failures)
    return sorted(line for part in parts for line in part)


def _record(protocol: Protocol, footage: Footage, method: Method | None) -> dict[str, Any]:
    """What decides the pictures of a folder; method None: the sources."""
    tracker = dict(footage.tracker)
    if (method is None or method.network is None) and "landmarks" in tracker:
        tracker = {"landmarks": tracker["landmarks"]}  # the expression is not looked at
    clips = sorted({clip for pair in protocol.pairs for clip in (pair.source, pair.driving)})
    return {
        "version": CLAIM_VERSION,
        "method": "source" if method is None else method.name,
        "sha256": "" if method is None else method.sha256,
        "protocol": protocol.sha256,
        "tracker": tracker,
        "data": {clip: footage.fingerprint(clip) for clip in clips},
    }


def _foreign(out: Path, record: Mapping[str, Any]) -> str | None:
    """What speaks against going on in `out`, or None. A clip that was missing before may be there now."""
    try:
        if not os.path.lexists(out / CLAIM):
            return "is not empty" if out.is_dir() and any(out.iterdir()) else None
        found = read_json(out / CLAIM)
        known = dict(found.pop("data"))
    except (UserError, ValueError, KeyError, TypeError):
        return "holds no readable record of what it was made of"
    if found.get("version") != record["version"]:
        return "was made by another version"
    if any(found.get(key) != value for key, value in record.items() if key != "data"):
        return "holds results of another method or protocol, or of another tracker"
    for clip, mark in record["data"].items():
        if known.get(clip) not in (None, mark):
            return f"was made from other data (the clip {clip} was another)"
    return None


def drop_claim(out: Path) -> None:
    """Remove what `generate` noted in a folder in which nothing was made, and the folder when it is empty then."""
    (out / CLAIM).unlink(missing_ok=True)
    remove_empty([out])


def _claim(out: Path, record: dict[str, Any]) -> None:
    if (reason := _foreign(out, record)) is not None:
        raise UserError(f"{out} {reason}; choose another folder, or remove it to make it anew")
    place, text = out / CLAIM, json.dumps(record)
    if not place.is_file() or place.read_text(encoding="utf-8") != text:
        with atomic_write(place, "w") as file:
            file.write(text)


def discard_stale(protocol: Protocol, footage: Footage, ref: Path, source: Path) -> None:
    """Remove references and sources that `generate` and `source_folder` would refuse to go on with."""
    for out, method in ((ref, Method("truth")), (source, None)):
        if _foreign(out, _record(protocol, footage, method)) is not None:
            shutil.rmtree(out)


def _write(method: Method, pair: Pair, footage: Footage, out: Path, size: int) -> int:
    temporary = out / f".{safe_name(pair.id, 'the protocol')}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        n = 0
        # a network sees what it sees of a user's photo: its own resolution, and where it can the detail beyond
        seen = None if method.network is None else method.network.crop_size(size)
        source = footage.source(pair, seen)
        for n, frame in enumerate(method.frames(source, footage.driving(pair)), start=1):
            Image.fromarray(resized(frame, size)).save(temporary / f"{n - 1:05d}.png")
        if n == 0:
            raise UserError(
                f"{pair.driving} has no frame {pair.start}; use the protocol's own data"
            )
        temporary.rename(out / pair.id)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return n


def source_folder(protocol: Protocol, footage: Footage, out: Path) -> Path:
    """Write the source picture of every pair to `out`/PAIR.png and return `out`; pairs without a face are left out.

    Raises:
        UserError: `out` holds sources of another protocol, data or tracker, or something else.
    """
    if distributed.is_main():
        _claim(out, _record(protocol, footage, None))
    distributed.barrier()
    for pair in protocol.pairs[distributed.rank() :: distributed.world_size()]:
        place = out / f"{safe_name(pair.id, 'the protocol')}.png"
        if not place.is_file():
            with suppress(UserError), atomic_write(place, "wb") as file:
                image = resized(footage.source(pair).crop, protocol.resolution)
                Image.fromarray(image).save(file, format="PNG")
    distributed.barrier()
    return out
