"""From samplers to batches of tensors, in this process or in several workers; the order is always the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler

from conventions.cameras import mirror_label
from conventions.mirror import Mirror, label_mirrors
from dataset.frames import FrameDataset
from dataset.reading import Reader
from dataset.samplers import ClipBatchSampler, Indices, PairIndices, PairSampler
from dnnlib.errors import UserError

Batch = dict[str, Tensor]


class _StepsFrom(Sampler[int]):
    """start, start + 1, ... without end."""

    def __init__(self, start: int) -> None:
        self._start = start

    def __iter__(self) -> Iterator[int]:
        step = self._start
        while True:
            yield step
            step += 1


class _PairBatches(Dataset[Batch]):
    """Item `step` is the batch of this rank; images stay uint8 here, a quarter of the bytes between processes."""

    def __init__(
        self,
        dataset: FrameDataset,
        sampler: PairSampler,
        rank: int,
        world: int,
        mirror: bool,
        labels: tuple[str, ...],
        channels: tuple[str, ...],  # beside the image, of the driving frame
        beta_mirror: Mirror | None,
    ) -> None:
        self._dataset, self._sampler = dataset, sampler
        self._channels = channels
        self._rank, self._world = rank, world
        self._mirror, self._labels = mirror, labels
        space = dataset.space
        size = dataset.spec.resolution
        self._mirrors = label_mirrors(labels, space, size, beta_mirror) if mirror else {}

    def __getitem__(self, step: int) -> Batch:
        pairs = self._sampler.batch(step, self._rank, self._world)
        flip = pairs.mirror if self._mirror else np.zeros_like(pairs.mirror)
        batch: dict[str, npt.NDArray[Any]] = {}
        reader = Reader(self._dataset)
        source = reader.readable(pairs.source, "image")
        driving = reader.readable(pairs.driving, "image", *self._channels)
        pairs = PairIndices(source, driving, flip)
        for prefix, frames in (("source_", pairs.source), ("", pairs.driving)):
            picture = "source" if prefix else "driving"
            batch[picture] = self._pictures(reader, "image", frames, flip)
            batch[f"{prefix}camera"] = self._label("camera", frames, flip)
            batch[f"{prefix}index"] = frames
            for name in self._labels:
                batch[f"{prefix}{name}"] = self._label(name, frames, flip)
        for channel in self._channels:
            batch[channel] = self._pictures(reader, channel, pairs.driving, flip)[:, None]
        batch["mirrored"] = flip
        batch["replaced"] = reader.replaced(pairs.source, pairs.driving)
        return {
            name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in batch.items()
        }

    def _pictures(
        self, reader: Reader, channel: str, frames: Indices, flip: npt.NDArray[np.bool_]
    ) -> npt.NDArray[Any]:
        pictures = [reader.picture(channel, int(i)) for i in frames]
        return np.stack([p[..., ::-1] if f else p for p, f in zip(pictures, flip, strict=True)])

    def _label(
        self, name: str, frames: Indices, flip: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float32]:
        labels = np.stack([self._dataset.label(name, int(i)) for i in frames])
        if not flip.any():
            return labels
        if name == "camera":
            mirrored = np.asarray(mirror_label(labels), dtype=np.float32)
        else:
            mirrored = self._mirrors[name](labels)
        return np.where(flip[:, None], mirrored, labels)


class PairLoader:
    """Endless batches for training, the same for the same (seed, step) whatever the number of workers.

    Each is a dict of tensors (B: this rank's share of the global batch):
        source, driving              float32 [B, 3, H, W] in [-1, 1]
        camera, source_camera        float32 [B, 25]
        beta, source_beta            float32 [B, D], when the dataset has them; likewise every name in `labels`
        mask                         float32 [B, 1, H, W] of the driving frame, 0..1, when the dataset has it
        depth                        float32 [B, 1, H, W] of the driving frame, world units, when the dataset has it
        index, source_index          int64 [B], frame numbers; mirrored: bool [B]
        replaced                     int64 [B, 2, 2]: source and driving frame: one that cannot be read, and the
                                     neighbour in its place; -1, -1 where all is well

    Raises:
        UserError: mirroring is asked for, but the expression space does not say what is left and right.
    """

    def __init__(
        self,
        dataset: FrameDataset,
        split: str | None = "train",
        seed: int = 0,
        batch_size: int = 8,  # global, over all ranks
        *,
        start_step: int = 0,  # resume here
        rank: int = 0,
        world: int = 1,
        num_workers: int = 0,  # 0: in this process
        mirror: bool = False,  # flip half of the pairs, camera and beta included
        labels: tuple[str, ...] = (),  # further labels of the dataset, e.g. "beta_true"
        channels: tuple[str, ...] = ("mask", "depth"),  # beside the image; those of them that exist
        beta_mirror: Mirror | None = None,  # of spaces whose names do not say it
    ) -> None:
        for name in labels:
            if name not in dataset.spec.extra_labels and name != "confidence":
                raise UserError(
                    f"{dataset.path} has no label {name!r}; it has {sorted(dataset.spec.extra_labels)}"
                )
        names = (("beta",) if dataset.space is not None else ()) + labels
        sampler = PairSampler(dataset, split, seed, batch_size)
        sampler.batch(start_step, rank, world)  # an indivisible batch fails here, not in a worker
        wanted = tuple(c for c in channels if c in dataset.channels)
        batches = _PairBatches(dataset, sampler, rank, world, mirror, names, wanted, beta_mirror)
        self._loader = _data_loader(batches, start_step, num_workers)

    def __iter__(self) -> Iterator[Batch]:
        for batch in _unwrapped(self._loader):
            batch["source"] = _to_signed_unit(batch["source"])
            batch["driving"] = _to_signed_unit(batch["driving"])
            yield batch


class _ClipBatches(Dataset[Batch]):
    def __init__(
        self,
        dataset: FrameDataset,
        sampler: ClipBatchSampler,
        rank: int,
        world: int,
        image_size: int,
    ) -> None:
        self._dataset, self._sampler = dataset, sampler
        self._rank, self._world, self._image_size = rank, world, image_size

    def __getitem__(self, step: int) -> Batch:
        frames = self._sampler.batch(step, self._rank, self._world)
        reader = Reader(self._dataset)
        flat = reader.readable(frames.reshape(-1), "image")
        images = torch.from_numpy(np.stack([reader.picture("image", int(i)) for i in flat]))
        if images.shape[-1] != self._image_size:
            size = (self._image_size, self._image_size)
            images = functional.interpolate(images, size=size, mode="bilinear", antialias=True)
        betas = torch.from_numpy(np.stack([self._dataset.beta(int(i)) for i in flat]))
        clips = torch.tensor([int(self._dataset.row(int(i))["clip"]) for i in frames[:, 0]])
        shape = frames.shape
        return {
            "image": images.reshape(*shape, *images.shape[1:]),
            "beta": betas.reshape(*shape, -1),
            "clip": clips,
            "index": torch.from_numpy(flat.reshape(shape)),
            "replaced": torch.from_numpy(reader.replaced(flat)),
        }


class ClipLoader:
    """Endless batches for contrastive pre-training:

        image  float32 [V, K, 3, S, S] in [-1, 1]
        beta   float32 [V, K, D]
        clip   int64 [V]; index: int64 [V, K]

    V is this rank's share of `videos`.
    """

    def __init__(
        self,
        dataset: FrameDataset,
        split: str | None = "train",
        seed: int = 0,
        videos: int = 8,  # global, over all ranks
        frames: int = 32,  # K
        image_size: int = 128,  # S; images are scaled to it
        *,
        start_step: int = 0,
        rank: int = 0,
        world: int = 1,
        num_workers: int = 0,
    ) -> None:
        if dataset.space is None:
            raise UserError(
                f"{dataset.path} has no expression parameters; make it with dataset_tool.py"
            )
        sampler = ClipBatchSampler(dataset, split, seed, videos, frames)
        sampler.batch(start_step, rank, world)
        batches = _ClipBatches(dataset, sampler, rank, world, image_size)
        self._loader = _data_loader(batches, start_step, num_workers)

    def __iter__(self) -> Iterator[Batch]:
        for batch in _unwrapped(self._loader):
            batch["image"] = _to_signed_unit(batch["image"])
            yield batch


class _ErrorsAsItems(Dataset["Batch | UserError"]):
    """A worker would wrap a user's mistake in a traceback of its own; as an item it arrives as it is."""

    def __init__(self, batches: Dataset[Batch]) -> None:
        self._batches = batches

    def __getitem__(self, step: int) -> Batch | UserError:
        try:
            return self._batches[step]
        except UserError as error:
            return error


def _unwrapped(loader: Iterable[Batch | UserError]) -> Iterator[Batch]:
    for item in loader:
        if isinstance(item, UserError):
            raise item
        yield item


def _data_loader(
    batches: Dataset[Batch], start_step: int, num_workers: int
) -> DataLoader[Batch | UserError]:
    return DataLoader(
        _ErrorsAsItems(batches),
        batch_size=None,  # an item is a whole batch already
        sampler=_StepsFrom(start_step),
        num_workers=num_workers,
        prefetch_factor=2 if num_workers else None,
        pin_memory=torch.cuda.is_available(),
    )


def _to_signed_unit(image: Tensor) -> Tensor:
    """uint8 0..255 -> float32 -1..1."""
    return image.float().div_(127.5).sub_(1.0)
