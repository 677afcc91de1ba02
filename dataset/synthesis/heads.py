"""Synthetic people by number: the same seed and identity always give the same person, expression and picture."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from dataset.synthesis import worn
from dataset.synthesis.appearance import Appearance, sample_appearance
from dataset.synthesis.arrays import FloatArray
from dataset.synthesis.background import make_background
from dataset.synthesis.basis import Part, load_basis
from dataset.synthesis.geometry import Piece, vertex_normals
from dataset.synthesis.hair import grow_hair
from dataset.synthesis.motion import observe
from dataset.synthesis.renderer import HeadImage, Person, assemble, render_head
from dataset.synthesis.shape import Shape, sample_shape

WILD_FRACTION = 0.25


def build_pieces(shape: Shape, look: Appearance, rng: np.random.Generator) -> list[Piece]:
    """All static geometry of an identity."""
    basis = load_basis()
    skin = basis.triangles[basis.part_of_face == Part.SKIN]
    normals = vertex_normals(shape.vertices, skin)
    pieces = [worn.cloth(basis, shape, look, skin, normals)]
    style = look.hair_style
    if style in ("beanie", "scarf"):
        pieces.append(worn.cap(basis, shape, look, skin, rng))
        if style == "beanie" and rng.random() < 0.6:
            pieces += grow_hair(
                basis, shape, look, skin, normals, rng, str(rng.choice(["short", "medium", "long"]))
            )
    elif style != "bald":
        pieces += grow_hair(basis, shape, look, skin, normals, rng, style)
    if look.glasses is not None:
        pieces.append(worn.glasses(basis, shape, look.glasses))
    return pieces


class SyntheticHeads:
    """Ground truth on demand: any expression and any camera on any identity.

    Args:
        seed: of the population; identity 5 of seed 0 and of seed 1 are different people.
        wild_fraction: share of identities with random strong colours, patterns and lights.
        cache_size: people kept ready (a person takes about 3 MB and 0.5 s to build).
    """

    def __init__(
        self, seed: int = 0, wild_fraction: float = WILD_FRACTION, cache_size: int = 4
    ) -> None:
        self.seed = seed
        self.wild_fraction = wild_fraction
        self.person = lru_cache(maxsize=cache_size)(self._build)

    def _rng(self, identity_id: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, identity_id, stream])

    def _build(self, identity_id: int) -> Person:
        wild = self._rng(identity_id, 0).random() < self.wild_fraction
        shape = sample_shape(self._rng(identity_id, 1), strength=1.35 if wild else 1.0)
        look = sample_appearance(
            self._rng(identity_id, 2), shape.age, shape.masculinity, shape.origin, wild
        )
        pieces = build_pieces(shape, look, self._rng(identity_id, 3))
        background = make_background(self._rng(identity_id, 4), wild)
        return assemble(shape, look, pieces, background, self.seed * 1_000_003 + identity_id)

    def observe(
        self, identity_id: int, beta_true: FloatArray, strength: float = 1.0, noise_seed: int = 0
    ) -> FloatArray:
        """What a tracker would report of `beta_true` (float [n, 52]) on this identity; see `motion.observe`."""
        rng = self._rng(identity_id, 5000 + noise_seed)
        return observe(
            np.asarray(beta_true, np.float32), self.person(identity_id).shape.code, strength, rng
        )

    def render(
        self,
        identity_id: int,
        beta_true: FloatArray,
        camera_label: FloatArray,
        resolution: int = 128,
        samples: int = 2,
        background_in: str = "image",
        light_in: str = "head",
        sensor_noise: bool = True,
    ) -> HeadImage:
        """The identity with the expression `beta_true` (float [52]) seen from `camera_label` (float [25])."""
        return render_head(
            self.person(identity_id),
            beta_true,
            camera_label,
            resolution,
            samples,
            background_in,
            light_in,
            sensor_noise,
        )
