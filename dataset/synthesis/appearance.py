"""What a synthetic person looks like apart from the shape: colours, patterns, hair style, clothes, light, background.

All colours are linear RGB in 0..1. A share of people is `wild`: random strong colours and patterns on everything,
so that a network has to copy what it sees instead of learning a palette of skins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dataset.synthesis.arrays import FloatArray

_SKIN_SRGB = np.array(
    [
        [250, 222, 206], [242, 204, 180], [232, 186, 156], [220, 168, 132], [200, 145, 108],
        [172, 118, 84], [140, 92, 64], [106, 68, 48], [78, 50, 38], [56, 38, 31],
    ],
    np.float32,
)  # fmt: skip
_HAIR_SRGB = np.array(
    [
        [22, 18, 17], [38, 28, 22], [62, 42, 29], [92, 62, 38], [128, 92, 56], [172, 134, 84],
        [214, 184, 134], [150, 72, 36], [110, 44, 26], [120, 118, 116], [196, 196, 196], [235, 234, 230],
    ],
    np.float32,
)  # fmt: skip
_IRIS_SRGB = np.array(
    [[58, 34, 20], [84, 52, 28], [112, 80, 42], [98, 108, 66], [84, 116, 140], [112, 138, 156], [66, 88, 112]],
    np.float32,
)  # fmt: skip

HAIR_STYLES = ("bald", "buzz", "short", "medium", "long", "tied", "curly", "beanie", "scarf")
HAIR_SHARE = (0.06, 0.10, 0.28, 0.17, 0.19, 0.07, 0.07, 0.035, 0.025)
PATTERNS = ("plain", "stripes", "checks", "blobs", "speckle")


def srgb_to_linear(colour: FloatArray) -> FloatArray:
    """sRGB 0..255 -> linear 0..1."""
    c = np.asarray(colour, np.float32) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4).astype(np.float32)


@dataclass(frozen=True)
class Pattern:
    """Two colours laid over a surface: mix of `first` and `second` by a pattern of `frequency` per dm."""

    kind: str
    first: FloatArray
    second: FloatArray
    frequency: float
    direction: FloatArray


@dataclass(frozen=True)
class Brow:
    """An eyebrow: place and form in decimetres around the template's."""

    density: float
    width_dm: float
    height_dm: float
    arch_dm: float
    tilt: float
    inner_dm: float
    outer_dm: float


@dataclass(frozen=True)
class Beard:
    """Cover in 0..1 by place; stubble has no length."""

    moustache: float = 0.0
    chin: float = 0.0
    cheeks: float = 0.0
    length_dm: float = 0.0


@dataclass(frozen=True)
class Glasses:
    """Form of the frame; `square` is the power of its superellipse."""

    half_width_dm: float
    half_height_dm: float
    square: float
    thickness_dm: float
    drop_dm: float
    tint: float


@dataclass(frozen=True)
class Light:
    """Unit directions [3] and linear colours [3] of key and rim light; the ambient differs above, below, aside."""

    key: FloatArray
    key_colour: FloatArray
    rim: FloatArray
    rim_colour: FloatArray
    ambient: FloatArray
    ambient_up: FloatArray
    ambient_side: FloatArray
    shadow_softness: FloatArray  # scalar


@dataclass(frozen=True)
class Camera:
    """What a person's camera makes of the light, see sensor.py."""

    exposure: float
    contrast: float
    saturation: float
    noise: float
    blur_px_at_128: float
    lift: float


@dataclass(frozen=True)
class Appearance:
    """Everything the materials and the light need; see `sample_appearance` for the ranges."""

    wild: bool
    skin: FloatArray
    skin_pattern: Pattern
    skin_pattern_strength: float
    redness: float
    blotches: float
    freckles: float
    wrinkles: float
    shine: float
    roughness: float
    lips: FloatArray
    lip_strength: float
    eyeshadow: FloatArray
    eyeshadow_strength: float
    eyeliner: float
    dark_circles: float
    brow_colour: FloatArray
    brow: Brow
    beard_colour: FloatArray
    beard: Beard
    iris: FloatArray
    iris_size: float
    pupil_size: float
    sclera: FloatArray
    teeth: FloatArray
    hair_style: str
    hair: FloatArray
    hair_tips: FloatArray
    hair_pattern: Pattern
    hair_pattern_strength: float
    hairline_lift_dm: float
    cloth: Pattern
    collar_dm: float
    glasses: Glasses | None
    glasses_colour: FloatArray
    light: Light
    camera: Camera


