"""The aligned crop: one function for training, test and demo (docs/conventions.md, EG3D's "in the wild" recipe).

Five landmarks are fitted to the five points of a mean face under weak perspective; scale and position of that fit
place the face on a virtual 1024-pixel canvas, whose central 700 pixels become the crop. The picture is not turned:
the head's roll belongs to the camera label. Everything is one similarity, so a photo is resampled once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from conventions.landmarks import EYE_CORNERS, MOUTH_CORNERS, NOSE_TIP

CROP_NAME = "eg3d-wild"
CROP_VERSION = 1
CANVAS_PX = 1024  # side of the virtual canvas
CENTRE_PX = 700  # of it that is kept
RESCALE_FACTOR = 300.0  # canvas pixels per unit of the mean face

# Mean face, Deep3DFaceRecon units (about 10 cm), x right, y up, z towards the camera. Derived from the 68 points of
# Deep3DFaceRecon's similarity_Lm3D_all.mat: means of the eye corners, nose tip, mouth corners.
MEAN_FACE_5 = np.array(
    [
        [-0.3115, 0.2904, 0.1334],  # eye at the image's left
        [0.3098, 0.2897, 0.1316],  # eye at the image's right
        [0.0033, -0.0462, 0.5524],  # nose tip
        [-0.2522, -0.3813, 0.2241],  # mouth corner at the image's left
        [0.2485, -0.3813, 0.2224],  # mouth corner at the image's right
    ]
)


@dataclass(frozen=True)
class CropTransform:
    """Similarity from photo pixels to crop pixels; pixel centres lie at integers + 0.5."""

    matrix: np.ndarray  # float64 [2, 3], photo -> crop
    size: int  # side of the crop, pixels

    def points(self, xy: np.ndarray) -> np.ndarray:
        """Photo pixels [..., 2] -> crop pixels [..., 2]."""
        return np.asarray(xy) @ self.matrix[:, :2].T + self.matrix[:, 2]

    def inverse_points(self, xy: np.ndarray) -> np.ndarray:
        """Crop pixels [..., 2] -> photo pixels [..., 2]."""
        return (np.asarray(xy) - self.matrix[:, 2]) @ np.linalg.inv(self.matrix[:, :2]).T

    @property
    def scale(self) -> float:
        """Crop pixels per photo pixel."""
        return float(np.sqrt(np.linalg.det(self.matrix[:, :2])))

    def resized(self, size: int) -> CropTransform:
        """The same crop at another resolution."""
        return CropTransform(self.matrix * (size / self.size), size)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Photo uint8 [H, W, 3] -> crop uint8 [size, size, 3]; black outside the photo.

        One antialiased resampling (Lanczos); turned transforms, which this project does not make, take bicubic.
        """
        left, top = self.inverse_points(np.zeros(2))
        right, bottom = self.inverse_points(np.full(2, float(self.size)))
        if abs(self.matrix[0, 1]) > 1e-9 * self.scale:
            raise ValueError("a turned crop cannot be applied")
        height, width = image.shape[:2]
        # The window and a margin for the filter, copied out so that black lies where the photo ends.
        margin = int(np.ceil(4 * max(1.0, 1 / self.scale)))
        x0, y0 = int(np.floor(left)) - margin, int(np.floor(top)) - margin
        x1, y1 = int(np.ceil(right)) + margin, int(np.ceil(bottom)) + margin
        window = np.zeros((y1 - y0, x1 - x0, 3), np.uint8)
        sx0, sy0, sx1, sy1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if sx0 < sx1 and sy0 < sy1:
            window[sy0 - y0 : sy1 - y0, sx0 - x0 : sx1 - x0] = image[sy0:sy1, sx0:sx1]
        box = (float(left - x0), float(top - y0), float(right - x0), float(bottom - y0))
        out = Image.fromarray(window).resize(
            (self.size, self.size), Image.Resampling.LANCZOS, box=box
        )
        return np.asarray(out)


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """478 landmarks [478, >=2] -> eyes, nose tip, mouth corners [5, 2], image's left before right.

    An eye is the middle of its corners, not the iris: gaze must not move the crop.
    """
    xy = np.asarray(landmarks, dtype=np.float64)[:, :2]
    eyes = [xy[list(pair)].mean(0) for pair in EYE_CORNERS]
    return np.stack([*eyes, xy[NOSE_TIP], *(xy[i] for i in MOUTH_CORNERS)])


def weak_perspective(points: np.ndarray) -> tuple[float, np.ndarray]:
    """Scale and translation of a mean face under weak perspective (Deep3DFaceRecon's alignment).

    points [5, 2], pixels, y down -> pixels per unit of the mean face, and the pixel [2] where its origin falls.
    Least squares over the rows r1, r2 of a 2 x 3 projection and a translation; scale = (|r1| + |r2|) / 2.
    """
    design = np.concatenate([MEAN_FACE_5, np.ones((5, 1))], axis=1)
    solution, *_ = np.linalg.lstsq(design, np.asarray(points, np.float64), rcond=None)
    rows = np.linalg.norm(solution[:3], axis=0)
    return float(rows.mean()), solution[3]


def crop_parameters(landmarks: np.ndarray) -> np.ndarray:
    """478 landmarks -> (log scale, x, y) float64 [3]: what is smoothed over a video (`crop_from_parameters`).

    scale: pixels per unit of the mean face; x, y: photo pixel that becomes the crop's centre.
    """
    scale, centre = weak_perspective(five_points(landmarks))
    return np.array([np.log(scale), *centre])


def crop_from_parameters(parameters: np.ndarray, size: int) -> CropTransform:
    """Inverse of `crop_parameters`: the transform to a crop of `size` pixels."""
    log_scale, x, y = (float(p) for p in parameters)
    scale = RESCALE_FACTOR / np.exp(log_scale) * (size / CENTRE_PX)
    matrix = np.array([[scale, 0, size / 2 - scale * x], [0, scale, size / 2 - scale * y]])
    return CropTransform(matrix, size)


def crop_transform(landmarks: np.ndarray, size: int) -> CropTransform:
    """478 landmarks in photo pixels -> the aligned crop of `size` x `size` pixels."""
    return crop_from_parameters(crop_parameters(landmarks), size)
