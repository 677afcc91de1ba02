"""The networks that metrics look through: loaded when first asked for, shared by all metrics, named with their hashes.

Built in: MediaPipe's landmarks and blendshapes, SFace, ST-LPIPS. By path, `weights` name -> file:

    arcface      replaces SFace in CSIM: an iresnet checkpoint or ONNX file
    lpips_alex   torchvision's alexnet weights      lpips_vgg   torchvision's vgg16 weights
    inception    pt_inception-2015-12-05, for FID and KID
    deep3d       Deep3DFaceRecon's epoch_20.pth: AED in bfm64, APD by its pose
    dlib         dlib_face_recognition_resnet_model_v1.dat, for the cross-check id_dlib; needs the package dlib
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from conventions.cameras import FOCAL_NORMALISED
from conventions.crop import crop_parameters, five_points, weak_perspective
from dnnlib.errors import UserError
from dnnlib.files import sha256_file
from metrics.head_pose import head_rotation, rotation_of
from pretrained.identity import TEMPLATE_112, identity_loss
from tracking.landmarker import Landmarker

if TYPE_CHECKING:
    from pretrained.identity import IdentityLoss
    from pretrained.inception import FidInception  # here: only where asked for
    from pretrained.perceptual import PerceptualLoss  # here: only where asked for
    from tracking.landmarker import Landmarker

WEIGHT_NAMES = ("arcface", "lpips_alex", "lpips_vgg", "inception", "deep3d", "dlib")
FACE_PX = 112
CPU_FACES = 4  # embedded at a time: more leave the cache
_DLIB_POINTS = (263, 362, 33, 133, 2)  # outer and inner corners of the eyes, base of the nose
CM_PER_UNIT = 10.0  # a unit of the mean face, see conventions/crop.py


@dataclass(frozen=True)
class Face:
    """A face of a picture, re-estimated from its pixels."""

    landmarks: np.ndarray  # float32 [478, 3], pixels of the picture
    beta: np.ndarray  # float32 [D], in the space of `Networks.space`
    rotation: np.ndarray  # float64 [3, 3], head -> camera; NaN unless deep3d gave it
    position_cm: (
        np.ndarray
    )  # float64 [3], of the head in front of the camera; x right, y down, z away
    score: float


class Networks:
    """See the module. Raises UserError for unknown names of weights; other mistakes appear when a network is used."""

    def __init__(
        self, weights: Mapping[str, str | Path] | None = None, device: str | torch.device = "cpu"
    ) -> None:
        self.weights = {name: Path(path) for name, path in (weights or {}).items()}
        self.device = torch.device(device)
        self._perceptual: dict[str, PerceptualLoss] = {}
        for name, path in self.weights.items():
            if name not in WEIGHT_NAMES:
                known = ", ".join(WEIGHT_NAMES)
                raise UserError(f"there are no weights {name!r} for metrics; use one of {known}")
            if not path.is_file():
                raise UserError(f"the weights {path} of {name} do not exist; give another path")

    # ---- faces -------------------------------------------------------------------------------------------------

    @cached_property
    def landmarker(self) -> Landmarker:
        return Landmarker()

    @cached_property
    def _deep3d(self) -> Any:
        if "deep3d" not in self.weights:
            return None
        from tracking.deep3d import Deep3DRegressor  # here: only where asked for

        return Deep3DRegressor(self.weights["deep3d"])

    @property
    def space(self) -> str:
        """Name of the expression space that `Face.beta` lives in."""
        return "bfm64" if "deep3d" in self.weights else "arkit52"

    def face(self, image: np.ndarray) -> Face | None:
        """The largest face of a picture uint8 [H, W, 3], each picture by itself; None when there is none."""
        found = self.landmarker.detect(image)
        if not found:
            return None
        face = found[0]
        points = face.landmarks.astype(np.float64)
        beta, rotation = face.blendshapes, np.full((3, 3), np.nan)
        if self._deep3d is not None:
            beta, label, _ = self._deep3d(image, crop_parameters(points))
            rotation = rotation_of(label)
        scale, (x, y) = weak_perspective(five_points(points))
        height, width = image.shape[:2]
        position = np.array([x - width / 2, y - height / 2, FOCAL_NORMALISED * width])
        return Face(
            face.landmarks,
            np.asarray(beta, np.float32),
            rotation,
            position / scale * CM_PER_UNIT,
            face.score,
        )

    def rotation(self, image: np.ndarray, face: Face | None) -> np.ndarray:
        """Head -> camera, float64 [3, 3], NaN without a face: the expression's network's, else `head_rotation`."""
        if face is None or not np.isnan(face.rotation).any():
            return np.full((3, 3), np.nan) if face is None else face.rotation
        return head_rotation(self.landmarker, image, face.landmarks)

    # ---- identity ----------------------------------------------------------------------------------------------

    @cached_property
    def identity(self) -> IdentityLoss:
        return identity_loss(weights=self.weights.get("arcface")).to(self.device)

    def embed(self, images: Sequence[np.ndarray], faces: Sequence[Face | None]) -> Tensor:
        """Unit embeddings float32 [N, D] on the CPU, aligned by landmarks; NaN where there is no face."""
        seen = [i for i, face in enumerate(faces) if face is not None]
        aligned = [align_face(images[i], _landmarks(faces[i])) for i in seen]
        if not seen:
            return torch.full((len(images), self._embedding_dim), float("nan"))
        tensor = torch.from_numpy(np.stack(aligned)).to(self.device)
        with torch.inference_mode():
            tensor = tensor.permute(0, 3, 1, 2).float() / 127.5 - 1
            size = CPU_FACES if self.device.type == "cpu" else len(tensor)
            parts = [self.identity.embed_faces(part) for part in tensor.split(size)]
            found = torch.cat(parts).cpu()
        out = torch.full((len(images), found.shape[1]), float("nan"))
        out[seen] = found
        return out

    @cached_property
    def _dlib(self) -> Any:
        path = self._needed("dlib")
        try:
            dlib = importlib.import_module("dlib")
        except ImportError as error:
            raise UserError("id_dlib needs dlib; run pip install dlib-bin") from error
        try:
            return dlib, dlib.face_recognition_model_v1(str(path))
        except RuntimeError as error:
            raise UserError(
                f"{path} is not dlib's face recognition model; give dlib_face_recognition_resnet_model_v1.dat"
            ) from error

    def describe(self, image: np.ndarray, face: Face | None) -> np.ndarray:
        """dlib's descriptor float64 [128] of a face, aligned by its eye corners and nose; NaN without a face."""
        if face is None:
            return np.full(128, np.nan)
        dlib, model = self._dlib
        points = [
            dlib.point(*(round(float(v)) for v in face.landmarks[i, :2])) for i in _DLIB_POINTS
        ]
        low, high = face.landmarks[:, :2].min(0), face.landmarks[:, :2].max(0)
        box = dlib.rectangle(*(round(float(v)) for v in (*low, *high)))
        shape = dlib.full_object_detection(box, points)
        return np.array(model.compute_face_descriptor(np.ascontiguousarray(image), shape))

    @cached_property
    def _embedding_dim(self) -> int:
        with torch.inference_mode():
            blank = torch.zeros(1, 3, FACE_PX, FACE_PX, device=self.device)
            return int(self.identity.embed_faces(blank).shape[1])

    # ---- features ----------------------------------------------------------------------------------------------

    def perceptual(self, kind: str) -> PerceptualLoss:
        """stlpips_alex, stlpips_vgg; lpips_alex and lpips_vgg when their backbone's weights were given."""
        if kind not in self._perceptual:
            from pretrained.lpips import lpips_network  # here: only where asked for
            from pretrained.perceptual import perceptual_loss

            if kind.startswith("stlpips"):
                net = perceptual_loss(kind)
            else:
                net = lpips_network(kind, self._needed(kind))
            self._perceptual[kind] = net.to(self.device)
        return self._perceptual[kind]

    @cached_property
    def _inception(self) -> FidInception:
        from pretrained.inception import fid_inception  # here: only where asked for

        return fid_inception(self._needed("inception")).to(self.device)

    def inception(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] in [0, 1] -> FID features float32 [N, 2048], on the CPU."""
        with torch.inference_mode():
            return self._inception(images).cpu()

    def _needed(self, name: str) -> Path:
        if name not in self.weights:
            raise UserError(
                f"this metric needs the weights {name!r}, which are not shipped; give --weights {name}=PATH"
            )
        return self.weights[name]

    # ---- records -----------------------------------------------------------------------------------------------

    def record(self, name: str) -> str:
        """A network's files with their hashes, for the line below a score."""
        if name == "landmarks":
            path, digest = self.landmarker.path.name, self.landmarker.hash
            return f"{path} (sha256 of its models {digest[:12]})"
        if name == "expression":
            if self._deep3d is None:
                return f"space arkit52, {self.record('landmarks')}"
            return f"space bfm64, {self._deep3d.path.name} (sha256 {self._deep3d.hash[:12]})"
        if name in ("inception", "dlib"):
            return _named({self._needed(name).name: _hash(self._needed(name))})
        net = self.identity if name == "identity" else self.perceptual(name)
        return f"{net.record()['kind']}: {_named(net.record()['files'])}"

    @cached_property
    def key(self) -> str:
        """Names and hashes of everything that decides what `Face`, embeddings and features of a picture are."""
        own = [f"{name}={_hash(path)}" for name, path in sorted(self.weights.items())]
        return "\n".join([self.record("landmarks"), self.record("identity"), *own])

    def load(self, names: Sequence[str]) -> None:
        """Load networks now, so that mistakes appear before any work."""
        for name in names:
            if name in ("inception", "dlib"):
                getattr(self, f"_{name}")
            self.record(name)