def _colour(rng: np.random.Generator, saturation: float = 1.0) -> FloatArray:
    """A random linear colour with a wide range of brightness."""
    hue = rng.random(3)
    hue = (hue - hue.min()) / (np.ptp(hue) + 1e-6)
    chroma = rng.beta(1.2, 1.6) * saturation
    value = rng.beta(1.1, 1.6)
    return np.clip(value * (1 - chroma + chroma * hue), 0.004, 1).astype(np.float32)


def _pattern(rng: np.random.Generator, kinds: tuple[str, ...], saturation: float = 1.0) -> Pattern:
    direction = rng.normal(size=3).astype(np.float32)
    direction /= np.linalg.norm(direction)
    return Pattern(
        kind=str(rng.choice(kinds)),
        first=_colour(rng, saturation),
        second=_colour(rng, saturation),
        frequency=float(rng.uniform(0.6, 4.0)),
        direction=direction,
    )


def _gradient(rng: np.random.Generator, table: FloatArray, position: float) -> FloatArray:
    x = np.clip(position, 0, 1) * (len(table) - 1)
    low = int(min(np.floor(x), len(table) - 2))
    colour = table[low] * (1 - (x - low)) + table[low + 1] * (x - low)
    return srgb_to_linear(np.clip(colour * rng.normal(1, 0.03, 3), 0, 255).astype(np.float32))


def sample_appearance(
    rng: np.random.Generator, age: float, masculinity: float, origin: FloatArray, wild: bool
) -> Appearance:
    """Draw an appearance.

    Args:
        rng: the identity's random stream for appearance.
        age, masculinity, origin: of the shape; they bend the probabilities, they decide nothing.
        wild: random strong colours and patterns on everything.
    """
    man, old = masculinity > 0.5, age > 0.7
    darkness = 0.68 * origin[0] + 0.26 * origin[1] + 0.10 * origin[2] + rng.normal(0, 0.16)
    if rng.random() < 0.25:
        darkness = rng.random()
    skin = _gradient(rng, _SKIN_SRGB, float(np.clip(darkness, 0, 1)))
    if wild and rng.random() < 0.6:
        skin = _colour(rng)
    made_up = (not man) and age > 0.35 and rng.random() < 0.55
    lips = skin * np.array([0.86, 0.58, 0.58]) * rng.uniform(0.7, 1.1)
    if made_up and rng.random() < 0.6:
        lips = srgb_to_linear(
            np.array([rng.uniform(110, 215), rng.uniform(15, 95), rng.uniform(30, 110)])
        )
    hair = _hair_colour(rng, darkness, old)
    if wild and rng.random() < 0.7:
        hair = _colour(rng)
    style = _hair_style(rng, man, age)
    brow_colour = (
        hair * rng.uniform(0.4, 0.9)
        if style != "bald"
        else _gradient(rng, _HAIR_SRGB, rng.uniform(0, 0.4))
    )
    return Appearance(
        wild=wild,
        skin=skin,
        skin_pattern=_pattern(rng, ("stripes", "checks", "blobs", "speckle")),
        skin_pattern_strength=float(rng.uniform(0.15, 0.8))
        if wild and rng.random() < 0.55
        else 0.0,
        redness=float(rng.gamma(1.6, 0.35)),
        blotches=float(min(rng.gamma(2.0, 0.018), 0.06)),
        freckles=float(rng.uniform(0.2, 1.0)) if rng.random() < 0.18 else 0.0,
        wrinkles=float(np.clip((age - 0.5) * 1.9 + rng.normal(0.08, 0.12), 0, 1)),
        shine=float(min(rng.gamma(2.0, 0.35), 2.0)),
        roughness=float(rng.uniform(0.36, 0.7)),
        lips=np.asarray(lips, np.float32),
        lip_strength=float(rng.uniform(0.8, 1.0) if made_up else rng.uniform(0.3, 0.85)),
        eyeshadow=_colour(rng) if made_up else skin * 0.55,
        eyeshadow_strength=float(rng.uniform(0.1, 0.8)) if made_up else float(rng.uniform(0, 0.25)),
        eyeliner=float(rng.uniform(0.5, 1.0)) if made_up else float(rng.uniform(0.1, 0.55)),
        dark_circles=float(rng.uniform(0, 0.5)) * (0.6 + 0.4 * age),
        brow_colour=np.asarray(brow_colour, np.float32),
        brow=Brow(
            density=float(rng.uniform(0.45, 1.0)),
            width_dm=float(rng.uniform(0.022, 0.06) + 0.012 * man),
            # where a tracker reads a face at rest as one at rest, not as one with raised brows
            height_dm=float(np.clip(rng.normal(-0.04, 0.02), -0.07, 0.01)),
            arch_dm=float(rng.uniform(0.0, 0.09)),
            tilt=float(rng.normal(0.02, 0.08)),
            inner_dm=float(rng.uniform(0.08, 0.17)),
            outer_dm=float(rng.uniform(0.48, 0.6)),
        ),
        beard_colour=np.asarray(hair * rng.uniform(0.35, 0.9), np.float32),
        beard=_beard(rng, man and age > 0.42),
        iris=_gradient(
            rng,
            _IRIS_SRGB,
            float(np.clip(rng.beta(1, 2.2) if origin[2] < 0.5 else rng.random(), 0, 1)),
        ),
        iris_size=float(rng.uniform(0.42, 0.5)),
        pupil_size=float(rng.uniform(0.13, 0.24)),
        sclera=srgb_to_linear(
            np.array([216, 208, 204]) * rng.normal(1, 0.03, 3) * rng.uniform(0.85, 1.0)
        ),
        teeth=srgb_to_linear(np.array([240, 232, 214]) * rng.uniform(0.8, 1.0)),
        hair_style=style,
        hair=np.asarray(hair, np.float32),
        hair_tips=np.asarray(
            _colour(rng) if rng.random() < 0.08 else hair * rng.uniform(0.8, 1.5), np.float32
        ),
        hair_pattern=_pattern(rng, ("stripes", "blobs", "speckle")),
        hair_pattern_strength=float(rng.uniform(0.2, 0.8)) if wild and rng.random() < 0.4 else 0.0,
        hairline_lift_dm=float(
            rng.normal(0, 0.07) + (abs(rng.normal(0, 0.14)) if man and age > 0.5 else 0)
        ),
        cloth=_pattern(rng, PATTERNS, 0.9),
        collar_dm=float(
            rng.choice([rng.uniform(5.35, 5.75), rng.uniform(5.75, 6.05)], p=[0.65, 0.35])
        ),
        glasses=_glasses(rng) if rng.random() < 0.14 else None,
        glasses_colour=_colour(rng, 0.8) * (0.25 if rng.random() < 0.7 else 1.0),
        light=_light(rng, wild, float(skin @ np.array([0.2126, 0.7152, 0.0722], np.float32))),
        camera=_camera(rng, wild),
    )


