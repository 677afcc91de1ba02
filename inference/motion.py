"""Expression over time: a driver's beta carried over to the source, and motions that ship as JSON.

Two ways of carrying over:
  absolute   strength beta_t; of strength 1 as the driver shows it
  relative   beta_source + strength (beta_t - beta_reference): the source keeps its own resting face and takes over the
             change
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from conventions.cameras import camera_label
from conventions.spaces import ExpressionSpace
from dnnlib.errors import UserError
from dnnlib.reading.text import kind_of, read_json

MOTION_FORMAT = "export3d-motion"
MOTION_VERSION = 1
CAMERA_TRACKS = ("yaw_deg", "pitch_deg")
_MAX_SHOWN = 40  # characters of a wrong value in a message
_MAX_FPS, _MAX_SECONDS = 1000, 3600

Reference = Literal["neutral", "first"]


def reference_frame(betas: np.ndarray, how: Reference = "neutral") -> int:
    """Index of the frame that counts as the driver's resting face, of betas [T, D].

    neutral: the smallest |beta|_2 of the clip, the first one of equals; first: frame 0.
    """
    return 0 if how == "first" else int(np.linalg.norm(betas.astype(np.float64), axis=1).argmin())


def transfer(
    betas: np.ndarray,  # [T, D], the driver's
    source: np.ndarray,  # [D], the source's own
    relative: bool,
    reference: Reference = "neutral",
    limits: tuple[float, float] | None = None,  # of the expression space; (0, 1) for ARKit units
    strength: float = 1.0,  # of the driver's part
) -> np.ndarray:
    """The expression that the source is to show, float32 [T, D]; what is no driver's beta is held within `limits`."""
    if not relative and strength == 1:
        return betas.astype(np.float32)
    if relative:
        moved = source + strength * (betas - betas[reference_frame(betas, reference)])
    else:
        moved = strength * betas
    if limits is not None:
        moved = np.clip(moved, *limits)
    return moved.astype(np.float32)


def space_limits(space: ExpressionSpace) -> tuple[float, float] | None:
    """Range of one unit of a space, None where there is no bound."""
    return space.limits


@dataclass(frozen=True)
class Track:
    """A value over time: cosine steps between keys, constant outside."""

    times_s: tuple[float, ...]  # increasing
    values: tuple[float, ...]

    def at(self, time_s: float) -> float:
        index = int(np.searchsorted(self.times_s, time_s, side="right"))
        if index == 0:
            return self.values[0]
        if index == len(self.times_s):
            return self.values[-1]
        t0, t1 = self.times_s[index - 1], self.times_s[index]
        share = 0.5 - 0.5 * np.cos(np.pi * (time_s - t0) / (t1 - t0))
        return float(self.values[index - 1] + share * (self.values[index] - self.values[index - 1]))


@dataclass(frozen=True)
class Motion:
    """Named expression units, basis directions and camera angles over time; the same motion fits every source.

    beta(t) = source(t) * beta_source + sum_k units_k(t) e_k, held within [0, 1]
    beta'(t) = f_e(beta(t)) + sum_i directions_i(t) s_i v_i, with s_i the range of lambda_i (`direction_scales`)
    """

    fps: float
    seconds: float
    source_share: Track  # how much of the source's own expression remains
    units: Mapping[str, Track]  # unit of the expression space -> value
    camera: Mapping[str, Track]  # "yaw_deg", "pitch_deg"
    moments: tuple[tuple[float, str], ...]  # (time, what is seen there), for a contact sheet
    directions: Mapping[int, Track] = field(default_factory=dict)  # number of v_i, from 0 -> value

    @property
    def n_frames(self) -> int:
        return round(self.fps * self.seconds)

    def beta(self, time_s: float, source: np.ndarray, space: ExpressionSpace) -> np.ndarray:
        """Expression float32 [D] at a time; `source` [D] is the photo's own."""
        beta = self.source_share.at(time_s) * np.asarray(source, dtype=np.float64)
        for name, track in self.units.items():
            beta[space.names.index(name)] += track.at(time_s)
        return np.clip(beta, *(space_limits(space) or (-np.inf, np.inf))).astype(np.float32)

    def along(self, time_s: float, count: int) -> np.ndarray:
        """How far to move along each of `count` directions at a time, float32 [count], in parts of their ranges."""
        amounts = np.zeros(count, np.float32)
        for index, track in self.directions.items():
            amounts[index] = track.at(time_s)
        return amounts

    def angles_deg(self, time_s: float) -> tuple[float, float]:
        """(yaw, pitch) of the camera at a time."""
        yaw, pitch = (self.camera[k].at(time_s) if k in self.camera else 0.0 for k in CAMERA_TRACKS)
        return yaw, pitch

    def label(self, time_s: float) -> np.ndarray:
        """Camera label float32 [25] at a time."""
        yaw_deg, pitch_deg = self.angles_deg(time_s)
        return camera_label(math.radians(yaw_deg), math.radians(pitch_deg))

    def check_space(self, space: ExpressionSpace, n_directions: int, what: str) -> None:
        """Raises UserError when the network `what` lacks a unit or a direction of this motion."""
        missing = sorted(set(self.units) - set(space.names))
        if missing:
            raise UserError(
                f"the motion moves {', '.join(missing[:3])}, which the expression space {space.name!r} of {what} "
                "does not have; give a network of the space arkit52 or another motion"
            )
        if self.directions and not n_directions:
            raise UserError(
                "the motion moves along directions of beta', which only gen_videos.py demo --motion does; "
                "take them out"
            )
        if (last := max(self.directions, default=-1)) >= n_directions:
            raise UserError(
                f"the motion moves along v{last + 1}, but {what} has {n_directions} directions; "
                "give another network or another motion"
            )