def _landmarks(face: Face | None) -> np.ndarray:
    assert face is not None
    return face.landmarks


@lru_cache(maxsize=8)
def _hash(path: Path) -> str:
    return sha256_file(path)


def _named(files: Mapping[str, str]) -> str:
    return ", ".join(f"{name} (sha256 {digest[:12]})" for name, digest in files.items())


def align_face(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The face turned and scaled to the 112-pixel template of recognition networks, uint8 [112, 112, 3].

    image uint8 [H, W, 3], landmarks [478, >=2] in its pixels. Five points (eyes, nose tip, mouth corners), similarity
    by least squares; outside the picture black.
    """
    # As complex numbers the similarity is z -> a z + b, here from the template to the picture.
    z, w = np.array(TEMPLATE_112) @ [1, 1j], five_points(landmarks) @ [1, 1j]
    centred = z - z.mean()
    a = np.vdot(centred, w - w.mean()) / np.vdot(centred, centred)
    picture = Image.fromarray(np.ascontiguousarray(image))
    shrink = max(1, int(abs(a) / 1.2))  # bicubic alone would skip pixels of a large face
    if shrink > 1:
        picture = picture.reduce(shrink)
    a, b = a / shrink, (w.mean() - a * z.mean()) / shrink
    coefficients = (a.real, -a.imag, b.real, a.imag, a.real, b.imag)
    return np.asarray(
        picture.transform(
            (FACE_PX, FACE_PX),
            Image.Transform.AFFINE,
            coefficients,
            Image.Resampling.BICUBIC,
        )
    )
