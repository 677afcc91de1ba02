"""Writes datasets of synthetic heads: a shard per group of people, several processes, the same bytes always."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np

from conventions.crop import CROP_NAME, CROP_VERSION
from conventions.spaces import ARKIT52
from dataset.joining import finalise, remove_leftovers
from dataset.splits import check_shares, split_at
from dataset.synthesis.heads import WILD_FRACTION, SyntheticHeads
from dataset.synthesis.labels import Measured, measure_clip
from dataset.synthesis.motion import observe, sample_clip
from dataset.writer import LEFT_OUT_KEY, DatasetSpec, ShardWriter, shard_path
from dnnlib import UserError
from dnnlib.options import option
from dnnlib.params import SEED, Number, Whole
from dnnlib.reading.text import read_json
from dnnlib.signals import end_in_order
from tracking.landmarker import Landmarker

# Changes whenever the same seed gives other pictures.
GENERATOR_VERSION = 4  # of everything, looks included: the same options give the same bytes
# Of what painted beta and camera mean: networks and data of one version go together.
MEASURE_VERSION = "v3"
IDENTITIES_PER_SHARD = 16
SMALLEST_TRACKED = 64  # pixels


@dataclass(frozen=True)
class SynthOptions:
    """Everything that decides the bytes of a synthetic dataset.

    Attributes:
        n_identities: people; clip i of person p is named "p-i".
        frames_per_clip, clips_per_identity: sizes.
        stride_s: time between the frames of a clip, seconds.
        resolution: pixels a side.
        seed: of the population.
        val_fraction, test_fraction: shares of the identities, the rest is for training.
        labels: beta and camera as the tracker measures them on the pictures, or as they were painted.
        leakage_strength: how far identity leaks into a painted beta; 0: not, 1: as documented.
        wild_fraction: share of people with random strong colours and patterns.
        samples: rays per pixel and side.
        image_codec: png (lossless), webp or jpg.
        background_in: "image" or "world". light_in: "head" or "camera".
        first_identity: number of the first person, for datasets that must not share people.
    """

    n_identities: int = option(
        "--identities", default=1000, type=Whole(1, 10_000_000), help="Number of people."
    )
    frames_per_clip: int = option(
        "--frames-per-clip", default=8, type=Whole(1, 1_000_000), help="Frames of a clip."
    )
    clips_per_identity: int = option(
        "--clips-per-identity", default=1, type=Whole(1, 10_000), help="Clips of a person."
    )
    stride_s: float = option(
        "--stride",
        default=0.28,
        type=Number(0, 3600, above=True),
        help="Seconds between the frames of a clip.",
    )
    resolution: int = option(
        "--resolution", default=128, type=Whole(16, 2048), help="Pixels a side."
    )
    seed: int = option("--seed", default=0, type=SEED, help="Another seed, other people.")
    val_fraction: float = option(
        "--val", default=0.02, type=Number(0, 1), help="Share of people in the validation split."
    )
    test_fraction: float = option(
        "--test", default=0.05, type=Number(0, 1), help="Share of people in the test split."
    )
    labels: Literal["tracked", "painted"] = option(
        "--labels",
        default="tracked",
        type=click.Choice(["tracked", "painted"]),
        help="beta and camera as the tracker measures them, or as they were painted.",
    )
    leakage_strength: float = option(
        "--leakage",
        default=1.0,
        type=Number(0, 1000),
        help="How strongly identity leaks into a painted expression.",
    )
    wild_fraction: float = option(
        "--wild",
        default=WILD_FRACTION,
        type=Number(0, 1),
        help="Share of people with random strong colours and patterns.",
    )
    samples: int = option("--samples", default=2, type=Whole(1, 4), help="Rays per pixel and side.")
    image_codec: Literal["png", "webp", "jpg"] = option(
        "--codec",
        default="png",
        type=click.Choice(["png", "webp", "jpg"]),
        help="Coding of the images.",
    )
    background_in: str = option(
        "--background",
        default="image",
        type=click.Choice(["image", "world"]),
        help="What the background is fixed to.",
    )
    light_in: str = option(
        "--light",
        default="head",
        type=click.Choice(["head", "camera"]),
        help="What the light is fixed to.",
    )
    first_identity: int = option(
        "--first-identity", default=0, type=Whole(0, 2**31 - 1), help="Number of the first person."
    )

    def __post_init__(self) -> None:
        for name in (
            "n_identities",
            "frames_per_clip",
            "clips_per_identity",
            "resolution",
            "samples",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        check_shares(self.val_fraction, self.test_fraction, "val_fraction and test_fraction")
        if self.labels == "tracked" and self.resolution < SMALLEST_TRACKED:
            raise UserError(
                f"a tracker sees no faces in pictures of {self.resolution} pixels; use --resolution "
                f"{SMALLEST_TRACKED} or more, or --labels painted"
            )
        if self.stride_s <= 0:
            raise UserError(f"stride_s must be a positive number of seconds, not {self.stride_s}")

    def split_of(self, identity_id: int) -> str:
        """Split of a person: depends on the seed and the number alone, so adding people moves nobody."""
        draw = np.random.default_rng([self.seed, identity_id, 99]).random()
        return split_at(draw, self.val_fraction, self.test_fraction)


def dataset_spec(options: SynthOptions) -> DatasetSpec:
    """What `dataset.json` of a synthetic dataset declares."""
    return DatasetSpec(
        resolution=options.resolution,
        expression=ARKIT52,
        image_codec=options.image_codec,
        channels=("image", "depth", "mask"),
        extra_labels={"beta_true": 52, "camera_true": 25},
        crop={"name": CROP_NAME, "version": CROP_VERSION},  # rendered as the tracker would cut it
        tracker=(
            {"name": ARKIT52.tracker, "hash": Landmarker().hash}
            if options.labels == "tracked"
            else {"name": "synthetic-heads", "hash": MEASURE_VERSION}
        ),
        # n_identities is left out: a dataset may grow, and its shards stay what they are.
        source={
            "generator": "synthetic-heads",
            "version": GENERATOR_VERSION,
            **{k: v for k, v in asdict(options).items() if k != "n_identities"},
        },
    )


def generate_dataset(
    dest: str | os.PathLike[str],
    n_identities: int,
    frames_per_clip: int = 8,
    resolution: int = 128,
    seed: int = 0,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Path:
    """Render a dataset of synthetic talking heads.

    The bytes depend on the options alone, not on `workers`. Shards that an earlier run of the same options completed
    are kept, so the same command continues after it was killed.

    Args:
        dest: folder.
        workers: processes.
        progress: called with (frames done, frames in all) after every shard.
        options: further fields of `SynthOptions`.

    Raises:
        UserError: an option is out of range, or `dest` holds shards that were made with other options.
    """
    chosen = SynthOptions(
        n_identities=n_identities,
        frames_per_clip=frames_per_clip,
        resolution=resolution,
        seed=seed,
        **options,
    )
    dest = Path(dest)
    n_shards = -(-n_identities // IDENTITIES_PER_SHARD)
    jobs = [(str(dest), shard, chosen) for shard in range(n_shards)]
    todo = [job for job in jobs if not _is_done(dest, job[1], chosen)]
    per_person = chosen.frames_per_clip * chosen.clips_per_identity
    total = n_identities * per_person
    done = total - sum(len(_people(job[1], chosen)) for job in todo) * per_person
    remove_leftovers(dest)
    if todo:
        SyntheticHeads(seed)  # fails here, once, where a package is missing
        if workers > 1 and len(todo) > 1:
            # Fork-free: the parent may hold threads of torch.
            with multiprocessing.get_context("spawn").Pool(
                min(workers, len(todo)), initializer=end_in_order
            ) as pool:
                for n_frames in pool.imap_unordered(_write_shard, todo):
                    done += n_frames
                    if progress:
                        progress(done, total)
        else:
            for job in todo:
                done += _write_shard(job)
                if progress:
                    progress(done, total)
    finalise(dest, n_shards)
    return dest


def _people(shard: int, options: SynthOptions) -> range:
    first = shard * IDENTITIES_PER_SHARD
    last = min(first + IDENTITIES_PER_SHARD, options.n_identities)
    return range(options.first_identity + first, options.first_identity + last)


def _is_done(dest: Path, shard: int, options: SynthOptions) -> bool:
    marker = shard_path(dest, shard, ".json")
    if not marker.is_file() or not shard_path(dest, shard).is_file():
        return False
    try:
        found = read_json(marker)
    except UserError:
        return False  # damaged: made anew
    if found.get("source") != json.loads(json.dumps(dataset_spec(options).source)):
        raise UserError(
            f"{dest} holds synthetic heads made with other options; choose another folder or remove it"
        )
    n_frames = len(_people(shard, options)) * options.frames_per_clip * options.clips_per_identity
    return bool(found.get("n_frames", -1) + found.get(LEFT_OUT_KEY, 0) == n_frames)


def _write_shard(job: tuple[str, int, SynthOptions]) -> int:
    dest, shard, options = job
    heads = SyntheticHeads(options.seed, options.wild_fraction)
    landmarker = Landmarker() if options.labels == "tracked" else None
    n_frames = 0
    with ShardWriter(dest, shard, dataset_spec(options)) as writer:
        for person in _people(shard, options):
            for clip in range(options.clips_per_identity):
                n_frames += _write_clip(writer, heads, landmarker, person, clip, options)
    return n_frames


def _write_clip(
    writer: ShardWriter,
    heads: SyntheticHeads,
    landmarker: Landmarker | None,
    person: int,
    clip: int,
    options: SynthOptions,
) -> int:
    rng = np.random.default_rng([options.seed, person, 1000 + clip])
    motion = sample_clip(rng, options.frames_per_clip, options.stride_s)
    code = heads.person(person).shape.code
    painted = observe(motion.beta_true, code, options.leakage_strength, rng)
    frames = [
        heads.render(
            person, beta, camera, options.resolution, options.samples,
            options.background_in, options.light_in,
        )
        for beta, camera in zip(motion.beta_true, motion.cameras, strict=True)
    ]  # fmt: skip
    if landmarker is None:
        n = len(frames)
        said = Measured(painted, motion.cameras, np.zeros(n, np.float32), np.ones(n, np.float32))
    else:
        said = measure_clip(landmarker, [f.image for f in frames], motion.cameras)
    kept = np.flatnonzero(said.confidence > 0)
    if len(kept) < min(2, len(frames)):  # a clip of one frame makes no pair
        kept = kept[:0]
    writer.leave_out(len(frames) - len(kept))
    writer.add_clip(f"{person:06d}-{clip}", person, options.split_of(person), 1 / options.stride_s)
    for k in kept:
        frame = frames[k]
        writer.add_frame(
            image=frame.image,
            camera=said.cameras[k],
            beta=said.beta[k],
            depth=frame.depth + said.farther[k],
            mask=frame.mask,
            time_s=float(motion.times_s[k]),
            confidence=float(said.confidence[k]),
            beta_true=motion.beta_true[k],
            camera_true=motion.cameras[k],
        )
    return len(frames)


def frames_per_second(n_frames: int, started: float) -> float:
    """Frames per second of wall time since `started` (time.perf_counter())."""
    return n_frames / max(time.perf_counter() - started, 1e-9)
