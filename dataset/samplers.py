"""Which frames a training step sees: pure functions of (seed, step), nothing to save or restore.

A sampler answers for any step at once, so that a run resumes anywhere. It draws the whole global batch and every rank
takes its part: the frames of a step depend neither on the number of ranks nor on that of loader processes.
The random numbers come from Philox, a counter-based generator: (seed, purpose) is the key, the step the counter.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dataset.frames import FrameDataset
from dnnlib.errors import UserError

Indices = npt.NDArray[np.int64]

_PURPOSE_ORDER, _PURPOSE_PAIRS, _PURPOSE_CLIPS = 1, 2, 3


class PairIndices(NamedTuple):
    source: Indices  # [B]
    driving: Indices  # [B], another frame of the same clip
    mirror: npt.NDArray[np.bool_]  # [B], an even coin: whether to flip the pair if flips are wanted


def _generator(seed: int, purpose: int, counter: int) -> np.random.Generator:
    # 128-bit key and 256-bit counter; the counter's low word is left to the draws within one step.
    key = (int(seed) & (2**64 - 1)) | (purpose << 64)
    return np.random.Generator(np.random.Philox(key=key, counter=int(counter) << 64))


class _ClipOrder:
    """An endless sequence of clips: every pass visits each clip once, in a new order. `take(n)` is random access."""

    def __init__(self, clips: Indices, seed: int) -> None:
        self._clips, self._seed = clips, seed
        self._memo: tuple[int, Indices] = (-1, clips)

    def take(self, numbers: Indices) -> Indices:
        passes, places = np.divmod(numbers, len(self._clips))
        taken = np.empty_like(numbers)
        for number in np.unique(passes):
            here = passes == number
            taken[here] = self._pass(int(number))[places[here]]
        return taken

    def _pass(self, number: int) -> Indices:
        if self._memo[0] != number:
            order = _generator(self._seed, _PURPOSE_ORDER, number).permutation(len(self._clips))
            self._memo = (number, self._clips[order])
        return self._memo[1]


class PairSampler:
    """Source and driving frames: clips take turns, the two frames of a pair come from one clip and differ.

    A clip counts the same whether long or short, because variety of people is what is scarce.

    Raises:
        UserError: no clip of the split has two frames.
    """

    def __init__(
        self,
        dataset: FrameDataset,
        split: str | None = "train",  # None: all
        seed: int = 0,
        batch_size: int = 8,  # global, over all ranks
    ) -> None:
        self.batch_size = batch_size
        self._seed = seed
        clips = _clips_with(dataset, split, 2, "a pair needs two frames of one clip")
        self._order = _ClipOrder(clips, seed)
        self._first = dataset.clips["first_frame"].astype(np.int64)
        self._count = dataset.clips["n_frames"].astype(np.int64)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> PairIndices:
        """The pairs of `rank` in `step`; ranks hold neighbouring parts of the global batch."""
        clips = self._order.take(step * self.batch_size + np.arange(self.batch_size))
        random = _generator(self._seed, _PURPOSE_PAIRS, step)
        first, count = self._first[clips], self._count[clips]
        source = random.integers(0, count)
        driving = random.integers(0, count - 1)
        driving += driving >= source  # uniform over the other frames
        mirror = random.integers(0, 2, self.batch_size).astype(bool)
        part = _part(self.batch_size, rank, world)
        return PairIndices((first + source)[part], (first + driving)[part], mirror[part])


class ClipBatchSampler:
    """K different frames of each of several clips, for contrastive pre-training (paper, sec. 3.2).

    Clips with fewer than K frames are left out: a frame drawn twice would be its own negative.

    Raises:
        UserError: no clip of the split has K frames.
    """

    def __init__(
        self,
        dataset: FrameDataset,
        split: str | None = "train",
        seed: int = 0,
        videos: int = 8,  # per step, over all ranks
        frames: int = 32,  # K
    ) -> None:
        self.videos, self.frames = videos, frames
        self._seed = seed
        clips = _clips_with(
            dataset, split, frames, "contrastive pre-training needs K frames of one clip"
        )
        self._order = _ClipOrder(clips, seed)
        self._first = dataset.clips["first_frame"].astype(np.int64)
        self._count = dataset.clips["n_frames"].astype(np.int64)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Indices:
        """Frame numbers [videos / world, K] of `rank` in `step`."""
        clips = self._order.take(step * self.videos + np.arange(self.videos))
        random = _generator(self._seed, _PURPOSE_CLIPS, step)
        rows = [
            self._first[c] + random.choice(self._count[c], self.frames, replace=False)
            for c in clips
        ]
        return np.stack(rows)[_part(self.videos, rank, world)]


def _clips_with(dataset: FrameDataset, split: str | None, n_frames: int, why: str) -> Indices:
    clips = dataset.clips_of(split)
    name = f"the {split} split of {dataset.path}" if split else str(dataset.path)
    if len(clips) == 0:
        raise UserError(f"{name} has no clips; put clips into that split or choose another")
    long_enough = clips[dataset.clips["n_frames"][clips] >= n_frames]
    if len(long_enough) == 0:
        longest = int(dataset.clips["n_frames"][clips].max())
        raise UserError(
            f"{name} has clips of {longest} frame(s) at most, but {why} (here {n_frames}); add longer clips"
        )
    return long_enough


def _part(size: int, rank: int, world: int) -> slice:
    if size % world:
        raise UserError(
            f"the global batch of {size} cannot be divided among {world} processes; change one of them"
        )
    share = size // world
    return slice(rank * share, (rank + 1) * share)
