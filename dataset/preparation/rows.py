"""What is stored of a frame."""

from __future__ import annotations

from typing import Any

import numpy as np

from conventions.landmarks import LANDMARKS_70
from dataset.codecs import encode_image
from dataset.preparation.judge import Quality
from dataset.preparation.options import VideoOptions
from dataset.preparation.people import gaze
from tracking.tracker import TrackedFrame


def encoded_row(
    frame: TrackedFrame, quality: Quality, options: VideoOptions, mask: np.ndarray | None
) -> dict[str, Any]:
    """What `ShardWriter.add_frame` takes, the image encoded."""
    size = frame.transform.size
    matrix = frame.transform.matrix
    points = frame.landmarks[list(LANDMARKS_70), :2] / size
    return {
        "image": encode_image(frame.crop, options.codec),
        "camera": frame.camera,
        "beta": frame.beta,
        "time_s": frame.time_s,
        "confidence": frame.confidence,
        "gaze": gaze(frame.landmarks),
        "crop": np.array([frame.transform.scale, matrix[0, 2], matrix[1, 2]], np.float32),
        "quality": np.array([quality.sharpness, quality.face_px, quality.fit], np.float32),
        **({"landmarks": points.ravel()} if options.landmarks else {}),
        **({"mask": mask} if mask is not None else {}),
    }
