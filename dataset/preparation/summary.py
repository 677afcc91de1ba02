"""What the report says of a clip, and the thumbnails of a video."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from conventions.crop import CropTransform
from dataset.preparation.judge import Quality
from tracking.tracker import TrackedFrame

THUMBNAIL_PX = 96
MAX_KEPT = 6  # pictures of a video's clips
_MAX_SAMPLES = 20_000  # of a clip's frames, for medians: memory does not grow with the video


class ClipSummary:
    """Counts, medians and jitter of one clip."""

    def __init__(self) -> None:
        self.name, self.person, self.identity, self.split = "", 0, 0, ""
        self.n_frames = 0
        self.first_crop: np.ndarray | None = None
        self._times = (0.0, 0.0)
        self._qualities: list[tuple[float, float, float, float]] = []
        self._places: list[tuple[int, np.ndarray]] = []  # of the last three frames
        self._jitter: list[np.ndarray] = []

    def begin(self, name: str, person: int, identity: int, split: str) -> None:
        self.name, self.person, self.identity, self.split = name, person, identity, split

    def add(self, frame: TrackedFrame, quality: Quality) -> None:
        """A kept frame."""
        if self.first_crop is None:
            self.first_crop = frame.crop
            self._times = (frame.time_s, frame.time_s)
        self._times = (self._times[0], frame.time_s)
        self.n_frames += 1
        if len(self._qualities) < _MAX_SAMPLES:
            self._qualities.append(
                (quality.sharpness, quality.face_px, quality.fit, frame.confidence)
            )

    def add_jitter(self, raw: CropTransform, steady: CropTransform, index: int) -> None:
        """Where the crop lay before and after smoothing.

        Jitter is the second difference in time of the crop's upper left corner, in pixels of the crop: zero for even
        motion, whatever its speed.
        """
        corner = np.zeros(2)
        place = np.stack([t.inverse_points(corner) for t in (raw, steady)]) * steady.scale
        self._places = [*self._places[-2:], (index, place)]
        if [i for i, _ in self._places] == [index - 2, index - 1, index]:
            a, b, c = (p for _, p in self._places)
            if len(self._jitter) < _MAX_SAMPLES:
                self._jitter.append(np.linalg.norm(a - 2 * b + c, axis=1))

    def to_dict(self, embedding: np.ndarray | None) -> dict[str, Any]:
        """JSON values; numbers rounded, so that the record does not depend on the last bit."""
        sharpness, face_px, fit, confidence = np.median(np.array(self._qualities), axis=0)
        jitter = np.mean(self._jitter, axis=0) if self._jitter else np.zeros(2)
        return {
            "name": self.name,
            "person": self.person,
            "identity": self.identity,
            "split": self.split,
            "frames": self.n_frames,
            "start_s": round(float(self._times[0]), 3),
            "end_s": round(float(self._times[1]), 3),
            "sharpness": round(float(sharpness), 1),
            "face_px": round(float(face_px), 1),
            "fit": round(float(fit), 5),
            "confidence": round(float(confidence), 4),
            "jitter_px": [round(float(j), 4) for j in jitter],
            "embedding": None if embedding is None else [round(float(v), 4) for v in embedding],
        }


class Thumbnails:
    """One small picture of each clip and of each reason for which frames were left out."""

    def __init__(self) -> None:
        self._kept: list[np.ndarray] = []
        self._rejected: dict[str, np.ndarray] = {}

    def kept(self, crop: np.ndarray | None) -> None:
        if crop is not None and len(self._kept) < MAX_KEPT:
            self._kept.append(_small(crop))

    def rejected(self, reason: str, picture: np.ndarray) -> None:
        if reason not in self._rejected:
            self._rejected[reason] = _small(picture)

    def jpeg(self) -> bytes | None:
        """A strip: clips, then reasons in the order of their names, those with a red edge. None: no pictures."""
        strips = list(self._kept)
        for _, picture in sorted(self._rejected.items()):
            marked = picture.copy()
            marked[:3] = marked[-3:] = (200, 30, 30)
            marked[:, :3] = marked[:, -3:] = (200, 30, 30)
            strips.append(marked)
        if not strips:
            return None
        buffer = io.BytesIO()
        Image.fromarray(np.concatenate(strips, axis=1)).save(buffer, format="JPEG", quality=85)
        return buffer.getvalue()


def _small(picture: np.ndarray) -> np.ndarray:
    """The whole picture on a square of THUMBNAIL_PX, black around it."""
    image = Image.fromarray(picture)
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BILINEAR)
    out = Image.new("RGB", (THUMBNAIL_PX, THUMBNAIL_PX))
    out.paste(image, ((THUMBNAIL_PX - image.width) // 2, (THUMBNAIL_PX - image.height) // 2))
    return np.asarray(out)