def _hair_colour(rng: np.random.Generator, darkness: float, old: bool) -> FloatArray:
    if old and rng.random() < 0.6:
        return _gradient(rng, _HAIR_SRGB[9:], rng.random())
    if rng.random() < 0.06:
        return _colour(rng)
    if darkness > 0.45 or rng.random() < 0.35:
        return _gradient(rng, _HAIR_SRGB[:3], rng.random())
    if rng.random() < 0.1:
        return _gradient(rng, _HAIR_SRGB[7:9], rng.random())
    return _gradient(rng, _HAIR_SRGB[:7], rng.random())


def _hair_style(rng: np.random.Generator, man: bool, age: float) -> str:
    share = np.array(HAIR_SHARE)
    if man:
        share = share * np.array([1.8, 1.8, 1.6, 0.6, 0.25, 0.3, 1.0, 1.2, 0.1])
        if age > 0.7:
            share[0] *= 2.0
    else:
        share = share * np.array([0.15, 0.2, 0.5, 1.5, 1.8, 1.8, 1.0, 0.8, 1.8])
    return str(rng.choice(HAIR_STYLES, p=share / share.sum()))


def _beard(rng: np.random.Generator, possible: bool) -> Beard:
    if not possible or rng.random() < 0.38:
        return Beard()
    kind = rng.choice(["stubble", "full", "goatee", "moustache"], p=[0.5, 0.27, 0.13, 0.10])
    if kind == "stubble":
        level = float(rng.uniform(0.15, 0.6))
        return Beard(
            moustache=level,
            chin=level,
            cheeks=level * float(rng.uniform(0.4, 1)),
        )
    level = float(rng.uniform(0.75, 1.0))
    return Beard(
        moustache=level if kind != "full" or rng.random() < 0.9 else 0.2,
        chin=0.0 if kind == "moustache" else level,
        cheeks=level if kind == "full" else 0.0,
        length_dm=float(rng.uniform(0.01, 0.09)),
    )


