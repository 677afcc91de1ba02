"""Write astronaut_mediapipe.json: MediaPipe's own numbers for scikit-image's astronaut, plain JSON.

    python tests/data/make_mediapipe_reference.py path/to/face_landmarker.task [where/to/write.json]

Needs mediapipe and scikit-image. MediaPipe may contact its vendor while it runs; the tests read only the file, except
`make test-reference`, which runs this script anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mediapipe
import skimage.data
from mediapipe.tasks.python import BaseOptions, vision

STORED = Path(__file__).with_name("astronaut_mediapipe.json")


def main(task: str, target: Path = STORED) -> None:
    """Run the face landmarker in its image mode and store what it says."""
    image = skimage.data.astronaut()
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=task),
        output_face_blendshapes=True,
        output_facial_transformation_matrixes=True,
    )
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        found = landmarker.detect(
            mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image)
        )
    height, width = image.shape[:2]
    content = {
        "image": "skimage.data.astronaut()",
        "mediapipe": mediapipe.__version__,
        "landmarks_px": [
            [round(p.x * width, 3), round(p.y * height, 3), round(p.z * width, 3)]
            for p in found.face_landmarks[0]
        ],
        "blendshapes": {c.category_name: round(c.score, 5) for c in found.face_blendshapes[0]},
        "transform": [
            [round(float(v), 5) for v in row] for row in found.facial_transformation_matrixes[0]
        ],
    }
    target.write_text(json.dumps(content) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:3]))
