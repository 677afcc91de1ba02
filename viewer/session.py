"""What one visitor looks at: a photo, a driver, and what they chose; knows no browser.

A session is used by three threads: the visitor's callbacks change what is wished, the renderer makes pictures, a worker
reads files and writes those that are saved. Sessions share nothing but the network and the tracker.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from time import perf_counter
from typing import Any, Literal, NamedTuple

import numpy as np

from conventions.spaces import REGIONS
from dnnlib.errors import UserError
from inference.drivers import load_driver
from inference.looks import KINDS, Kind, Look, Sitter
from inference.network import Network
from inference.photo import Photo
from inference.show import Driven, moment, show
from inference.steering import Steer
from inference.tracked import Driving, NetworkTracker
from viewer.words import driver_words, look_words, short_path, show_command

UNIT_RANGE = 1.0  # either side, added to a unit
DIRECTION_RANGE = 2.0
STRENGTH_MAX = 3.0
YAW_MAX_DEG, PITCH_MAX_DEG = 180.0, 80.0
MAX_DRIVER_FRAMES = 3000  # two minutes at 25 a second; more are not tracked
SHOWN_DIRECTIONS = 10  # v1 .. v10
Saved = Literal["still", "video", "shape"]
SAVED: dict[Saved, str] = {"still": "look.png", "video": "look.mp4", "shape": "head.glb"}


@dataclass(frozen=True)
class Studio:
    """What all visitors share."""

    network: Network
    tracker: NetworkTracker  # used by one thread
    photos: Mapping[str, Path]  # examples by their names
    drivers: Mapping[str, Path]
    network_words: tuple[str, ...] = ()  # of the command line that makes the same


@dataclass(frozen=True)
class Wish:
    """What a visitor chose. Numbers are held within their ranges and rounded as the command line shows them."""

    units: Mapping[str, float] = field(default_factory=dict)
    directions: Mapping[int, float] = field(default_factory=dict)
    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    kind: Kind = "image"
    frame: int = 0
    strength: float = 1.0
    relative: bool = False
    regions: tuple[str, ...] = REGIONS

    @property
    def look(self) -> Look:
        """What is added to expression and view."""
        units = tuple((name, v) for name, v in sorted(self.units.items()) if v)
        directions = tuple((i, v) for i, v in sorted(self.directions.items()) if v)
        return Look(units, directions, self.yaw_deg, self.pitch_deg, kind=self.kind)

    @property
    def steer(self) -> Steer:
        """What of a driver's motion is taken over."""
        regions = () if set(self.regions) == set(REGIONS) else self.regions
        return Steer(relative=self.relative, strength=self.strength, regions=regions)


class Shot(NamedTuple):
    """One picture for a visitor."""

    image: np.ndarray  # uint8 [s, s, 3]
    frame: int  # of the driver
    seconds: float  # that it took


class _Model(NamedTuple):
    """Who is looked at."""

    photo: Photo
    words: str  # for the command line
    sitter: Sitter
    path: Path


class _Motion(NamedTuple):
    words: str
    driving: Driving
    path: Path


