"""Datasets made of datasets: joining several into one, and dividing one into splits."""

from __future__ import annotations

import heapq
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dataset.frames import FrameDataset
from dataset.joining import finalise
from dataset.reader import open_dataset
from dataset.spec import SPLITS, DatasetSpec, clip_name
from dataset.splits import check_shares
from dataset.verify import verify_dataset, verify_part
from dataset.writer import ShardWriter, shard_path
from dnnlib.errors import UserError
from dnnlib.files import atomic_folder, atomic_paths
from dnnlib.reading.text import read_json

CLIPS_PER_SHARD = 64
SAME_FACE = 0.5  # cosine of two clips' embeddings from which on they count as one person


# ---- merge -------------------------------------------------------------------------------------------------------


def merge(
    sources: list[Path], dest: str | os.PathLike[str], clips_per_shard: int = CLIPS_PER_SHARD
) -> int:
    """Copy datasets into one, pictures as they are stored; returns the number of frames.

    People of different datasets count as different; splits are kept. Clip names that clash get their dataset's number.
    All of it appears at once, after every picture's checksum was found right.

    Raises:
        UserError: `dest` exists, the datasets differ in resolution, codec, channels, labels, expression, crop or
            tracker, one of them is damaged, or the disk is full.
    """
    dest = Path(dest)
    datasets = [open_dataset(path) for path in sources]
    spec = _merged_spec(datasets)
    with atomic_folder(dest, "dataset.json") as folder:
        for data in datasets:
            verify_dataset(data)
        _copy_clips(folder, spec, datasets, clips_per_shard)
        finalise(folder)
    return sum(len(d) for d in datasets)


