"""Results for a protocol: a network's, the truth, and what costs nothing (the source itself, the blurred truth)."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from typing import Protocol as Interface

import numpy as np
import torch
from PIL import Image, ImageFilter

from dnnlib.errors import UserError
from dnnlib.files import atomic_write, sha256_file
from dnnlib.names import inside, safe_name
from dnnlib.reading.pictures import read_picture
from inference.network import Network
from inference.pictures import open_pictures
from metrics.protocols import Pair, Protocol
from tracking.media import DEFAULT_FPS, Frame, VideoReader
from training.expression.spaces import ExpressionSpace, check_same_space

if TYPE_CHECKING:
    from training.data.dataset import FrameDataset

BASELINES = ("truth", "copy", "blur")
BLUR_SHARE = 1 / 64  # radius of the blurred truth, widths of the picture
CLAIM = "generated.json"  # in every folder that is made here: what it was made of


class Moment(NamedTuple):
    """One tracked frame."""

    crop: np.ndarray  # uint8 [H, W, 3]
    beta: np.ndarray  # float32 [D]
    camera: np.ndarray  # float32 [25]


class Footage(Interface):
    """Tracked frames of the clips of a data folder."""

    space: ExpressionSpace
    tracker: Mapping[str, Any]  # what cropped the frames, and what measured their expression

    def fingerprint(self, clip: str) -> str | None:
        """Another one when the clip's frames are others; None: there is no such clip."""
        ...

    def source(self, pair: Pair) -> Moment: ...

    def driving(self, pair: Pair) -> Iterator[Moment]: ...


class HeadsFootage:
    """A dataset of this project: crops and labels are there."""

    def __init__(self, path: Path) -> None:
        from training.data.dataset import open_dataset

        self.dataset: FrameDataset = open_dataset(path)
        if self.dataset.space is None:
            raise UserError(f"{path} has no expression parameters; make it with dataset_tool.py")
        self.space = self.dataset.space
        self.tracker: Mapping[str, Any] = self.dataset.spec.tracker
        self._clips = {row["name"].decode(): row for row in self.dataset.clips}

    def _frames(self, clip: str) -> range:
        if clip not in self._clips:
            raise UserError(
                f"{self.dataset.path} has no clip {clip!r}; use the protocol's own data"
            )
        row = self._clips[clip]
        return range(int(row["first_frame"]), int(row["first_frame"]) + int(row["n_frames"]))

    def fingerprint(self, clip: str) -> str | None:
        """Of the labels and sizes of all frames and the bytes of the first, wherever the dataset lies."""
        if clip not in self._clips:
            return None
        at = self._frames(clip)
        rows = self.dataset.frames[at.start : at.stop]
        digest = hashlib.sha256()
        with suppress(UserError):  # damaged: the pairs of this clip will say so
            digest.update(self.dataset.encoded(at.start) if len(rows) else b"")
        for name in ("image_size", "camera", "beta"):
            digest.update(np.ascontiguousarray(rows[name]).tobytes())
        return digest.hexdigest()[:16]

    def _moment(self, i: int) -> Moment:
        image = np.ascontiguousarray(self.dataset.image(i).transpose(1, 2, 0))
        return Moment(image, self.dataset.beta(i), self.dataset.camera(i))

    def source(self, pair: Pair) -> Moment:
        frames = self._frames(pair.source)
        if pair.source_frame >= len(frames):
            raise UserError(f"the clip {pair.source} has no frame {pair.source_frame}")
        return self._moment(frames[pair.source_frame])

    def driving(self, pair: Pair) -> Iterator[Moment]:
        for i in self._frames(pair.driving)[pair.start :: pair.step][: pair.count]:
            yield self._moment(i)


