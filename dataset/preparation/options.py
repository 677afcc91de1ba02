"""Every option of `dataset_tool.py video` that decides what the data set holds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dataset.splits import check_shares, split_at
from dnnlib.config import READS
from dnnlib.options import option
from dnnlib.params import InputFile, InputFolder, Number, Whole

# Changes whenever the same video and options give other bytes.
PREPARATION_VERSION = 1
Layout = Literal["auto", "file", "folder", "voxceleb", "vfhq", "talkinghead1kh", "celebvhq"]


@dataclass(frozen=True)
class VideoOptions:
    """What decides the bytes of a prepared data set.

    Attributes:
        resolution: side of the crops, pixels.
        codec: jpg (quality 95, full colour resolution), webp or png (lossless).
        max_fps: frames of faster videos are left out before tracking; 0 keeps all.
        every: of the tracked frames each n-th is kept.
        min_frames: clips with fewer kept frames are left out.
        max_gap: frames without a face after which a clip ends.
        min_face_px: height of the face in the video, from the forehead to the chin, pixels.
        min_confidence: of the tracker, 0..1.
        max_yaw_deg: how far a head may be turned away.
        min_inside: share of the face that lies inside the picture, 0..1.
        max_fit: landmarks' distance from where the camera label puts them, in face heights (median of a frame).
        min_sharpness: variance of the Laplacian of the crop's face (256 x 256, 0..255); 0 keeps all.
        tracker: mediapipe, deep3d (with `weights`), or module:factory of a plugin.
        weights: of Deep3DFaceRecon, for the tracker deep3d.
        bfm_model: Basel face model for it; labels are then judged by the person's own face instead of a mean one.
        results: folder of results of an earlier run (.mat of Deep3DFaceRecon, .npz of FLAME), in place of a tracker.
        matte: store a soft mask of the person.
        landmarks: store 70 landmarks.
        check_identity: find changes of person inside a video with a face embedding.
        layout: how folders and names tell who is seen; auto looks at the names.
        val, test: shares of the identities.
        seed: of the splits.
        max_side: larger pictures are reduced to this longer side when they are read.
    """

    resolution: int = option(
        "--resolution", default=256, type=Whole(32, 2048), help="Pixels a side of the crops."
    )
    codec: Literal["jpg", "webp", "png"] = option(
        "--codec", default="jpg", help="Coding of the images: jpg, webp or png."
    )
    max_fps: float = option(
        "--max-fps",
        default=0.0,
        type=Number(0, 1000),
        help="Leave out frames of faster videos; 0 keeps all.",
    )
    every: int = option(
        "--every", default=1, type=Whole(1, 10_000), help="Keep each n-th tracked frame."
    )
    min_frames: int = option(
        "--min-frames", default=8, type=Whole(1, 100_000), help="Leave out clips with fewer frames."
    )
    max_gap: int = 10
    min_face_px: float = option(
        "--min-face",
        default=48.0,
        type=Number(0, 4096),
        help="Height of the face in the video, pixels.",
    )
    min_confidence: float = 0.5
    max_yaw_deg: float = 75.0
    min_inside: float = 0.9
    max_fit: float = 0.1
    min_sharpness: float = 0.0
    tracker: str = option(
        "--tracker", default="mediapipe", help="mediapipe, deep3d, or module:factory of a plugin."
    )
    weights: str = option(
        "--weights",
        default="",
        metadata=READS,
        type=InputFile("Deep3DFaceRecon's weights"),
        help="Deep3DFaceRecon's weights, for --tracker deep3d.",
    )
    bfm_model: str = option(
        "--bfm-model",
        default="",
        metadata=READS,
        type=InputFile("the Basel face model"),
        help="Basel face model (BFM_model_front.mat), for --tracker deep3d.",
    )
    results: str = option(
        "--results",
        default="",
        metadata=READS,
        type=InputFolder("the folder of the tracker's results"),
        help="Folder of results to import (.mat, .npz) in place of a tracker.",
    )
    matte: bool = option(
        "--matte", default=False, is_flag=True, help="Store a soft mask of the person."
    )
    landmarks: bool = True
    check_identity: bool = True
    layout: Layout = option(
        "--layout",
        default="auto",
        help="How names tell who is seen: auto, file, folder, voxceleb, ...",
    )
    val: float = 0.02
    test: float = 0.05
    seed: int = 0
    max_side: int = 4096

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "resolution": (32, 2048),
            "max_fps": (0, 1000),
            "every": (1, 10_000),
            "min_frames": (1, 100_000),
            "max_gap": (0, 1000),
            "min_face_px": (0, 4096),
            "min_confidence": (0, 1),
            "max_yaw_deg": (0, 180),
            "min_inside": (0, 1),
            "max_fit": (0, 10),
            "min_sharpness": (0, 1e9),
            "max_side": (64, 16384),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; use a number from {low:g} to {high:g}"
                )
        check_shares(self.val, self.test)
        if self.tracker == "deep3d" and not self.weights:
            raise ValueError(
                "tracker deep3d needs Deep3DFaceRecon's weights; give --weights epoch_20.pth"
            )
        for name in ("weights", "bfm_model"):
            if getattr(self, name) and self.tracker != "deep3d":
                raise ValueError(f"{name} belongs to the tracker deep3d; give --tracker deep3d")
        if self.results and self.tracker != "mediapipe":
            raise ValueError(
                f"results take the place of the tracker {self.tracker}; leave one of them out"
            )

    def record(self) -> dict[str, Any]:
        """What dataset.json notes; paths of one machine stay out."""
        return {
            k: v for k, v in asdict(self).items() if k not in ("weights", "results", "bfm_model")
        }

    def fingerprint(self, tracker_hash: str) -> str:
        """Hex digits that differ whenever the prepared bytes may differ."""
        content = {**self.record(), "version": PREPARATION_VERSION, "tracker": tracker_hash}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def split_of(self, identity: str) -> str:
        """Split of a person: a function of the seed and the person alone, so adding videos moves nobody."""
        digest = hashlib.sha256(f"{self.seed}/{identity}".encode()).digest()
        return split_at(int.from_bytes(digest[:8], "big") / 2**64, self.val, self.test)
