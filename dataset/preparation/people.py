"""Which face is followed, who it is, where it looks."""

from __future__ import annotations

from functools import partial

import numpy as np
from PIL import Image

from conventions.landmarks import EYE_CORNERS, IRISES
from dataset.preparation.sources import Box
from pretrained.identity import IdentityLoss
from tracking.following import HELD_FOR, SAME_PERSON, STRANGER, Embed, OneFace, embed
from tracking.landmarker import Detection, Landmarker, TrackState, roi_of

_NEW_PERSON_AFTER = 8  # embeddings a person keeps


class Follower:
    """The main face of a shot: the largest in the shot's first frame that has one, then the same one on.

    While it is hidden, nobody who stands beside takes its place (`OneFace`); after HELD_FOR frames another face may
    begin. Where a source says by boxes where its face is, they decide.
    """

    def __init__(
        self,
        landmarker: Landmarker,
        box: Box | None,
        box_size: tuple[int, int] | None = None,
        embedder: IdentityLoss
        | None = None,  # None: everybody looks the same, place and time decide
    ) -> None:
        self._landmarker, self._box, self._box_size = landmarker, box, box_size
        self._state = TrackState()
        self._embed: Embed = partial(embed, embedder) if embedder is not None else _alike
        self._one = None if box is not None else OneFace(landmarker, embed=self._embed)
        self.n_faces = 0  # most faces seen at once where the follower looked at the whole picture
        self.n_others = 0  # frames that show faces, and not the one that is followed

    def restart(self, image: np.ndarray) -> bool:
        """Forget where the face was, in a new shot that begins with `image`; False: it is the same one."""
        if self._one is not None:
            if self._one.is_same_scene(image):
                return False
            self._one = OneFace(self._landmarker, embed=self._embed)
        self._state = TrackState()
        return True

    def move_box(self, box: Box | None) -> None:
        """The box of the next frames."""
        self._box = box

    def __call__(self, image: np.ndarray) -> Detection | None:
        """The face in the next frame uint8 [H, W, 3], or None."""
        if self._one is not None:
            return self._followed(image, self._one)
        if self._state.last is None:
            return self._choose(image)
        face = self._landmarker.track(image, self._state)
        if face is not None and not self._in_box(face, image):
            self._state = TrackState(n_lost=1)
            return None
        return face

    def _followed(self, image: np.ndarray, one: OneFace) -> Detection | None:
        if one.n_held >= HELD_FOR:
            one = self._one = OneFace(self._landmarker, embed=self._embed)
        face = one(image)
        self.n_faces = max(self.n_faces, one.most_faces)
        self.n_others += one.other
        return face

    def _choose(self, image: np.ndarray) -> Detection | None:
        """The shot's face; an empty shot is searched thoroughly on every tenth frame."""
        thorough = self._state.n_lost % 10 == 0
        faces = self._landmarker.detect(image, tiles=(2, 4) if thorough else ())
        self.n_faces = max(self.n_faces, len(faces))
        inside = [f for f in faces if self._in_box(f, image)]
        if not inside:
            self._state.n_lost += 1
            return None
        face = max(inside, key=lambda f: f.area)
        self._state = TrackState(roi_of(face.landmarks), face)
        return face

    def _in_box(self, face: Detection, image: np.ndarray) -> bool:
        if self._box is None:
            return True
        height, width = image.shape[:2]
        left, top, right, bottom = self._box
        if max(self._box) <= 1:
            left, top, right, bottom = left * width, top * height, right * width, bottom * height
        elif self._box_size is not None:
            sx, sy = width / self._box_size[0], height / self._box_size[1]
            left, top, right, bottom = left * sx, top * sy, right * sx, bottom * sy
        x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
        return left <= x <= right and top <= y <= bottom


def _alike(crop: np.ndarray) -> np.ndarray:
    return np.ones(1)


class People:
    """Numbers the persons of one video in the order of their appearance, by a face embedding."""

    def __init__(self, embedder: IdentityLoss | None = None) -> None:
        self._embedder = embedder
        self._known: list[list[np.ndarray]] = []

    def who(self, crop: np.ndarray) -> int:
        """Number of the person in an aligned crop uint8 [H, W, 3]; a new one for a new face."""
        if self._embedder is None:
            return 0
        vector = embed(self._embedder, crop)
        scores = [float(np.mean(known, axis=0) @ vector) for known in self._known]
        best = int(np.argmax(scores)) if scores else -1
        if best < 0 or scores[best] < SAME_PERSON:
            self._known.append([vector])
            return len(self._known) - 1
        self._learn(best, vector)
        return best

    def is_stranger(self, crop: np.ndarray, person: int) -> bool:
        """Whether a face that was followed without a break has become somebody else's."""
        if self._embedder is None:
            return False
        vector = embed(self._embedder, crop)
        if float(np.mean(self._known[person], axis=0) @ vector) < STRANGER:
            return True
        self._learn(person, vector)
        return False

    def embedding(self, person: int) -> np.ndarray | None:
        """Unit vector of a person."""
        if self._embedder is None or person >= len(self._known):
            return None
        mean = np.mean(self._known[person], axis=0)
        return np.asarray(mean / np.linalg.norm(mean))

    def _learn(self, person: int, vector: np.ndarray) -> None:
        if len(self._known[person]) < _NEW_PERSON_AFTER:
            self._known[person].append(vector)


def gaze(landmarks: np.ndarray) -> np.ndarray:
    """Where the irises are in the eyes, float32 [4]: x, y of the eye at the image's left, then at its right.

    In widths of the eye from its middle, along the line of its corners: x > 0 to the image's right, y > 0 down.
    landmarks: [478, >=2], pixels.
    """
    points = np.asarray(landmarks, np.float64)[:, :2]
    out = []
    for (left, right), iris in zip(EYE_CORNERS, IRISES, strict=True):
        along = points[right] - points[left]
        width = max(float(np.linalg.norm(along)), 1e-6)
        x_axis = along / width
        offset = (points[iris] - (points[left] + points[right]) / 2) / width
        out += [offset @ x_axis, offset @ np.array([-x_axis[1], x_axis[0]])]
    return np.array(out, np.float32)


def sharpness(crop: np.ndarray) -> float:
    """Variance of the Laplacian over the middle half of a crop, at 256 x 256 pixels and 0..255."""
    grey = Image.fromarray(crop).convert("L")
    if grey.size != (256, 256):
        grey = grey.resize((256, 256), Image.Resampling.BILINEAR)
    g = np.asarray(grey, np.float32)[63:193, 63:193]
    laplacian = g[:-2, 1:-1] + g[2:, 1:-1] + g[1:-1, :-2] + g[1:-1, 2:] - 4 * g[1:-1, 1:-1]
    return float(laplacian.var())
