"""How much of a driver's motion reaches a source, and where: the rest stays the source's own.

Expression and pose are carried over as they are, or as their change from the driver's reference frame; the change is
added to what the source shows, so a clip whose reference is its first frame begins with the source's own face.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from conventions.cameras import label_angles_rad, turned
from conventions.gaze import GAZES, Gaze, has_gaze, looking, towards_camera_rad
from conventions.spaces import POSE, REGIONS, ExpressionSpace, units_of
from dnnlib.errors import UserError
from inference.motion import Reference, reference_frame, space_limits, transfer
from inference.photo import Photo
from inference.tracked import Driving


@dataclass(frozen=True, kw_only=True)
class Steer:
    """What of the driver's motion is taken over."""

    relative: bool = False  # the change from the reference frame, added to the source's own
    reference: Reference = "neutral"  # the driver's resting face, for relative
    strength: float = 1.0  # of the expression: 0 none, 1 the driver's, above 1 exaggerated
    regions: tuple[str, ...] = ()  # of REGIONS, that follow the driver; (): everything does
    gaze: Gaze = "driver"  # where the eyes look, see `conventions.gaze`

    def __post_init__(self) -> None:
        if unknown := set(self.regions) - set(REGIONS):
            raise ValueError(f"{sorted(unknown)} are no regions; they are {', '.join(REGIONS)}")
        if self.gaze not in GAZES and len(self.gaze) != 2:
            raise ValueError(
                f"gaze {self.gaze!r} is none of {', '.join(GAZES)} and no yaw and pitch"
            )


class Steering:
    """A driver's motion as one network's sources are to show it.

    Raises:
        UserError: the network's expression space has no units of that name for a region or for the eyes.
    """

    def __init__(
        self,
        space: ExpressionSpace,
        driving: Driving,
        steer: Steer,
        what: str = "the network",  # whose space it is, for messages
    ) -> None:
        self._betas, self._cameras, self._steer = driving.betas, driving.cameras, steer
        self._own_share = driving.own_share
        self._limits = space_limits(space)
        self._rest = reference_frame(driving.betas, steer.reference)
        self._taken = np.ones(space.dim, bool)
        if steer.regions:
            self._taken[:] = False
            for region in (r for r in steer.regions if r != POSE):
                units = units_of(space, region)
                if not units:
                    raise UserError(
                        f"the expression space {space.name!r} of {what} has no units of the name of {region}; "
                        f"leave the region out, or give a network of the space arkit52"
                    )
                self._taken[list(units)] = True
        self._space = space
        if steer.gaze != "driver" and not has_gaze(space):
            raise UserError(
                f"the expression space {space.name!r} of {what} has no units for where the eyes look; "
                f"leave --gaze out, or give a network of the space arkit52"
            )
        if steer.gaze == "photo":
            self._taken[list(units_of(space, "gaze"))] = False
        self._poses = not steer.regions or POSE in steer.regions

    def beta(self, t: int, source: Photo, view: np.ndarray) -> np.ndarray:
        """The expression float32 [D] that a source shows in the driver's frame t, seen from the label `view` [25]."""
        steer = self._steer
        pair = self._betas[[self._rest, t]]
        moved = transfer(
            pair, source.beta, steer.relative, "first", self._limits, strength=steer.strength
        )[1]
        if self._own_share is not None and not steer.relative:
            moved = moved + self._own_share[t] * source.beta
            moved = moved if self._limits is None else np.clip(moved, *self._limits)
        moved = np.where(self._taken, moved, source.beta).astype(np.float32)
        if steer.gaze == "camera":
            return looking(moved, *towards_camera_rad(view), self._space)
        if isinstance(steer.gaze, tuple):
            yaw_deg, pitch_deg = steer.gaze
            return looking(moved, math.radians(yaw_deg), math.radians(pitch_deg), self._space)
        return moved

    def camera(self, t: int, source: Photo) -> np.ndarray:
        """The camera label float32 [25] from which a source is seen in the driver's frame t."""
        if not self._poses:
            return source.camera
        if not self._steer.relative:
            return np.asarray(self._cameras[t])
        now, rest = (label_angles_rad(self._cameras[i]) for i in (t, self._rest))
        return turned(source.camera, *(float(a - b) for a, b in zip(now, rest, strict=True)))
