"""What a dataset holds: its specification and the types of its index rows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from conventions.spaces import ExpressionSpace
from dataset.codecs import ImageCodec
from dnnlib.errors import UserError
from dnnlib.typed import from_dict

FORMAT_NAME = "export3d-dataset"
FORMAT_VERSION = 1
MAX_SIDE_PX = 16_384  # of a frame
MAX_LABEL = 1_000_000  # numbers of a further label
CAMERA_DIM = 25  # cam2world 4x4 row-major, then normalised intrinsics 3x3
SPLITS = ("train", "val", "test")  # stored as 0, 1, 2
CHANNELS = ("image", "depth", "mask")  # in the order of their files
FIXED_DATE = (
    1980,
    1,
    1,
    0,
    0,
    0,
)  # of zip members, the earliest possible: the same frames give the same bytes
CLIP_DTYPE = np.dtype(
    [
        ("name", "S64"),
        ("identity", "<i4"),
        ("split", "u1"),
        ("first_frame", "<i8"),
        ("n_frames", "<i4"),
        ("fps", "<f4"),
    ]
)


@dataclass(frozen=True)
class DatasetSpec:
    """What all frames of a dataset have in common; becomes dataset.json."""

    resolution: int  # H = W, pixels
    expression: ExpressionSpace | None = None  # None: frames carry no beta
    image_codec: ImageCodec = "png"
    channels: tuple[str, ...] = ("image",)  # of "image", "depth", "mask"; image always
    extra_labels: dict[str, int] = field(
        default_factory=dict
    )  # further float32 labels: name -> length
    crop: dict[str, Any] = field(default_factory=dict)  # {"name": ..., "version": ...}
    tracker: dict[str, Any] = field(default_factory=dict)  # {"name": ..., "hash": ...}
    source: dict[str, Any] = field(default_factory=dict)  # free: how the frames were made

    def __post_init__(self) -> None:
        if not 1 <= self.resolution <= MAX_SIDE_PX:
            raise ValueError(f"resolution {self.resolution} must lie between 1 and {MAX_SIDE_PX}")
        if any(not 1 <= n <= MAX_LABEL for n in self.extra_labels.values()):
            raise ValueError(f"extra_labels must have between 1 and {MAX_LABEL} numbers each")
        if self.image_codec not in ("png", "webp", "jpg"):
            raise ValueError(f"image_codec {self.image_codec!r} must be png, webp or jpg")
        if "image" not in self.channels or any(c not in CHANNELS for c in self.channels):
            raise ValueError(f"channels {self.channels} must be of {CHANNELS} and hold 'image'")
        clash = set(self.extra_labels) & set(_base_dtype(None, CHANNELS).names or ()) | (
            set(self.extra_labels) & {"beta"}
        )
        if clash:
            raise ValueError(f"extra_labels {sorted(clash)} are names of the format itself")

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT_NAME,
            "version": FORMAT_VERSION,
            "resolution": self.resolution,
            "image_codec": self.image_codec,
            "expression": None if self.expression is None else self.expression.to_dict(),
            "crop": self.crop,
            "tracker": self.tracker,
            "channels": [c for c in CHANNELS if c in self.channels],
            "extra_labels": self.extra_labels,
            "source": self.source,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any], what: str) -> DatasetSpec:
        """Read what `to_dict` wrote; `what` names the file in messages.

        Raises:
            UserError: the format or its version is unknown, or a value is missing or ill-typed.
        """
        if values.get("format") != FORMAT_NAME:
            raise UserError(
                f"{what} is not the description of a dataset of this project; use dataset_tool.py"
            )
        if values.get("version") != FORMAT_VERSION:
            raise UserError(
                f"{what} has format version {values.get('version')!r} but this program reads version "
                f"{FORMAT_VERSION}; update the program or write the dataset again"
            )
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        try:
            return from_dict(cls, known)
        except UserError as error:
            raise UserError(f"{what} is damaged ({error}); write the dataset again") from error


def _base_dtype(beta_dim: int | None, channels: tuple[str, ...]) -> np.dtype[np.void]:
    fields: list[Any] = [
        ("clip", "<i4"),
        ("index", "<i4"),  # within the clip
        ("time_s", "<f4"),
        ("shard", "<i4"),
        ("camera", "<f4", (CAMERA_DIM,)),
        ("confidence", "<f4"),
    ]
    if beta_dim is not None:
        fields.insert(5, ("beta", "<f4", (beta_dim,)))
    for channel in (c for c in CHANNELS if c in channels):
        fields += [(f"{channel}_offset", "<i8"), (f"{channel}_size", "<i4")]
    return np.dtype(fields)


def frame_dtype(spec: DatasetSpec) -> np.dtype[np.void]:
    """The structured type of a row of frames.npy."""
    base = _base_dtype(None if spec.expression is None else spec.expression.dim, spec.channels)
    extra: list[Any] = [(name, "<f4", (dim,)) for name, dim in spec.extra_labels.items()]
    return np.dtype([*base.descr, *extra])


def clip_name(name: str) -> bytes:
    """A clip's name as stored: UTF-8, longer names shortened to 64 bytes that end in a hash."""
    encoded = name.encode("utf-8")
    if len(encoded) <= 64:
        return encoded
    head = encoded[:55].decode("utf-8", errors="ignore")
    return f"{head}-{hashlib.sha256(encoded).hexdigest()[:8]}".encode()