def load_motion(path: str | os.PathLike[str]) -> Motion:
    """Read a motion.

    {"format": "export3d-motion", "version": 1, "fps": 25, "seconds": 5,
     "source": [[0, 1], [1, 0]], "units": {"jawOpen": [[1, 0], [1.5, 0.7], [2, 0]]},
     "directions": {"v1": [[2, 0], [2.5, 1], [3, 0]]}, "camera": {"yaw_deg": [[0, 0], [5, 20]]},
     "moments": [[1.5, "jaw open"]]}

    Raises:
        UserError: the file is missing or is not such a motion.
    """
    name = os.fspath(path)
    data = read_json(path, "give the path of a motion file, see docs/videos.md")
    if data.get("format") != MOTION_FORMAT:
        raise UserError(f"{name} is not a motion file; see docs/videos.md")
    if data.get("version") != MOTION_VERSION:
        raise UserError(f"{name} has motion version {data.get('version')!r}; this program reads 1")
    try:
        motion = Motion(
            fps=_number(_given(data, "fps"), "fps"),
            seconds=_number(_given(data, "seconds"), "seconds"),
            source_share=_track(data.get("source", [[0, 1]]), "source"),
            units=_tracks(_given(data, "units"), "units"),
            camera=_tracks(data.get("camera", {}), "camera"),
            directions={
                direction_index(k): track
                for k, track in _tracks(data.get("directions", {}), "directions").items()
            },
            moments=_moments(data.get("moments", [])),
        )
    except ValueError as error:
        raise UserError(f"{name} is not a complete motion: {error}; see docs/videos.md") from error
    unknown = set(motion.camera) - set(CAMERA_TRACKS)
    if unknown:
        raise UserError(
            f"{name} has the camera track {min(unknown)!r}; there are {' and '.join(CAMERA_TRACKS)}"
        )
    if (
        not 0 < motion.fps <= _MAX_FPS
        or not 0 < motion.seconds <= _MAX_SECONDS
        or not motion.n_frames
    ):
        raise UserError(
            f"{name} has {motion.seconds:g} seconds at {motion.fps:g} frames a second; use at most {_MAX_SECONDS} s "
            f"and {_MAX_FPS} a second, and one frame at least"
        )
    return motion


def _given(data: Mapping[str, Any], key: str) -> Any:
    if key not in data:
        raise ValueError(f"{key} is missing")
    return data[key]


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{what} is {_shown(value)}, not a number")
    return float(value)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_SHOWN else kind_of(value)


def direction_index(name: str) -> int:
    """v1 -> 0. Raises ValueError for what is no name of a direction."""
    if not (re.fullmatch("v[0-9]{1,6}", name) and int(name[1:]) > 0):
        raise ValueError(f"{name!r} is no direction; they are called v1, v2, ...")
    return int(name[1:]) - 1


def _tracks(section: Any, what: str) -> dict[str, Track]:
    if not isinstance(section, dict):
        raise ValueError(f"{what} is {kind_of(section)}, not a section of names with keys")
    return {name: _track(keys, f"{what}.{name}") for name, keys in section.items()}


def _track(keys: Any, what: str) -> Track:
    pairs = _pairs(keys, what, "[seconds, value]")
    if not pairs:
        raise ValueError(f"{what} has no keys; write [[seconds, value], ...]")
    times = [_number(t, f"a time of {what}") for t, _ in pairs]
    values = [_number(v, f"a value of {what}") for _, v in pairs]
    if any(b <= a for a, b in zip(times, times[1:])):
        raise ValueError(f"the times of {what} do not increase")
    return Track(tuple(times), tuple(values))


def _moments(keys: Any) -> tuple[tuple[float, str], ...]:
    pairs = _pairs(keys, "moments", "[seconds, label]")
    if any(not isinstance(label, str) for _, label in pairs):
        raise ValueError("a label of moments is not a text")
    return tuple((_number(t, "a time of moments"), label) for t, label in pairs)


def _pairs(keys: Any, what: str, form: str) -> list[Any]:
    if not isinstance(keys, list) or not all(isinstance(k, list) and len(k) == 2 for k in keys):
        raise ValueError(f"{what} is not a list of {form}")
    return keys
