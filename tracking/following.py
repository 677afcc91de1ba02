"""The face of a video: chosen once, held while it is hidden, and taken up again when the same one is back.

A face is the same where it is seen on from frame to frame. After a loss, or a jump, it is never one that stood beside
before; of others an embedding (SFace) decides, with place and size where that is in doubt. The embedding's network is
loaded when it is first asked.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from conventions.crop import crop_from_parameters, crop_parameters
from dnnlib.errors import UserError
from pretrained.identity import IdentityLoss, identity_loss
from tracking.landmarker import Detection, Landmarker, choose_face, roi_of

SAME_PERSON = 0.35  # cosine of embeddings; strangers have about 0, a turned head of one's own 0.5
STRANGER = 0.15  # below, a face is somebody else's
CUT_JUMP = 0.6  # of the face's size: farther in one frame is a cut, not a motion
_REMEMBERED = 8  # crops of the face
_REMEMBER_EVERY = 10  # frames
_CROP_PX = 128  # of those: SFace wants 112
HELD_FOR = 50  # frames for which a hidden face is waited for, and those who stood beside are known by their places
_STILL = 0.2  # of the face's size, and of its logarithm: less from frame to frame is nearly none
_NEAR = 1.0  # of the face's size, how far a hidden face may have moved
_NEAR_SCALE = 0.4  # logarithm of how much it may have grown

Embed = Callable[[np.ndarray], np.ndarray]  # crop uint8 [S, S, 3] -> unit vector


class OneFace:
    """Finds the same face in frame after frame.

    which: of several faces at the start: largest, left, right, or a number from the left; with a number, the video
    begins with the first frame that shows so many.
    Raises UserError for a `which` of no known form.
    """

    def __init__(
        self, landmarker: Landmarker, which: str = "largest", embed: Embed | None = None
    ) -> None:
        check_which(which)
        self._landmarker, self._which = landmarker, which
        self._embed = embed or lazy_embedder()
        self._last: Detection | None = None
        self._crops: list[np.ndarray] = []  # the newest last
        self._vectors: dict[int, np.ndarray] = {}  # by id of the crop
        self._n_seen = self._n_lost = 0
        self._followed = False  # without a break up to the frame before
        self._before: np.ndarray | None = None  # the newest frame that showed the face
        self._beside: list[Detection] = []  # other faces there, and where they went since
        self.most_faces = 0  # seen at once
        self.other = False  # whether the newest frame shows a face, and none that is followed

    @property
    def n_held(self) -> int:
        """Frames since the face was seen; 0 while it has not been chosen."""
        return 0 if self._last is None else self._n_lost

    def __call__(self, image: np.ndarray) -> Detection | None:
        """The face in the next frame uint8 [H, W, 3], or None."""
        self.other = False
        face = self._first(image) if self._last is None else self._next(image, self._last)
        self._followed = face is not None
        if face is None:
            self._n_lost += 1
            return None
        self._n_lost, self._last, self._before = 0, face, image
        if self._n_seen % _REMEMBER_EVERY == 0:
            self._remember(crop_of(image, face))
        self._n_seen += 1
        return face

    def is_same_scene(self, image: np.ndarray) -> bool:
        """Whether somebody who stood beside is still there: what looks like a cut is then a face that was hidden."""
        if self._last is None:
            return False
        beside = self._others(self._last) if self._followed else self._beside
        faces = self._landmarker.search(image, roi_of(self._last.landmarks)) if beside else []
        return any(not moved(b, face, _STILL, _STILL) for b in beside for face in faces)

    def _first(self, image: np.ndarray) -> Detection | None:
        # A long gap must not cost a full search on every frame.
        faces = self._landmarker.detect(image, tiles=(2, 4) if self._n_lost % 10 == 0 else ())
        self.most_faces = max(self.most_faces, len(faces))
        wanted = int(self._which) + 1 if self._which.isdecimal() else 1
        return choose_face(faces, self._which, "the video") if len(faces) >= wanted else None

    def _next(self, image: np.ndarray, last: Detection) -> Detection | None:
        if self._followed:
            face = self._landmarker.read(image, roi_of(last.landmarks))
            if face is not None and not moved(last, face, CUT_JUMP):
                return face
            self._beside = self._others(last)
        elif self._n_lost > HELD_FOR:
            self._beside = []
        thorough = self._n_lost % 10 == 0
        faces = self._landmarker.search(image, roi_of(last.landmarks), thorough)
        self.most_faces = max(self.most_faces, len(faces))
        found = None
        for face in sorted(faces, key=lambda f: float(np.linalg.norm(_centre(f) - _centre(last)))):
            stood = next((b for b in self._beside if not moved(b, face, CUT_JUMP)), None)
            if stood is not None:
                self._beside = [face if b is stood else b for b in self._beside]
            elif found is None and self._is_same(image, face):
                found = face
        self.other = bool(faces) and found is None
        return found

    def _others(self, last: Detection) -> list[Detection]:
        """The faces beside ours in the newest frame that showed it."""
        assert self._before is not None
        faces = self._landmarker.search(self._before, roi_of(last.landmarks))
        return [f for f in faces if moved(last, f, CUT_JUMP)]

    def _is_same(self, image: np.ndarray, face: Detection) -> bool:
        assert self._last is not None
        vector = self._embed(crop_of(image, face))
        score = max(float(self._vector(crop) @ vector) for crop in self._crops)
        if STRANGER <= score < SAME_PERSON:
            return not moved(self._last, face, _NEAR, _NEAR_SCALE)
        return score >= SAME_PERSON

    def _remember(self, crop: np.ndarray) -> None:
        """The first crop stays: it is of the face that was chosen."""
        self._crops = [*self._crops[:1], *self._crops[1:][1 - _REMEMBERED + 1 :], crop]
        known = {id(c) for c in self._crops}
        self._vectors = {k: v for k, v in self._vectors.items() if k in known}

    def _vector(self, crop: np.ndarray) -> np.ndarray:
        if id(crop) not in self._vectors:
            self._vectors[id(crop)] = self._embed(crop)
        return self._vectors[id(crop)]


def check_which(which: str) -> None:
    """Raises UserError unless it is largest, left, right or a number."""
    if which not in ("largest", "left", "right") and not which.isdecimal():
        raise UserError(f"--face {which} is not known; use largest, left, right or a number from 0")


def crop_of(image: np.ndarray, face: Detection) -> np.ndarray:
    """The aligned face, uint8 [128, 128, 3], as embeddings want it."""
    parameters = crop_parameters(face.landmarks.astype(np.float64))
    return crop_from_parameters(parameters, _CROP_PX).apply(image)


def moved(before: Detection, now: Detection, most: float, most_scale: float = 0.4) -> bool:
    """Whether a face lies farther than `most` of its size from where it was, or changed its size by more."""
    a, b = (crop_parameters(f.landmarks.astype(np.float64)) for f in (before, now))
    return is_jump(a, b, most, most_scale)


def is_jump(
    before: np.ndarray, now: np.ndarray, most: float = CUT_JUMP, most_scale: float = 0.4
) -> bool:
    """Whether a face with these `crop_parameters` cannot have moved there within one frame."""
    size = 2 * np.exp(before[0])  # a face is about two units of the mean face high
    distance = np.linalg.norm(now[1:] - before[1:]) / size
    return bool(distance > most or abs(now[0] - before[0]) > most_scale)


def _centre(face: Detection) -> np.ndarray:
    left, top, right, bottom = face.box
    return np.array([left + right, top + bottom]) / 2


def load_embedder() -> IdentityLoss:
    """SFace, as the identity loss uses it. Raises UserError when its package is missing."""
    return identity_loss("sface")


def lazy_embedder() -> Embed:
    """`embed` by an SFace that is loaded when it is first asked."""
    loaded: list[IdentityLoss] = []

    def embed_one(crop: np.ndarray) -> np.ndarray:
        if not loaded:
            loaded.append(load_embedder())
        return embed(loaded[0], crop)

    return embed_one


@torch.inference_mode()
def embed(embedder: IdentityLoss, crop: np.ndarray) -> np.ndarray:
    """Unit vector float32 [D] of an aligned crop uint8 [H, W, 3]."""
    image = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    return np.asarray(embedder.embed(image)[0].numpy())