class Session:
    """One visitor's photo, driver and wishes."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self._temporary = TemporaryDirectory(prefix="export3d-viewer-")
        self.folder = Path(self._temporary.name)  # of files that were sent
        self._lock = Lock()
        self._wish = Wish()
        self._model: _Model | None = None
        self._motion: _Motion | None = None
        self._playing_since: float | None = (
            None  # of `perf_counter`, when frame 0 was or would have been shown
        )
        self.closed = False

    # ---- what is looked at: slow, for the worker ----------------------------------------------------------------

    def take_photo(self, path: Path, words: str | None = None) -> None:
        """Look at the face of a photo. words: how the command line names it, None: its path.

        Raises:
            UserError: unreadable, or no face.
        """
        photo = self._named(path, words, lambda: self.studio.tracker.photo(path))
        model = _Model(
            photo, words or str(short_path(path)), Sitter(self.studio.network, photo), path
        )
        with self._lock:
            before = self._model
            self._model = None if self.closed else model
        self._drop(before, path)

    def take_driver(self, path: Path | None, words: str | None = None) -> None:
        """Follow a video or a motion, or with None nothing.

        Raises:
            UserError: unreadable, without a face, or of another expression space.
        """
        motion = None
        if path is not None:
            studio = self.studio
            driving = self._named(
                path,
                words,
                lambda: load_driver(path, studio.network, studio.tracker, True, MAX_DRIVER_FRAMES),
            )
            motion = _Motion(words or str(short_path(path)), driving, path)
        with self._lock:
            before = self._motion
            self._motion, self._playing_since = None if self.closed else motion, None
            self._wish = replace(self._wish, frame=0)
        self._drop(before, path)

    def _drop(self, before: _Model | _Motion | None, path: Path | None) -> None:
        """Deletes a file that was sent and is looked at no more."""
        if before is not None and before.path != path and before.path.parent == self.folder:
            before.path.unlink(missing_ok=True)

    def _named(self, path: Path, words: str | None, read: Any) -> Any:
        """Runs a reader; a refusal names a file as its visitor knows it."""
        try:
            return read()
        except UserError as error:
            raise UserError(str(error).replace(str(path), words or path.name)) from error

    # ---- what is wished: quick ----------------------------------------------------------------------------------

    @property
    def wish(self) -> Wish:
        return self._wish

    @property
    def n_frames(self) -> int:
        """Of the driver; 0 without one."""
        motion = self._motion
        return 0 if motion is None else len(motion.driving.betas)

    @property
    def playing(self) -> bool:
        return self._playing_since is not None

    def set_unit(self, name: str, value: object) -> None:
        """Add to a unit of the expression. What is no unit and no number changes nothing; so below."""
        if name in self.studio.network.space.names:
            amount = _number(value, -UNIT_RANGE, UNIT_RANGE, 2)
            self._change(lambda wish: {"units": {**wish.units, name: amount}})

    def set_direction(self, index: int, value: object) -> None:
        """Move along v_(index + 1)."""
        if 0 <= index < SHOWN_DIRECTIONS:
            amount = _number(value, -DIRECTION_RANGE, DIRECTION_RANGE, 2)
            self._change(lambda wish: {"directions": {**wish.directions, index: amount}})

    def set_view(self, yaw_deg: object, pitch_deg: object) -> None:
        """Turn the photo's or the driver's view."""
        yaw = _number(yaw_deg, -YAW_MAX_DEG, YAW_MAX_DEG, 1)
        pitch = _number(pitch_deg, -PITCH_MAX_DEG, PITCH_MAX_DEG, 1)
        self._change(lambda wish: {"yaw_deg": yaw, "pitch_deg": pitch})

    def set_kind(self, kind: object) -> None:
        """What of the network's output is shown."""
        if kind in KINDS:
            self._change(lambda wish: {"kind": kind})

    def set_steer(
        self,
        strength: object = None,
        relative: object = None,
        regions: Mapping[str, bool] | None = None,  # of REGIONS -> whether it follows the driver
    ) -> None:
        """What of the driver's motion is taken over; None leaves as it is."""

        def change(wish: Wish) -> dict[str, Any]:
            new: dict[str, Any] = {}
            if strength is not None:
                new["strength"] = _number(strength, 0, STRENGTH_MAX, 2)
            if relative is not None:
                new["relative"] = bool(relative)
            if regions is not None:
                kept = {**dict.fromkeys(wish.regions, True), **regions}
                new["regions"] = tuple(r for r in REGIONS if kept.get(r))
            return new

        self._change(change)

    def set_frame(self, frame: object) -> None:
        """Go to a frame of the driver; it plays on from there if it plays."""
        index = int(_number(frame, 0, max(0, self.n_frames - 1), 0))
        with self._lock:
            self._wish = replace(self._wish, frame=index)
            if self._playing_since is not None and self._motion is not None:
                at_s = float(self._motion.driving.times_s[index])
                self._playing_since = perf_counter() - at_s

    def play(self, playing: bool) -> None:
        """Let the driver play, or hold it where it is; one of a single frame does not play."""
        with self._lock:
            motion = self._motion
            if not playing or motion is None or len(motion.driving.betas) < 2:
                self._playing_since = None
                return
            frame = min(self._wish.frame, len(motion.driving.betas) - 1)
            self._playing_since = perf_counter() - float(motion.driving.times_s[frame])

    def reset(self) -> None:
        """No unit and no direction is added."""
        self._change(lambda wish: {"units": {}, "directions": {}})

    def _change(self, change: Any) -> None:
        with self._lock:
            self._wish = replace(self._wish, **change(self._wish))

    # ---- what is seen -------------------------------------------------------------------------------------------

    def picture(self, moving: bool) -> Shot | None:
        """The picture of this moment, None while there is no photo. For one thread, the renderer's.

        Raises:
            UserError: the network's output is not finite, or its expression space lacks a region.
        """
        begun = perf_counter()
        model, wish, driven = self._moment(advance=True)
        if model is None:
            return None
        at = moment(model.photo, self.studio.network, driven, wish.frame)
        image = model.sitter.picture(wish.look, *at, moving)
        return Shot(image, wish.frame, perf_counter() - begun)

    def command(self, what: Saved = "still") -> str:
        """The command line that makes what is seen; "" while there is no photo, or for a video without a driver."""
        model, wish, driven = self._moment()
        motion = self._motion
        if model is None or (what == "video" and driven is None):
            return ""
        look = Look(wish.look.units, wish.look.directions) if what == "shape" else wish.look
        words = ["-s", model.words, *self.studio.network_words]
        if driven is not None and motion is not None:
            words += driver_words(motion.words, driven.steer, wish.frame if what != "video" else 0)
            if len(motion.driving.betas) == MAX_DRIVER_FRAMES:
                words += ["--max-frames", str(MAX_DRIVER_FRAMES)]
        return show_command([*words, *look_words(look)], SAVED[what])

    def save(self, what: Saved) -> tuple[str, bytes]:
        """(name, content) of a file of what is seen. Slow, for the worker.

        Raises:
            UserError: there is no photo, a video has no driver, or the head has no surface.
        """
        model, wish, driven = self._moment()
        if model is None:
            raise UserError("there is no head to save yet; choose a photo first")
        if what == "video" and driven is None:
            raise UserError("a video needs a driver; choose one, or save a still")
        out = self.folder / f"save-{perf_counter():.6f}" / SAVED[what]
        out.parent.mkdir()
        show(self.studio.network, model.photo, out, wish.look, driven, wish.frame)
        content = out.read_bytes()
        out.unlink()
        out.parent.rmdir()
        return out.name, content

    def _moment(self, advance: bool = False) -> tuple[_Model | None, Wish, Driven | None]:
        """Who is looked at, what is wished and what drives now; all of one time."""
        with self._lock:
            motion, since = self._motion, self._playing_since
            if advance and motion is not None and since is not None:
                times_s = motion.driving.times_s
                at_s = (perf_counter() - since) % float(times_s[-1])
                frame = int(np.searchsorted(times_s[1:-1], at_s, side="right"))
                self._wish = replace(self._wish, frame=frame)
            wish = self._wish
            # without a region nothing follows
            followed = motion is not None and bool(wish.regions)
            driven = Driven(motion.driving, wish.steer) if motion and followed else None
            return self._model, wish, driven

    def close(self) -> None:
        """Forget everything of this visitor."""
        with self._lock:
            self.closed = True
            self._model = self._motion = self._playing_since = None
        self._temporary.cleanup()


def _number(value: object, low: float, high: float, digits: int) -> float:
    """A number of a browser's, held within a range and rounded; what is none counts as 0."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = 0.0
    if not math.isfinite(number):
        number = 0.0
    return round(min(max(number, low), high), digits) + 0.0  # no -0
