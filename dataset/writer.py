"""The dataset on disk: what it holds, how it is written. `docs/datasets.md` describes it for other tools.

    dataset.json        DatasetSpec and counts; written last, so a folder without it is not a dataset yet
    clips.npy           structured array, one row a clip (CLIP_DTYPE)
    frames.npy          structured array, one row a frame (frame_dtype), read through a memory map
    shards/00000.zip    uncompressed zip; a frame's row holds the byte offset and size of each of its channels
    shards/00000.*      the shard's own rows and specification, from which `finalise` joins the whole

Several processes write one shard each, and `finalise` joins the shards in the order of their numbers:

    with ShardWriter("heads", 0, spec) as shard:
        shard.add_clip("person0", identity=0, split="train", fps=25.0)
        shard.add_frame(image=image, camera=camera, beta=beta, time_s=0.0)
    finalise("heads")
"""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dataset.codecs import encode_depth, encode_image, encode_mask
from dataset.spec import (
    CHANNELS,
    CLIP_DTYPE,
    FIXED_DATE,
    SPLITS,
    DatasetSpec,
    clip_name,
    frame_dtype,
)
from dataset.verify import PART_KEYS
from dnnlib.errors import UserError
from dnnlib.files import Pending, os_error_to_user_error, sha256_file

__all__ = [
    "DATASET_FILES",
    "DatasetSpec",
    "ShardWriter",
    "frame_dtype",
    "shard_path",
]

DATASET_FILES = ("dataset.json", "clips.npy", "frames.npy", "shards")
SHARD_SUFFIXES = (".zip", ".clips.npy", ".frames.npy", ".json")
LEFT_OUT_KEY = "n_left_out"  # of a shard's summary: frames that were made but not kept
_FRAMES_PER_FOLDER = 1000  # inside a zip


def shard_path(dest: str | os.PathLike[str], shard_id: int, suffix: str = ".zip") -> Path:
    return Path(dest) / "shards" / f"{shard_id:05d}{suffix}"


