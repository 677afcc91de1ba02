"""How synthetic people move: smooth expressions with co-activation, blinks, gaze, speech, head pose; and what a tracker
would report of the expression."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from conventions.cameras import CAMERA_RADIUS, LOOK_AT_PIVOT, camera_label
from conventions.gaze import LOOK_DOWN_RAD, LOOK_SIDE_RAD, LOOK_UP_RAD
from dataset.synthesis.arrays import FloatArray
from dataset.synthesis.basis import UNIT_INDEX, UNIT_NAMES

N_UNITS = len(UNIT_NAMES)
MAX_YAW_RAD = float(np.deg2rad(45))
MAX_PITCH_RAD = float(np.deg2rad(25))
USUAL_PITCH_RAD = float(np.deg2rad(-4))  # which a tracker reads as level: labels.py

# Units of an emotion at full strength; a name without a side stands for both.
_MOODS: dict[str, dict[str, float]] = {
    "neutral": {},
    "smile": {"mouthSmile": 0.75, "cheekSquint": 0.45, "eyeSquint": 0.25, "mouthDimple": 0.25},
    "laugh": {
        "mouthSmile": 0.9, "jawOpen": 0.45, "cheekSquint": 0.8, "eyeSquint": 0.55,
        "mouthUpperUp": 0.5, "noseSneer": 0.2,
    },
    "grin": {
        "mouthSmile": 0.7, "mouthUpperUp": 0.55, "mouthLowerDown": 0.5,
        "mouthStretch": 0.3, "cheekSquint": 0.5,
    },
    "sad": {"mouthFrown": 0.8, "browInnerUp": 0.8, "browDown": 0.2, "mouthShrugLower": 0.5, "eyeSquint": 0.2},
    "angry": {
        "browDown": 0.95, "noseSneer": 0.55, "eyeSquint": 0.5, "mouthPress": 0.55,
        "mouthFrown": 0.35, "jawForward": 0.25,
    },
    "shout": {
        "browDown": 0.8, "jawOpen": 0.75, "mouthUpperUp": 0.6, "mouthLowerDown": 0.6,
        "mouthStretch": 0.35, "noseSneer": 0.5,
    },
    "surprise": {
        "browInnerUp": 0.95, "browOuterUp": 0.9, "eyeWide": 0.9,
        "jawOpen": 0.6, "mouthFunnel": 0.25,
    },
    "fear": {
        "browInnerUp": 0.9, "browDown": 0.35, "eyeWide": 0.8, "mouthStretch": 0.7,
        "jawOpen": 0.25, "mouthLowerDown": 0.35,
    },
    "disgust": {
        "noseSneer": 0.95, "mouthUpperUp": 0.6, "browDown": 0.55,
        "eyeSquint": 0.45, "mouthFrown": 0.35,
    },
    "pout": {"mouthPucker": 0.85, "mouthShrugLower": 0.5, "browDown": 0.2},
    "kiss": {"mouthPucker": 1.0, "mouthFunnel": 0.3, "eyeSquint": 0.2},
    "puff": {"cheekPuff": 1.0, "mouthPress": 0.3, "mouthPucker": 0.2},
    "think": {"browDownLeft": 0.5, "browOuterUpRight": 0.6, "mouthLeft": 0.5, "mouthPress": 0.4},
    "doubt": {"browOuterUpLeft": 0.8, "browDownRight": 0.6, "mouthFrownLeft": 0.4, "mouthRight": 0.4},
    "suck": {"mouthRollLower": 0.8, "mouthRollUpper": 0.8, "mouthPress": 0.3},
    "yawn": {"jawOpen": 1.0, "eyeBlink": 0.6, "browInnerUp": 0.4, "mouthFunnel": 0.2, "noseSneer": 0.2},
    "asleep": {"eyeBlink": 1.0},
    "wink": {"eyeBlinkLeft": 1.0, "mouthSmileLeft": 0.6, "cheekSquintLeft": 0.7},
    "smirk": {"mouthSmileRight": 0.8, "cheekSquintRight": 0.4, "mouthDimpleRight": 0.4},
    "chew": {"jawLeft": 0.6, "jawOpen": 0.2, "mouthPress": 0.4},
}  # fmt: skip
_MOOD_SHARE = {"neutral": 5.0, "smile": 3.0, "laugh": 2.0, "asleep": 0.4}

# Mouth shapes of speech.
_VISEMES: tuple[dict[str, float], ...] = (
    {"jawOpen": 0.55, "mouthLowerDown": 0.35, "mouthUpperUp": 0.2},  # a
    {"jawOpen": 0.28, "mouthStretch": 0.3, "mouthSmile": 0.25, "mouthLowerDown": 0.3},  # e
    {"jawOpen": 0.12, "mouthStretch": 0.4, "mouthSmile": 0.35, "mouthUpperUp": 0.2},  # i
    {"jawOpen": 0.35, "mouthFunnel": 0.75, "mouthPucker": 0.2},  # o
    {"jawOpen": 0.12, "mouthPucker": 0.8, "mouthFunnel": 0.35},  # u
    {
        "mouthPress": 0.5,
        "mouthRollLower": 0.35,
        "mouthRollUpper": 0.3,
        "mouthClose": 0.1,
    },  # m, b, p
    {"jawOpen": 0.08, "mouthRollLower": 0.6, "mouthUpperUp": 0.35},  # f, v
    {"jawOpen": 0.15, "mouthLowerDown": 0.3, "mouthUpperUp": 0.15},  # l, d, t
    {"jawOpen": 0.08, "mouthFunnel": 0.55, "mouthShrugUpper": 0.3},  # sh
    {},  # a pause
)


@cache
def _vector(items: tuple[tuple[str, float], ...]) -> FloatArray:
    beta = np.zeros(N_UNITS, np.float32)
    for name, value in items:
        for full in (name, f"{name}Left", f"{name}Right"):
            if full in UNIT_INDEX:
                beta[UNIT_INDEX[full]] = value
    return beta


def units_to_beta(**units: float) -> FloatArray:
    """`units_to_beta(jawOpen=1, eyeBlink=0.5)` -> float32 [52]; a name without a side sets both sides.

    Raises:
        KeyError: there is no such unit.
    """
    for name in units:
        if name not in UNIT_INDEX and f"{name}Left" not in UNIT_INDEX:
            raise KeyError(name)
    return _vector(tuple(units.items())).copy()


@dataclass(frozen=True)
class ClipMotion:
    """beta_true float32 [n, 52] in 0..1, cameras float32 [n, 25], times_s float64 [n]."""

    beta_true: FloatArray
    cameras: FloatArray
    times_s: FloatArray


def sample_clip(rng: np.random.Generator, n_frames: int, stride_s: float) -> ClipMotion:
    """Draw a clip of `n_frames` frames, `stride_s` seconds apart."""
    times = np.arange(n_frames) * stride_s
    yaw, pitch, roll = _head_pose(rng, times)
    beta = np.clip(_face(rng, times) + _gaze(rng, times, yaw, pitch), 0, 1).astype(np.float32)
    beta[:, 0] = 0.0
    # Trackers place the head a little differently from clip to clip; the label says exactly how.
    pivot = np.asarray(LOOK_AT_PIVOT) + rng.normal(0, [0.006, 0.006, 0.004])
    cameras = [
        camera_label(
            float(y),
            float(p),
            float(r),
            CAMERA_RADIUS,
            (float(pivot[0]), float(pivot[1]), float(pivot[2])),
        )
        for y, p, r in zip(yaw, pitch, roll, strict=True)
    ]
    return ClipMotion(beta, np.stack(cameras).astype(np.float32), times)


def _keyed(
    rng: np.random.Generator, times: FloatArray, gap_s: float, values: list[FloatArray]
) -> FloatArray:
    """Eased way through `values` at random times about `gap_s` apart; float [n, D]."""
    knots = np.cumsum(rng.uniform(0.6, 1.4, len(values)) * gap_s)
    knots -= knots[0] + rng.uniform(0, gap_s)
    place = np.interp(times, knots, np.arange(len(values)))
    low = np.minimum(place.astype(int), len(values) - 2)
    t = (place - low)[:, None]
    # Each key is held a while, then left quickly.
    t = np.clip((t - 0.25) / 0.5, 0, 1)
    t = t * t * (3 - 2 * t)
    table = np.stack(values)
    return np.asarray(table[low] * (1 - t) + table[low + 1] * t, np.float64)


def _n_keys(times: FloatArray, gap_s: float) -> int:
    return int(np.ceil((times[-1] + gap_s) / (0.6 * gap_s))) + 3


def _face(rng: np.random.Generator, times: FloatArray) -> FloatArray:
    beta = _moods(rng, times)
    kind = rng.random()
    if kind < 0.55:
        beta += _speech(rng, times)
    if kind > 0.45:
        beta = np.maximum(beta, _single_units(rng, times))
    blink = _blinks(rng, times)
    for name in ("eyeBlinkLeft", "eyeBlinkRight"):
        beta[:, UNIT_INDEX[name]] = np.maximum(beta[:, UNIT_INDEX[name]], blink)
    for side in ("Left", "Right"):
        # A shut eye is not a wide one, a pulled-up brow not a lowered one.
        shut = beta[:, UNIT_INDEX[f"eyeBlink{side}"]]
        beta[:, UNIT_INDEX[f"eyeWide{side}"]] *= 1 - np.clip(shut, 0, 1)
        lowered = np.clip(beta[:, UNIT_INDEX[f"browDown{side}"]], 0, 1)
        beta[:, UNIT_INDEX[f"browOuterUp{side}"]] *= 1 - 0.7 * lowered
    # The lips of an open mouth are not pressed or rolled in.
    jaw = np.clip(beta[:, UNIT_INDEX["jawOpen"]], 0, 1)
    for name in ("mouthPressLeft", "mouthPressRight", "mouthRollLower", "mouthRollUpper"):
        beta[:, UNIT_INDEX[name]] *= np.clip(1 - 1.6 * jaw, 0, 1)
    beta[:, UNIT_INDEX["mouthClose"]] = np.minimum(beta[:, UNIT_INDEX["mouthClose"]], 0.9 * jaw)
    return np.asarray(beta)


def _moods(rng: np.random.Generator, times: FloatArray) -> FloatArray:
    gap = float(rng.uniform(0.6, 2.0))
    names = list(_MOODS)
    share = np.array([_MOOD_SHARE.get(n, 1.0) for n in names])
    keys = []
    for _ in range(_n_keys(times, gap)):
        mood = _vector(tuple(_MOODS[str(rng.choice(names, p=share / share.sum()))].items()))
        vary = rng.normal(1, 0.2, N_UNITS)
        key = mood * vary * rng.uniform(0.25, 1.25)
        if rng.random() < 0.3:  # one side more than the other
            left = np.array([n.endswith("Left") for n in UNIT_NAMES])
            key = key * np.where(left, rng.uniform(0.3, 1.0), 1.0)
        keys.append(np.asarray(key, np.float32))
    return _keyed(rng, times, gap, keys)


def _speech(rng: np.random.Generator, times: FloatArray) -> FloatArray:
    gap = float(rng.uniform(0.12, 0.22))
    loud = rng.uniform(0.5, 1.4)
    keys = [
        _vector(tuple(_VISEMES[int(rng.integers(len(_VISEMES)))].items()))
        * np.float32(loud * rng.uniform(0.5, 1.2))
        for _ in range(_n_keys(times, gap))
    ]
    talking = _keyed(
        rng,
        times,
        1.5,
        [np.array([rng.random() < 0.75], np.float32) for _ in range(_n_keys(times, 1.5))],
    )
    return _keyed(rng, times, gap, keys) * talking


def _single_units(rng: np.random.Generator, times: FloatArray) -> FloatArray:
    """A few units at a time at any strength: covers the corners that moods do not reach."""
    gap = float(rng.uniform(0.4, 1.0))
    skipped = [0, *(i for n, i in UNIT_INDEX.items() if n.startswith("eyeLook"))]
    free = np.setdiff1d(np.arange(N_UNITS), skipped)
    keys = []
    for _ in range(_n_keys(times, gap)):
        key = np.zeros(N_UNITS, np.float32)
        for unit in rng.choice(free, int(rng.integers(0, 4)), replace=False):
            name, value = UNIT_NAMES[unit], np.float32(rng.uniform(0.3, 1.0))
            key[unit] = value
            if name == "mouthClose":  # it shuts the lips over an open jaw
                key[UNIT_INDEX["jawOpen"]] = value
            if rng.random() < 0.7:  # most people move both sides
                for a, b in (("Left", "Right"), ("Right", "Left")):
                    if name.endswith(a) and name not in (
                        "jawLeft",
                        "jawRight",
                        "mouthLeft",
                        "mouthRight",
                    ):
                        key[UNIT_INDEX[name.removesuffix(a) + b]] = value * np.float32(
                            rng.uniform(0.8, 1.0)
                        )
        keys.append(key)
    return _keyed(rng, times, gap, keys)


def _blinks(rng: np.random.Generator, times: FloatArray) -> FloatArray:
    blink = np.zeros(len(times))
    t = rng.uniform(-1, 2.0)
    while t < times[-1] + 0.5:
        shut_s = rng.uniform(0.05, 0.15) if rng.random() < 0.88 else rng.uniform(0.3, 0.9)
        away = np.abs(times - t) - shut_s
        blink = np.maximum(blink, np.clip(1 - away / 0.12, 0, 1) * rng.uniform(0.85, 1.0))
        t += shut_s + rng.exponential(2.8) + 0.4
    return blink


def _gaze(
    rng: np.random.Generator,
    times: FloatArray,
    yaw: FloatArray,
    pitch: FloatArray,
) -> FloatArray:
    beta = np.zeros((len(times), N_UNITS))
    change = np.cumsum(rng.exponential(0.8, 64) + 0.15)
    fixation = np.searchsorted(change, times + rng.uniform(0, 1))
    targets = rng.normal(0, np.deg2rad([13, 8]), (70, 2))
    targets[rng.random(70) < 0.35] = 0.0
    side, up = targets[fixation, 0], targets[fixation, 1]
    if (
        rng.random() < 0.5
    ):  # looks at the camera wherever the head turns, as people do who are filmed
        side, up = side * 0.4 + yaw, up * 0.4 + pitch
    # The eyes converge a little on what is near.
    near = abs(rng.normal(0, np.deg2rad(1.2)))
    for eye, sign in (("Left", 1.0), ("Right", -1.0)):
        outwards = sign * side - near
        beta[:, UNIT_INDEX[f"eyeLookOut{eye}"]] = np.clip(outwards / LOOK_SIDE_RAD, 0, 1)
        beta[:, UNIT_INDEX[f"eyeLookIn{eye}"]] = np.clip(-outwards / LOOK_SIDE_RAD, 0, 1)
        beta[:, UNIT_INDEX[f"eyeLookUp{eye}"]] = np.clip(up / LOOK_UP_RAD, 0, 1)
        beta[:, UNIT_INDEX[f"eyeLookDown{eye}"]] = np.clip(-up / LOOK_DOWN_RAD, 0, 1)
    return beta


def _head_pose(
    rng: np.random.Generator, times: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Yaw, pitch, roll in radians, [n] each: near frontal mostly, out to the limits in the tails."""
    wide = rng.random() < 0.35
    centre = np.array(
        [
            rng.uniform(-MAX_YAW_RAD, MAX_YAW_RAD) if wide else rng.normal(0, np.deg2rad(12)),
            rng.uniform(-MAX_PITCH_RAD, MAX_PITCH_RAD)
            if wide
            else rng.normal(USUAL_PITCH_RAD, np.deg2rad(6)),
            rng.normal(0, np.deg2rad(1.5)),
        ]
    )
    # Three clips of ten turn far, so that one frame shows what another hides.
    swing = rng.uniform(0.2, 1.6) if rng.random() < 0.7 else rng.uniform(1.6, 3.0)
    reach = np.deg2rad([12.0, 6.0, 2.5]) * [swing, min(swing, 2.0), min(swing, 2.0)]
    gap = float(rng.uniform(0.5, 1.8)) * max(1.0, swing)  # who turns far takes the time for it
    keys = [
        np.asarray(centre + reach * rng.normal(size=3), np.float32)
        for _ in range(_n_keys(times, gap))
    ]
    pose = _keyed(rng, times, gap, keys)
    sway = np.sin(times[:, None] * rng.uniform(1, 4, 3) + rng.uniform(0, 6.3, 3)) * reach * 0.15
    pose = pose + sway
    limit = np.array([MAX_YAW_RAD, MAX_PITCH_RAD, np.deg2rad(8)])
    pose = np.clip(pose, -limit, limit)
    return pose[:, 0], pose[:, 1], pose[:, 2]