def _glasses(rng: np.random.Generator) -> Glasses:
    return Glasses(
        half_width_dm=float(rng.uniform(0.2, 0.27)),
        half_height_dm=float(rng.uniform(0.13, 0.23)),
        square=float(rng.uniform(2.0, 5.0)),
        thickness_dm=float(rng.uniform(0.01, 0.028)),
        drop_dm=float(rng.uniform(0.0, 0.08)),
        tint=float(rng.uniform(0.0, 0.25)) if rng.random() < 0.85 else 0.85,
    )


def _light(rng: np.random.Generator, wild: bool, skin_grey: float) -> Light:
    def direction(azimuth_deg: float, elevation_deg: float) -> FloatArray:
        a, e = np.deg2rad(azimuth_deg), np.deg2rad(elevation_deg)
        return np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)], np.float32)

    warmth = rng.normal(0, 0.12 if not wild else 0.3)
    tint = np.array([1 + warmth, 1.0, 1 - warmth])
    key_share = rng.uniform(0.25, 0.9)
    azimuth = rng.normal(0, 45) if rng.random() < 0.7 else rng.uniform(-110, 110)
    key = direction(azimuth, rng.uniform(-5, 65))
    ambient_tint = np.array([1 - 0.6 * warmth, 1.0, 1 + 0.6 * warmth]) * rng.normal(1, 0.05, 3)
    if wild and rng.random() < 0.5:
        tint, ambient_tint = (
            tint * (0.4 + 1.2 * rng.random(3)),
            ambient_tint * (0.4 + 1.2 * rng.random(3)),
        )
    ambient = (1 - key_share) * 0.75
    side = rng.normal(0, 0.25, 3)
    light = Light(
        key=key,
        key_colour=np.asarray(1.6 * key_share * tint, np.float32).clip(0),
        rim=direction(rng.choice([-1, 1]) * rng.uniform(110, 165), rng.uniform(0, 50)),
        rim_colour=np.asarray(rng.gamma(1.0, 0.35) * tint[::-1], np.float32).clip(0),
        ambient=np.asarray(ambient * ambient_tint, np.float32).clip(0.03),
        ambient_up=np.asarray(ambient * ambient_tint * rng.uniform(0.05, 0.45), np.float32).clip(0),
        ambient_side=np.asarray(ambient * side, np.float32),
        shadow_softness=np.asarray(rng.uniform(0.0, 0.07), np.float32),
    )
    return _exposed(light, skin_grey)


def _exposed(light: Light, skin_grey: float) -> Light:
    """The same light at the strength at which a photographer exposes the front of a face."""
    tilt = np.array([[x, y] for x in (-0.6, 0.0, 0.6) for y in (-0.4, 0.1, 0.5)], np.float32)
    normal = np.concatenate([tilt, np.sqrt(1 - (tilt**2).sum(axis=1, keepdims=True))], axis=1)
    grey = np.array([0.2126, 0.7152, 0.0722], np.float32)
    key = np.clip(normal @ light.key, 0, 1) * float(light.key_colour @ grey)
    ambient = float(light.ambient @ grey) + normal[:, 1] * float(light.ambient_up @ grey)
    # Dark skin is exposed longer, though not until it looks light.
    goal = 0.82 * max(skin_grey / 0.35, 0.05) ** -0.22
    strength = np.float32(goal / max(0.15, float(np.mean(key + 0.8 * ambient))))
    return replace(
        light,
        key_colour=light.key_colour * strength,
        rim_colour=light.rim_colour * strength,
        ambient=light.ambient * strength,
        ambient_up=light.ambient_up * strength,
        ambient_side=light.ambient_side * strength,
    )


def _camera(rng: np.random.Generator, wild: bool) -> Camera:
    spread = 2.0 if wild else 1.0
    return Camera(
        exposure=float(2 ** np.clip(rng.normal(-0.1, 0.28 * spread), -1.2, 0.6)),
        contrast=float(rng.uniform(0.9, 1.2)),
        saturation=float(np.clip(rng.normal(1.0, 0.15 * spread), 0.0, 1.8))
        if rng.random() > 0.02
        else 0.0,
        noise=float(min(rng.gamma(1.2, 0.004), 0.016)),
        blur_px_at_128=float(max(0.0, rng.normal(0.25, 0.22))),
        lift=float(max(0.0, rng.normal(0.0, 0.015))),
    )