class ShardWriter:
    """Writes one shard: clips one after the other, frames of a clip in their order.

    The shard becomes visible only at `close()` (or the end of the `with` block); when the block raises, nothing of
    it stays. An existing shard of the same number is replaced.
    """

    def __init__(self, dest: str | os.PathLike[str], shard_id: int, spec: DatasetSpec) -> None:
        if not 0 <= shard_id < 2**31:
            raise ValueError(f"shard_id {shard_id} must lie in 0..{2**31 - 1}")
        self.dest, self.shard_id, self.spec = Path(dest), shard_id, spec
        self._dtype = frame_dtype(spec)
        self._frames = np.zeros(256, self._dtype)
        self._n_frames = 0
        self._n_left_out = 0
        self._clips: list[tuple[bytes, int, int, int, int, float]] = []
        self._next_clip: tuple[bytes, int, int, float] | None = None
        target = shard_path(dest, shard_id)
        # The marker last: while the files of an old shard of this number are replaced, the shard is gone.
        self._pending = Pending(*(shard_path(dest, shard_id, s) for s in SHARD_SUFFIXES))
        try:
            self._zip: zipfile.ZipFile | None = zipfile.ZipFile(
                self._pending.paths[0], "w", zipfile.ZIP_STORED, allowZip64=True
            )
        except OSError as error:
            self._pending.discard()
            raise _writing_error(error, target) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def add_clip(self, name: str, identity: int, split: str, fps: float) -> None:
        """Start a clip; following frames belong to it. A clip that gets no frame is left out.

        Args:
            name: at most 64 bytes of UTF-8; longer names are shortened and end in a hash.
            identity: number of the person; clips of one person share it.
            split: "train", "val" or "test".
            fps: frames per second of the clip.
        """
        if split not in SPLITS:
            raise ValueError(f"split {split!r} must be one of {SPLITS}")
        self._next_clip = (clip_name(name), int(identity), SPLITS.index(split), float(fps))

    def add_frame(
        self,
        *,
        image: npt.NDArray[np.uint8]
        | bytes,  # RGB [H, W, 3] or [3, H, W], or bytes already in the dataset's codec
        camera: npt.ArrayLike,  # [25]
        beta: npt.ArrayLike | None = None,  # [D] of the expression space
        depth: npt.NDArray[np.floating]
        | bytes
        | None = None,  # [H, W], ray distance in world units
        mask: npt.NDArray[np.generic] | bytes | None = None,  # [H, W], uint8 0..255 or float 0..1
        time_s: float | None = None,  # None: index in the clip / fps
        confidence: float = 1.0,  # of the tracker, 0..1
        **extra: npt.ArrayLike,  # the labels of spec.extra_labels
    ) -> None:
        """Append a frame to the clip last begun.

        Raises:
            UserError: an array has the wrong size or is not finite, or the disk is full.
        """
        where = f"frame {self._n_frames} of shard {self.shard_id}"
        row = np.zeros((), self._dtype)
        labels = {"camera": camera, **extra}
        if self.spec.expression is not None:
            if beta is None:
                raise UserError(
                    f"{where} has no beta but the dataset declares {self.spec.expression.name!r}"
                )
            labels["beta"] = beta
        elif beta is not None:
            raise UserError(
                f"{where} has a beta but the dataset declares no expression space; declare one"
            )
        if missing := set(self.spec.extra_labels) ^ set(extra):
            raise UserError(
                f"{where}: the labels {sorted(missing)} do not agree with the dataset's extra_labels"
            )
        for name, value in labels.items():
            row[name] = _checked_label(value, self._dtype[name].shape, f"{where}: {name}")
        encoded = self._encode(image, depth, mask, where)
        clip, index, fps = self._current_clip()
        row["clip"], row["index"], row["shard"] = clip, index, self.shard_id
        row["time_s"] = index / fps if time_s is None else time_s
        row["confidence"] = confidence
        for channel, (suffix, data) in encoded.items():
            row[f"{channel}_offset"], row[f"{channel}_size"] = (
                self._store(channel, suffix, data),
                len(data),
            )
        self._append(row)

    def leave_out(self, n_frames: int) -> None:
        """Note frames that were made but are not kept, so that the shard counts as whole all the same."""
        self._n_left_out += n_frames

    def close(self) -> None:
        """Make the shard visible. Further calls do nothing."""
        if self._zip is None:
            return
        _, clips_path, frames_path, marker = self._pending.paths
        try:
            self._zip.close()
            self._zip = None
            clips = np.array(self._clips, CLIP_DTYPE)
            np.save(clips_path, clips, allow_pickle=False)
            np.save(frames_path, self._frames[: self._n_frames], allow_pickle=False)
            counts = (len(clips), self._n_frames, sha256_file(frames_path))
            summary = {**self.spec.to_dict(), **dict(zip(PART_KEYS, counts, strict=True))}
            if self._n_left_out:
                summary[LEFT_OUT_KEY] = self._n_left_out
            dump_json(marker, summary)
            self._pending.commit(marker=True)
        except BaseException as error:
            self.abort()
            if isinstance(error, OSError):
                raise _writing_error(error, shard_path(self.dest, self.shard_id)) from error
            raise

    def abort(self) -> None:
        """Throw away what was written to this shard."""
        if self._zip is not None:
            archive, self._zip = self._zip, None
            if archive.fp is not None:
                archive.fp.close()
                archive.fp = None
        self._pending.discard()

    def _current_clip(self) -> tuple[int, int, float]:
        if self._next_clip is not None:
            name, identity, split, fps = self._next_clip
            self._clips.append((name, identity, split, self._n_frames, 0, fps))
            self._next_clip = None
        if not self._clips:
            raise ValueError("call add_clip before the first add_frame")
        name, identity, split, first, n_frames, fps = self._clips[-1]
        self._clips[-1] = (name, identity, split, first, n_frames + 1, fps)
        return len(self._clips) - 1, n_frames, fps

    def _encode(
        self, image: Any, depth: Any, mask: Any, where: str
    ) -> dict[str, tuple[str, bytes]]:
        given = {"image": image, "depth": depth, "mask": mask}
        size = (self.spec.resolution, self.spec.resolution)
        for channel in CHANNELS:
            value = given[channel]
            if (value is not None) != (channel in self.spec.channels):
                state = "lacks" if value is None else "has"
                raise UserError(
                    f"{where} {state} the channel {channel!r}, unlike the dataset's {self.spec.channels}"
                )
            if isinstance(value, np.ndarray):
                if channel == "image" and value.shape == (3, *size) and value.shape != (*size, 3):
                    given["image"] = value = value.transpose(1, 2, 0)
                expected = (*size, 3) if channel == "image" else size
                if value.shape != expected:
                    raise UserError(
                        f"{where}: {channel} has shape {value.shape} but should have {expected}"
                    )
        if isinstance(image, np.ndarray) and image.dtype != np.uint8:
            raise UserError(f"{where}: image is {image.dtype} but should be uint8 RGB")
        data = (
            image
            if isinstance(image, bytes)
            else encode_image(given["image"], self.spec.image_codec)
        )
        encoded: dict[str, tuple[str, bytes]] = {"image": (self.spec.image_codec, data)}
        if depth is not None:
            if not isinstance(depth, bytes) and np.isnan(depth).any():
                raise UserError(f"{where}: depth holds NaN; give every pixel a distance")
            coded = depth if isinstance(depth, bytes) else encode_depth(depth)
            encoded["depth"] = ("png", coded)
        if mask is not None:
            encoded["mask"] = ("png", mask if isinstance(mask, bytes) else encode_mask(mask))
        return encoded

    def _store(self, channel: str, suffix: str, data: bytes) -> int:
        """Append a member; returns the byte offset of its data within the zip."""
        if self._zip is None or self._zip.fp is None:
            raise ValueError("this shard is closed")
        prefix = "img" if channel == "image" else channel
        folder = self._n_frames // _FRAMES_PER_FOLDER
        info = zipfile.ZipInfo(f"{folder:05d}/{prefix}{self._n_frames:08d}.{suffix}", FIXED_DATE)
        info.external_attr = 0o644 << 16
        info.create_system = 3  # the same bytes on every system
        try:
            self._zip.writestr(info, data)
        except OSError as error:
            raise _writing_error(error, shard_path(self.dest, self.shard_id)) from error
        return self._zip.fp.tell() - len(
            data
        )  # uncompressed, no data descriptor: the data came last

    def _append(self, row: npt.NDArray[np.void]) -> None:
        if self._n_frames == len(self._frames):
            self._frames = np.concatenate([self._frames, np.zeros_like(self._frames)])
        self._frames[self._n_frames] = row
        self._n_frames += 1


def _checked_label(
    value: npt.ArrayLike, shape: tuple[int, ...], what: str
) -> npt.NDArray[np.float32]:
    array = np.asarray(value, dtype=np.float32)
    if array.shape != shape:
        raise UserError(f"{what} has shape {array.shape} but should have {shape}")
    if not np.isfinite(array).all():
        raise UserError(f"{what} holds NaN or infinity; leave the frame out")
    return array


def dump_json(path: Path, values: dict[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(values, file, indent=1)
        file.write("\n")


def _writing_error(error: OSError, path: Path) -> Exception:
    return os_error_to_user_error(error, path) or error