class FileFootage:
    """Videos and folders of frames, tracked as `gen_videos.py` tracks them; labels are smoothed over the clip."""

    def __init__(
        self, path: Path, size: int, space: str = "arkit52", weights: Path | None = None
    ) -> None:
        from tracking.tracker import Tracker

        self.path, self.size = path, size
        self._tracker = Tracker(space, weights)
        self.space = self._tracker.space
        crop = {"landmarks": self._tracker.landmarker.hash}
        self.tracker: Mapping[str, Any] = {**crop, **self._tracker.record}

    def fingerprint(self, clip: str) -> str | None:
        """Of names, sizes and times of the clip's files: a video is not read twice."""
        path = inside(self.path, clip, "the protocol")
        if not path.exists():
            return None
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        files = [f for f in files if f.is_file() and f.name[0] != "."]
        facts = [(f.name, (s := f.stat()).st_size, s.st_mtime_ns) for f in files]
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def _clip(self, name: str) -> Path:
        path = inside(self.path, name, "the protocol")
        if not path.exists():
            raise UserError(f"{path} does not exist; use the protocol's own data")
        return path

    def source(self, pair: Pair) -> Moment:
        frames = open_pictures(self._clip(pair.source)).frames()
        image = next(islice(frames, pair.source_frame, None), None)
        name = f"frame {pair.source_frame} of {pair.source}"
        if image is None:
            raise UserError(f"there is no {name}; use the protocol's own data")
        tracked = self._tracker.track_photo(image, self.size, "largest", name)
        return Moment(tracked.crop, tracked.beta, tracked.camera)

    def driving(self, pair: Pair) -> Iterator[Moment]:
        path = self._clip(pair.driving)
        reader = FolderReader(path) if path.is_dir() else VideoReader(path)
        last = pair.start + pair.count * pair.step
        tracked = self._tracker.track_video(reader, self.size, max_frames=last)
        for frame in islice(tracked, pair.start, last, pair.step):
            yield Moment(frame.crop, frame.beta, frame.camera)


class FolderReader(VideoReader):
    """A folder of frames that reads as a video."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = open_pictures(path).files
        self.fps, self.has_audio = DEFAULT_FPS, False
        self.n_frames = len(self._files)
        self.duration_s = self.n_frames / self.fps

    def __iter__(self) -> Iterator[Frame]:
        for i, file in enumerate(self._files):
            yield Frame(read_picture(file), i, i / self.fps)


def open_footage(
    protocol: Protocol, data: Path, size: int, space: str = "arkit52", weights: Path | None = None
) -> Footage:
    """The data of a protocol. Raises UserError when it is missing or cannot be tracked."""
    if protocol.layout == "heads":
        return HeadsFootage(data)
    return FileFootage(data, size, space, weights)


@dataclass(frozen=True)
class Method:
    """Makes frames of a pair: a baseline's name, or a network."""

    name: str  # of the record
    network: Network | None = None
    sha256: str = ""

    @classmethod
    def load(cls, what: str, device: str = "auto", overrides: tuple[str, ...] = ()) -> Method:
        """`truth`, `copy`, `blur`, or the path of a checkpoint. Raises UserError for anything else."""
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
            if self.name == "blur":
                picture = Image.fromarray(moment.crop)
                radius = picture.width * BLUR_SHARE
                yield np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)))
            else:
                yield source.crop if self.name == "copy" else moment.crop


def _animated(network: Network, source: Moment, driving: Iterator[Moment]) -> Iterator[np.ndarray]:
    from inference.network import Expressive

    crop = resized(source.crop, network.resolution)
    head = Expressive(network, network.encode(crop, source.camera))
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
        UserError: `out` holds results of another method, protocol, data or tracker, or the expression space is not the
            network's.
    """
    from torch_utils import distributed

    if method.network is not None:
        network = method.network
        check_same_space(network.space, footage.space, f"{network.name} and the data")
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
        "method": "source" if method is None else method.name,
        "sha256": "" if method is None else method.sha256,
        "protocol": protocol.sha256,
        "tracker": tracker,
        "data": {clip: footage.fingerprint(clip) for clip in clips},
    }


def _foreign(out: Path, record: Mapping[str, Any]) -> str | None:
    """What speaks against going on in `out`, or None. A clip that was missing before may be there now."""
    try:
        found = json.loads((out / CLAIM).read_text(encoding="utf-8"))
        known = dict(found.pop("data"))
    except FileNotFoundError:
        return "is not empty" if out.is_dir() and any(out.iterdir()) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return "was made by an older version or is damaged"
    if any(found.get(key) != value for key, value in record.items() if key != "data"):
        return "holds results of another method or protocol, or of another tracker"
    for clip, mark in record["data"].items():
        if known.get(clip) not in (None, mark):
            return f"was made from other data (the clip {clip} was another)"
    return None


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
        source = footage.source(pair)
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
    from torch_utils import distributed

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