def _copy_clips(
    dest: Path, spec: DatasetSpec, datasets: list[FrameDataset], clips_per_shard: int
) -> None:
    taken: set[bytes] = set()
    clips = [(d, c) for d, data in enumerate(datasets) for c in range(len(data.clips))]
    people = _renumbered(datasets)
    for shard in range(-(-len(clips) // clips_per_shard)):
        part = clips[shard * clips_per_shard : (shard + 1) * clips_per_shard]
        with ShardWriter(dest, shard, spec) as writer:
            for number, clip in part:
                _copy_clip(writer, datasets[number], clip, number, people[number], taken)


def _merged_spec(datasets: list[FrameDataset]) -> DatasetSpec:
    first = datasets[0].spec.to_dict()
    for data in datasets[1:]:
        other = data.spec.to_dict()
        if differing := sorted(k for k in first if k != "source" and first[k] != other[k]):
            raise UserError(
                f"{datasets[0].path} and {data.path} differ in {', '.join(differing)}; make both with the same settings"
            )
    return DatasetSpec.from_dict(
        {**first, "source": {"merged": [d.spec.source for d in datasets]}}, "the merged dataset"
    )


def _renumbered(datasets: list[FrameDataset]) -> list[dict[int, int]]:
    """Per dataset: its identities -> numbers that no other dataset uses. Negative ones (unknown) stay."""
    tables: list[dict[int, int]] = []
    used = 0
    for data in datasets:
        known = [int(i) for i in np.unique(data.clips["identity"]) if i >= 0]
        tables.append({identity: used + k for k, identity in enumerate(known)})
        used += len(known)
    return tables


def _copy_clip(
    writer: ShardWriter,
    data: FrameDataset,
    clip: int,
    number: int,
    people: dict[int, int],
    taken: set[bytes],
) -> None:
    row = data.clips[clip]
    name = row["name"].decode()
    if clip_name(name) in taken:
        name = f"{number}/{name}"
    taken.add(clip_name(name))
    identity = people.get(int(row["identity"]), int(row["identity"]))
    writer.add_clip(name, identity, SPLITS[int(row["split"])], float(row["fps"]))
    first = int(row["first_frame"])
    for i in range(first, first + int(row["n_frames"])):
        frame = data.row(i)
        labels = {k: frame[k] for k in data.spec.extra_labels}
        if data.space is not None:
            labels["beta"] = frame["beta"]
        writer.add_frame(
            camera=frame["camera"],
            time_s=float(frame["time_s"]),
            confidence=float(frame["confidence"]),
            **{channel: _stored(data, i, channel) for channel in data.channels},
            **labels,
        )


def _stored(data: FrameDataset, i: int, channel: str) -> bytes:
    """A channel's bytes. A file of an EG3D folder has no checksum: it must at least be a picture."""
    if not data.path.is_file() and data.spec.source.get("format") == "eg3d":
        data.image(i)
    return data.encoded(i, channel)


# ---- split -------------------------------------------------------------------------------------------------------


def resplit(
    path: str | os.PathLike[str],
    by: str = "identity",  # "identity", or "face": people are told apart by their faces first
    val: float = 0.02,
    test: float = 0.05,
    seed: int = 0,
) -> dict[str, int]:
    """Divide the people of a dataset anew among the splits, in place; returns the number of people of each.

    A share above 0 gets one person at least. With "face", clips whose embeddings are alike on average become one
    identity (`people_by_face`): their records in DATA/videos hold the embeddings.

    Raises:
        UserError: the shares are wrong, there are too few people, or no embeddings for "face".
    """
    check_shares(val, test, "--val and --test")
    data = open_dataset(path)
    if not isinstance(data.frames, np.memmap):
        raise UserError(f"{path} is not a dataset of this project; export or prepare it anew")
    clips = np.array(data.clips)
    if by == "face":
        clips["identity"] = _identities_by_face(Path(path), clips)
    people = np.unique(clips["identity"])
    wanted = [max(1, round(share * len(people))) if share > 0 else 0 for share in (test, val)]
    if sum(wanted) >= len(people):
        raise UserError(
            f"{path} shows {len(people)} people, too few for splits of {wanted[1]} and {wanted[0]}; lower the shares"
        )
    order = np.random.default_rng(seed).permutation(people)
    numbers = np.full(len(clips), SPLITS.index("train"), np.uint8)
    numbers[np.isin(clips["identity"], order[: wanted[0]])] = SPLITS.index("test")
    numbers[np.isin(clips["identity"], order[wanted[0] : sum(wanted)])] = SPLITS.index("val")
    clips["split"] = numbers
    _store_clips(Path(path), data, clips)
    return {name: len(np.unique(clips["identity"][numbers == i])) for i, name in enumerate(SPLITS)}


def _store_clips(path: Path, data: FrameDataset, clips: npt.NDArray[np.void]) -> None:
    """All files at once, the shards' rows too, so that joining them again gives the same."""
    shards = np.array([int(data.row(int(c["first_frame"]))["shard"]) for c in clips])
    tables = {path / "clips.npy": clips}
    for shard in np.unique(shards):
        part = shard_path(path, int(shard), ".clips.npy")
        if part.is_file():
            verify_part(path, int(shard), contents=False)
            rows = np.array(clips[shards == shard])
            rows["first_frame"] -= rows["first_frame"][0]
            tables[part] = rows
    with atomic_paths(*tables) as places:
        for place, rows in zip(places, tables.values(), strict=True):
            with open(place, "wb") as file:
                np.save(file, rows, allow_pickle=False)


def clip_embeddings(path: Path) -> dict[bytes, npt.NDArray[np.float32]]:
    """Stored name of a clip -> face embedding, of those whose records have one."""
    found: dict[bytes, npt.NDArray[np.float32]] = {}
    for file in sorted((path / "videos").glob("[0-9]*.json")):
        try:
            record = read_json(file, "prepare the videos again")
            for clip in record["clips"]:
                if clip["embedding"] is not None:
                    found[clip_name(clip["name"])] = np.array(clip["embedding"], np.float32)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise UserError(f"{file} is damaged; prepare the videos again") from error
    return found


def _identities_by_face(path: Path, clips: npt.NDArray[np.void]) -> npt.NDArray[np.int32]:
    known = clip_embeddings(path)
    if missing := [c["name"] for c in clips if c["name"] not in known]:
        raise UserError(
            f"{path} has no face embedding of {missing[0].decode(errors='replace')}; prepare the videos with "
            "check_identity, or use --by identity"
        )
    vectors = np.stack([known[c["name"]] for c in clips])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # People who were one before stay one, whatever their faces.
    _, labels = np.unique(clips["identity"], return_inverse=True)
    return people_by_face(vectors, labels)


def people_by_face(
    vectors: npt.NDArray[np.float32],  # unit embeddings [N, D]
    labels: npt.NDArray[np.int64],  # [N], 0 .. K - 1: those of one number are one person
    threshold: float = SAME_FACE,
) -> npt.NDArray[np.int32]:
    """Numbers [N] of people: groups are joined, the most alike first, while their faces are alike on average.

    Average linkage: two groups are one person when the mean cosine between their members exceeds the threshold. That a
    single pair does would chain all people of a large collection together, each by a pair of doubles.
    """
    parent = np.arange(int(labels.max(initial=-1)) + 1)
    sums = np.zeros((len(parent), vectors.shape[1]))
    np.add.at(sums, labels, vectors)
    sizes = np.bincount(labels, minlength=len(parent))

    def group(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    def likeness(a: int, b: int) -> float:
        return float(sums[a] @ sums[b]) / float(sizes[a] * sizes[b])

    heap: list[tuple[float, int, int]] = []
    means = sums / sizes[:, None]
    for start in range(0, len(means), 1024):
        rows, columns = np.nonzero(means[start : start + 1024] @ means.T > threshold)
        pairs = zip((rows + start).tolist(), columns.tolist(), strict=True)
        heap += [(-likeness(i, j), i, j) for i, j in pairs if i < j]
    heapq.heapify(heap)
    while heap:
        score, i, j = heapq.heappop(heap)
        a, b = group(i), group(j)
        if a == b:
            continue
        now = likeness(a, b)
        if now <= threshold:
            continue
        if -now > score + 1e-9:  # a group has grown since: others may be more alike by now
            heapq.heappush(heap, (-now, a, b))
            continue
        parent[b] = a
        sums[a] += sums[b]
        sizes[a] += sizes[b]
    return np.array([group(int(k)) for k in labels], np.int32)
