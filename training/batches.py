"""Batches on their way into a step, and the frames that they are made of."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from dataset.frames import FrameDataset
from dnnlib import UserError
from running.heartbeat import DATA, Heartbeat
from torch_utils import distributed

Batch = Mapping[str, Tensor]
_ON_CPU = ("index", "source_index", "replaced")  # which frames they are is asked there alone


def on_device(
    loader: Callable[[], Iterable[Batch]], device: torch.device, heart: Heartbeat
) -> Iterator[Batch]:
    """Batches without end; opened when the first is asked for. Waiting for one counts as waiting for data."""
    batches = iter(loader())
    while True:
        with heart.phase(DATA):
            batch = next(batches)
        yield {
            name: x if name in _ON_CPU else x.to(device, non_blocking=True)
            for name, x in batch.items()
        }


def named_frames(dataset: FrameDataset, batch: Batch) -> list[dict[str, Any]]:
    """JSON: the frames of every rank's part of the batch and their clips. Called in all ranks."""
    sources = batch.get("source_index", batch["index"][:0])
    everyone = distributed.gather_json(
        {
            "rank": distributed.rank(),
            "host": distributed.host(),
            "frames": batch["index"].flatten().tolist(),
            "source_frames": sources.flatten().tolist(),
        }
    )
    for part in everyone:
        clips = [int(dataset.row(i)["clip"]) for i in part["frames"]]
        part["clips"] = [dataset.clips["name"][c].decode() for c in clips]
    return everyone


class UnreadableFrames:
    """Frames that this rank had to replace by a neighbour, each counted and told once."""

    def __init__(self, dataset: FrameDataset, limit: int) -> None:  # limit: over all ranks
        self._dataset, self._limit = dataset, limit
        self._found: set[int] = set()

    def note(self, batch: Batch) -> int:
        """Take in what the batch says of its frames; how many there are by now."""
        pairs = batch["replaced"].reshape(-1, 2).tolist() if "replaced" in batch else []
        for frame, taken in pairs:
            if frame >= 0 and frame not in self._found:
                self._found.add(frame)
                print(
                    f"[rank {distributed.rank()}, {distributed.host()}] {self._dataset.place(frame)} cannot be read; "
                    f"frame {taken} takes its place",
                    file=sys.stderr,
                    flush=True,
                )
        return len(self._found)

    def check(self, everywhere: int) -> None:
        """Raises UserError when that many, over all ranks, are too many."""
        if everywhere > self._limit:
            raise UserError(
                f"{everywhere} frames of {self._dataset.path} cannot be read, more than "
                f"data.unreadable_limit={self._limit}; restore its files (dataset_tool.py validate names them)"
            )
