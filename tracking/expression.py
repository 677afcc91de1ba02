"""What measures expression and camera of an aligned face: three kinds behind one interface.

    Blendshapes   the landmark model's own 52, built in
    Regression    Deep3DFaceRecon's 64 coefficients, weights given by path (deep3d.py)
    FromPlugin    whatever the user brings: an `ExpressionPlugin`

Landmarks and the aligned crop are always the built-in ones, so that data of all trackers look alike.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple
from typing import Protocol as Interface

import numpy as np

from conventions.spaces import ARKIT52, BFM64, ExpressionSpace
from dnnlib.errors import UserError
from tracking.landmarker import Landmarker
from tracking.media import Frame


@dataclass(frozen=True)
class Measurement:
    """What one frame says by itself; for missing frames the arrays are None."""

    frame: Frame
    parameters: np.ndarray | None  # of the crop
    landmarks: np.ndarray | None  # [478 * 3], photo pixels
    blendshapes: np.ndarray | None  # [52]
    confidence: float
    cut: bool = False  # it has nothing to do with the frame before
    other_face: bool = False  # another face is seen, and not the one that is followed


class Reading(NamedTuple):
    """Expression of a frame in its steady crop, and what else is known of it."""

    beta: np.ndarray  # [D]
    camera: np.ndarray | None = None  # label [25]; None: to be fitted to the landmarks
    five_points: np.ndarray | None = None  # [5, 3], world, of the person's own face


class ExpressionPlugin(Interface):
    """What the user can bring to measure expression and camera: a network, or results of an earlier run."""

    space: ExpressionSpace  # what the numbers mean; stored with the dataset
    hash: str  # of weights: changes whenever the same frame would give other numbers; "": not known
    smooth: bool  # whether jitter shall be filtered out of beta

    def begin(self, video: str) -> None:
        """A new video of this name; its frames follow in their order."""
        ...

    def measure(
        self, frame: Frame, parameters: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None] | None:
        """beta [D] and camera label [25] of a frame with these `crop_parameters`.

        A camera of None is fitted to the landmarks; None altogether: this frame cannot be used.
        """
        ...


class ExpressionReader(Interface):
    """One of the three kinds."""

    space: ExpressionSpace
    hash: str
    smooth: bool
    files: str  # hash of what decides about frames, but changes neither beta nor camera; "" for nothing

    def first(self, measured: Measurement) -> np.ndarray:
        """beta [D] to hold until a frame gives one; `measured` is the first frame that shows a face."""
        ...

    def read(self, measured: Measurement, parameters: np.ndarray) -> Reading | None:
        """A frame with these steady `crop_parameters`; None: it has no expression of its own."""
        ...


class Blendshapes:
    """The landmark model's own expression. Landmarks tell the camera."""

    smooth = True
    space = ARKIT52
    files = ""

    def __init__(self, landmarker: Landmarker) -> None:
        self.hash = landmarker.hash

    def first(self, measured: Measurement) -> np.ndarray:
        assert measured.blendshapes is not None
        return measured.blendshapes

    def read(self, measured: Measurement, parameters: np.ndarray) -> Reading | None:
        return None if measured.blendshapes is None else Reading(measured.blendshapes)


class Regression:
    """Deep3DFaceRecon's regressor, which also reads a frame whose face was lost."""

    smooth = True
    space = BFM64

    def __init__(
        self, weights: str | os.PathLike[str], bfm_model: str | os.PathLike[str] | None = None
    ) -> None:
        from tracking.deep3d import Deep3DRegressor  # here: torchvision takes a second to import

        self._regressor = Deep3DRegressor(weights, bfm_model)
        self.hash = self._regressor.hash
        basel = self._regressor.basel
        self.files = "" if basel is None else basel.hash

    def first(self, measured: Measurement) -> np.ndarray:
        return np.zeros(self.space.dim, np.float32)

    def read(self, measured: Measurement, parameters: np.ndarray) -> Reading | None:
        return Reading(*self._regressor(measured.frame.image, parameters))


class FromPlugin:
    """An `ExpressionPlugin`."""

    def __init__(self, plugin: ExpressionPlugin) -> None:
        self._plugin = plugin
        self.space, self.hash, self.smooth = plugin.space, plugin.hash, plugin.smooth
        self.files: str = getattr(plugin, "files", "")

    def first(self, measured: Measurement) -> np.ndarray:
        return np.zeros(self.space.dim, np.float32)

    def read(self, measured: Measurement, parameters: np.ndarray) -> Reading | None:
        found = self._plugin.measure(measured.frame, parameters)
        return None if found is None else Reading(*found)


def expression_reader(
    space: str,  # its name
    landmarker: Landmarker,
    weights: str | os.PathLike[str] | None = None,  # Deep3DFaceRecon's, for bfm64
    bfm_model: str | os.PathLike[str] | None = None,
) -> ExpressionReader:
    """What measures a built-in space. Raises UserError: there is no such space, or weights are missing."""
    if space == ARKIT52.name:
        return Blendshapes(landmarker)
    if space != BFM64.name:
        raise UserError(f"no tracker measures the expression space {space!r}; use arkit52 or bfm64")
    if weights is None:
        raise UserError(
            "bfm64 needs the weights of Deep3DFaceRecon (its epoch_20.pth); give their path or use arkit52"
        )
    return Regression(weights, bfm_model)