# ---- what a tracker sees ----------------------------------------------------------------------

LEAK_BIAS_STD = 0.10  # of a unit between identities, at strength 1, before clipping
LEAK_GAIN_STD = 0.15
LEAK_NOISE_STD = 0.02  # of a unit between frames


@cache
def _leak_matrix(code_dim: int) -> FloatArray:
    """[51, code_dim] with unit rows: how the shape of a head shows in each unit; the same for all populations."""
    matrix = np.random.default_rng(404).normal(size=(N_UNITS - 1, code_dim))
    return np.asarray(matrix / np.linalg.norm(matrix, axis=1, keepdims=True), np.float32)


def leakage(code: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Bias [52] and gain [52] at strength 1 that the shape `code` (about unit variance per entry) causes.

    The bias is a linear map of the shape code, so that identity can be read off the observed expression as it can
    be off the expression coefficients of 3DMM fits; its deviation over identities is `LEAK_BIAS_STD`. `_neutral`
    stays zero.
    """
    matrix = _leak_matrix(len(code))
    bias = np.concatenate([[0.0], LEAK_BIAS_STD * (matrix @ code)])
    gain = np.concatenate([[0.0], LEAK_GAIN_STD * (np.roll(matrix, 1, axis=0) @ code)])
    return bias.astype(np.float32), gain.astype(np.float32)


def observe(
    beta_true: FloatArray, code: FloatArray, strength: float, rng: np.random.Generator
) -> FloatArray:
    """The expression as a tracker would report it.

    observed = clip(true * (1 + s * gain) + s * bias + s * noise, 0, 1), bias and gain fixed per identity.

    Args:
        beta_true: float [n, 52].
        code: float [16], of the identity's shape.
        strength: s; 0 returns the truth, 1 is the documented strength.
        rng: for the noise.
    """
    bias, gain = leakage(code)
    noise = rng.normal(0, LEAK_NOISE_STD, beta_true.shape)
    noise[:, 0] = 0.0
    seen = beta_true * (1 + strength * gain) + strength * bias + strength * noise
    return np.clip(seen, 0, 1).astype(np.float32)
