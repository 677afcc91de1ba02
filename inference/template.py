"""Motion templates: a driver's motion without its pictures, to drive with again and again.

    {"kind": "motion", "expression": {space}, "tracker": {"name", "hash"}, "fps": 25.0, "name": "clip.mp4", ...}
    betas float32 [T, D], cameras float32 [T, 25], times_s float64 [T + 1]

A safetensors file like a network's: verified when it is read, never unpickled. Where the eyes look is in the units of
beta. A motion that was written by hand (`motion.py`) becomes the same type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conventions.spaces import ExpressionSpace
from dnnlib.errors import UserError
from inference.motion import Motion
from inference.tracked import Driving
from torch_utils.checkpoints import load_checkpoint, save_checkpoint

TEMPLATE_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Template:
    """A driver of T frames that has no pictures; a `Driving`."""

    name: str
    fps: float
    times_s: np.ndarray  # float64 [T + 1]
    betas: np.ndarray  # float32 [T, D]
    cameras: np.ndarray  # float32 [T, 25]
    space: ExpressionSpace
    tracker: Mapping[str, Any] = field(default_factory=dict)  # name and hash; {}: written by hand
    n_missing: int = 0
    n_others: int = 0
    own_share: np.ndarray | None = None  # float32 [T]: how much of the source's own beta is added

    @property
    def sound(self) -> None:
        """None: a template is silent."""

    def crops(self) -> Iterator[None]:
        """None for each frame: there are no pictures."""
        yield from [None] * len(self.betas)

    def first(self, count: int) -> Template:
        """The first `count` frames, or all."""
        share = None if self.own_share is None else self.own_share[:count]
        return replace(
            self,
            times_s=self.times_s[: count + 1],
            betas=self.betas[:count],
            cameras=self.cameras[:count],
            own_share=share,
        )

    @classmethod
    def of_clip(cls, clip: Driving, space: ExpressionSpace, tracker: Mapping[str, Any]) -> Template:
        """The motion of a tracked clip."""
        seen = (clip.n_missing, clip.n_others)
        return cls(
            clip.name, clip.fps, clip.times_s, clip.betas, clip.cameras, space, tracker, *seen
        )

    @classmethod
    def of_motion(cls, motion: Motion, space: ExpressionSpace, name: str, network: str) -> Template:
        """A motion written by hand, at each of its frames.

        Raises:
            UserError: the space lacks a unit, or the motion moves along directions of beta'.
        """
        motion.check_space(space, 0 if motion.directions else 1, network)
        times_s = np.arange(motion.n_frames + 1) / motion.fps
        nobody = np.zeros(space.dim, np.float32)
        return cls(
            name,
            motion.fps,
            times_s,
            np.stack([motion.beta(t, nobody, space) for t in times_s[:-1]]),
            np.stack([motion.label(t) for t in times_s[:-1]]),
            space,
            own_share=np.array([motion.source_share.at(t) for t in times_s[:-1]], np.float32),
        )


def save_template(path: Path, template: Template) -> None:
    """Write a template, whole or not at all. Raises UserError: the place cannot be written."""
    metadata = {
        "kind": "motion",
        "expression": template.space.to_dict(),
        "tracker": dict(template.tracker),
        "name": template.name,
        "fps": template.fps,
        "n_missing": int(template.n_missing),
        "n_others": int(template.n_others),
    }
    arrays = {"betas": template.betas, "cameras": template.cameras, "times_s": template.times_s}
    state = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
    save_checkpoint(path, state, metadata)


def load_template(path: Path) -> Template:
    """Read a template.

    Raises:
        UserError: it is missing, damaged, another kind of file, or its numbers do not belong together.
    """
    state, metadata = load_checkpoint(path, kind="motion")
    try:
        space = ExpressionSpace.from_dict(metadata["expression"])
        betas, cameras, times_s = (state[n].numpy() for n in ("betas", "cameras", "times_s"))
        frames = len(betas)
        shapes = (betas.shape, cameras.shape, times_s.shape)
        whole = shapes == ((frames, space.dim), (frames, 25), (frames + 1,)) and frames > 0
        fps = float(metadata["fps"])
        if not (whole and (np.diff(times_s) > 0).all() and 0 < fps <= 1000):
            raise ValueError("its numbers do not belong together")
        return Template(
            str(metadata["name"]),
            fps,
            times_s.astype(np.float64),
            betas.astype(np.float32),
            cameras.astype(np.float32),
            space,
            dict(metadata["tracker"]),
            int(metadata["n_missing"]),
            int(metadata["n_others"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is not a complete motion template ({error}); make it anew with gen_videos.py track"
        ) from error
