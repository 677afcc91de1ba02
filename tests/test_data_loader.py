"""Samplers are functions of (seed, step); loaders give the same batches with any number of workers and ranks."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conventions.cameras import camera_label, label_angles_rad
from conventions.landmarks import LANDMARKS_70, MIRROR_70
from conventions.mirror import label_mirrors, mirror_permutation
from conventions.spaces import ARKIT52, BFM64, ExpressionSpace
from dataset.frames import FrameDataset
from dataset.joining import finalise
from dataset.loader import ClipLoader, PairLoader
from dataset.preparation.people import gaze
from dataset.reader import open_dataset
from dataset.samplers import ClipBatchSampler, PairSampler
from dataset.spec import CLIP_DTYPE, frame_dtype
from dataset.writer import DatasetSpec, ShardWriter
from dnnlib.errors import UserError
from tracking.pose import canonical_face

SIZE = 8


def fake_dataset(clip_sizes: list[int], split: list[int] | None = None) -> FrameDataset:
    """An index without pictures, as samplers need it."""
    spec = DatasetSpec(SIZE)
    clips = np.zeros(len(clip_sizes), CLIP_DTYPE)
    clips["n_frames"] = clip_sizes
    clips["first_frame"] = np.cumsum(clip_sizes) - clip_sizes
    clips["split"] = split or 0
    frames = np.zeros(sum(clip_sizes), frame_dtype(spec))
    frames["clip"] = np.repeat(np.arange(len(clip_sizes)), clip_sizes)
    return FrameDataset(Path("fake"), spec, clips, frames, None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> FrameDataset:
    folder = tmp_path_factory.mktemp("heads")
    random = np.random.default_rng(0)
    for shard in range(2):
        spec = DatasetSpec(
            SIZE, ARKIT52, channels=("image", "depth", "mask"), extra_labels={"beta_true": 52}
        )
        with ShardWriter(folder, shard, spec) as writer:
            for clip in range(3):
                writer.add_clip(f"{shard}-{clip}", 3 * shard + clip, "train", 25.0)
                for _ in range(5):
                    writer.add_frame(
                        image=random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8),
                        depth=random.uniform(2.2, 3.2, (SIZE, SIZE)),
                        mask=random.integers(0, 256, (SIZE, SIZE), dtype=np.uint8),
                        camera=camera_label(float(random.normal(0, 0.4)), 0.05),
                        beta=random.random(52),
                        beta_true=random.random(52),
                    )
    finalise(folder)
    return open_dataset(folder)


def test_pairs_are_two_frames_of_one_clip_of_the_split() -> None:
    data = fake_dataset([1, 2, 7, 4, 3], split=[0, 0, 0, 0, 2])
    sampler = PairSampler(data, "train", seed=3, batch_size=30)
    pairs = sampler.batch(5)
    clips = data.frames["clip"]
    assert (clips[pairs.source] == clips[pairs.driving]).all() and (
        pairs.source != pairs.driving
    ).all()
    assert np.bincount(clips[pairs.source], minlength=5).tolist() == [
        0,
        10,
        10,
        10,
        0,
    ]  # long or short, all alike
    test = PairSampler(data, "test", batch_size=6).batch(0)
    assert set(clips[test.source]) == {4}


def test_every_ordered_pair_is_equally_likely() -> None:
    data = fake_dataset([4])
    pairs = PairSampler(data, batch_size=12_000).batch(0)
    counts = np.zeros((4, 4))
    np.add.at(counts, (pairs.source, pairs.driving), 1)
    assert (counts.diagonal() == 0).all()
    assert np.abs(counts[~np.eye(4, dtype=bool)] - 1000).max() < 160  # 5 sigma of a count of 1000
    assert abs(pairs.mirror.mean() - 0.5) < 0.025


def test_a_step_is_a_function_of_seed_and_step() -> None:
    data = fake_dataset([5] * 7)
    a, b = PairSampler(data, seed=1, batch_size=4), PairSampler(data, seed=1, batch_size=4)
    history = [a.batch(step) for step in range(20)]
    for step in (19, 3, 11, 0):  # any order, a fresh sampler
        for x, y in zip(b.batch(step), history[step], strict=True):
            assert np.array_equal(x, y)
    other = PairSampler(data, seed=2, batch_size=4).batch(0)
    assert not np.array_equal(other.source, history[0].source)
    assert len({tuple(h.source) for h in history}) == 20


def test_ranks_share_the_global_batch() -> None:
    data = fake_dataset([5] * 7)
    sampler = PairSampler(data, seed=1, batch_size=6)
    whole = sampler.batch(4)
    for world in (1, 2, 3, 6):
        parts = [sampler.batch(4, rank, world) for rank in range(world)]
        for i in range(3):
            assert np.array_equal(np.concatenate([p[i] for p in parts]), whole[i])
    with pytest.raises(UserError, match="6 cannot be divided among 4"):
        sampler.batch(0, 0, 4)


def test_passes_visit_every_clip_once() -> None:
    data = fake_dataset([3] * 10)
    sampler = PairSampler(data, seed=0, batch_size=4)
    clips = np.concatenate(
        [data.frames["clip"][sampler.batch(s).source] for s in range(10)]
    ).reshape(4, 10)
    assert all(sorted(row) == list(range(10)) for row in clips)
    assert len({tuple(row) for row in clips}) == 4


def test_clip_batches() -> None:
    data = fake_dataset([8, 3, 9, 20])
    sampler = ClipBatchSampler(data, seed=0, videos=4, frames=6)
    frames = sampler.batch(2)
    clips = data.frames["clip"][frames]
    assert frames.shape == (4, 6) and (clips == clips[:, :1]).all() and 1 not in clips
    assert all(len(set(row)) == 6 for row in frames)
    assert np.array_equal(sampler.batch(2, 1, 2), frames[2:])
    with pytest.raises(UserError, match=r"clips of 20 frame\(s\) at most"):
        ClipBatchSampler(data, frames=21)
    with pytest.raises(UserError, match="val split"):
        ClipBatchSampler(data, "val", frames=2)


def _take(loader: Any, n: int) -> list[dict[str, torch.Tensor]]:
    return [batch for batch, _ in zip(loader, range(n), strict=False)]


def _assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_batches_hold_what_they_say(heads: FrameDataset) -> None:
    batch = next(iter(PairLoader(heads, batch_size=4, labels=("beta_true",))))
    shapes = {name: tuple(t.shape) for name, t in batch.items()}
    assert shapes["source"] == shapes["driving"] == (4, 3, SIZE, SIZE)
    assert shapes["mask"] == shapes["depth"] == (4, 1, SIZE, SIZE)
    assert shapes["camera"] == shapes["source_camera"] == (4, 25)
    assert (
        shapes["beta"]
        == shapes["source_beta"]
        == shapes["beta_true"]
        == shapes["source_beta_true"]
        == (4, 52)
    )
    for k in range(4):
        i, j = int(batch["index"][k]), int(batch["source_index"][k])
        expected = torch.from_numpy(heads.image(i)).float() / 127.5 - 1
        torch.testing.assert_close(batch["driving"][k], expected, rtol=0, atol=1e-6)
        assert batch["source"].min() >= -1 and batch["source"].max() <= 1
        assert np.array_equal(batch["camera"][k], heads.camera(i))
        assert np.array_equal(batch["source_beta"][k], heads.beta(j))
        assert np.array_equal(batch["depth"][k, 0], heads.depth(i))
    with pytest.raises(UserError, match="no label 'gaze'"):
        PairLoader(heads, labels=("gaze",))


def test_further_labels_are_mirrored_with_the_picture() -> None:
    """Of a face and its mirror image, read as the preparation reads them."""
    points = np.zeros((478, 3))
    points[: len(canonical_face().points)] = canonical_face().points * (0.4, -0.4, 1) + (
        0.45,
        0.5,
        0,
    )
    points[[468, 473], :2] = points[[33, 362], :2] * 0.4 + points[[133, 263], :2] * 0.6
    points += np.random.default_rng(0).normal(size=points.shape) * 0.01
    swap = np.arange(478)
    swap[list(LANDMARKS_70)] = np.array(LANDMARKS_70)[list(MIRROR_70)]
    flipped = points[swap] * (-1, 1, 1) + (1, 0, 0)
    mirrors = label_mirrors(("landmarks", "gaze", "crop", "beta_true"), ARKIT52, 100)
    seventy = points[list(LANDMARKS_70), :2].ravel()
    expected = flipped[list(LANDMARKS_70), :2].ravel()
    np.testing.assert_allclose(mirrors["landmarks"](seventy[None])[0], expected, atol=1e-12)
    np.testing.assert_allclose(mirrors["gaze"](gaze(points)), gaze(flipped), atol=1e-6)  # float32
    # pixel (30, 40) of the video lies at (65, 70) of the crop, so (-30, 40) at (35, 70)
    scale, x, y = mirrors["crop"](np.array([1.5, 20.0, 10.0]))
    assert (scale * -30 + x, scale * 40 + y) == (35, 70)
    unit = np.eye(52)[ARKIT52.names.index("eyeBlinkLeft")]
    assert mirrors["beta_true"](unit).argmax() == ARKIT52.names.index("eyeBlinkRight")
    assert sorted(MIRROR_70) == list(range(70)) and [MIRROR_70[i] for i in MIRROR_70] == list(
        range(70)
    )


def test_symmetric_landmarks_are_partners() -> None:
    """The canonical face is symmetric: a point's partner lies opposite."""
    points = np.zeros((70, 3))
    mesh = canonical_face().points
    inside = [i for i, n in enumerate(LANDMARKS_70) if n < len(mesh)]
    points[inside] = mesh[[LANDMARKS_70[i] for i in inside]]
    opposite = points[list(MIRROR_70)] * (-1, 1, 1)
    np.testing.assert_allclose(points, opposite, atol=1e-3)  # the mesh's own asymmetry


def test_labels_of_unknown_mirror_image_are_refused(heads: FrameDataset) -> None:
    with pytest.raises(UserError, match="not known how the label 'ear' mirrors"):
        label_mirrors(("ear",), None, 64)
    PairLoader(heads, batch_size=4, labels=("beta_true",), mirror=True)


def test_workers_ranks_and_resuming_change_nothing(heads: FrameDataset) -> None:
    plain = _take(PairLoader(heads, seed=5, batch_size=4, mirror=True), 5)
    for a, b in zip(
        _take(PairLoader(heads, seed=5, batch_size=4, mirror=True, num_workers=2), 5),
        plain,
        strict=True,
    ):
        _assert_equal(a, b)
    for a, b in zip(
        _take(PairLoader(heads, seed=5, batch_size=4, mirror=True, start_step=3), 2),
        plain[3:],
        strict=True,
    ):
        _assert_equal(a, b)
    ranks = [
        _take(PairLoader(heads, seed=5, batch_size=4, mirror=True, rank=r, world=2), 2)
        for r in range(2)
    ]
    for step in range(2):
        _assert_equal(
            {k: torch.cat([ranks[0][step][k], ranks[1][step][k]]) for k in plain[0]}, plain[step]
        )


def test_batches_go_to_processes_that_inherit_nothing(heads: FrameDataset) -> None:
    # Python 3.14 on Linux, and all others elsewhere, do not fork the processes of a loader
    loader = PairLoader(heads, None, 3, 4, mirror=True, labels=("confidence",))._loader
    there = pickle.loads(pickle.dumps(loader.dataset))
    for name, values in loader.dataset[5].items():
        assert torch.equal(torch.as_tensor(values), torch.as_tensor(there[5][name])), name


def test_mirroring_flips_the_pair_as_one(heads: FrameDataset) -> None:
    plain = _take(PairLoader(heads, batch_size=8), 2)
    flipped = _take(PairLoader(heads, batch_size=8, mirror=True), 2)
    p = mirror_permutation(ARKIT52)
    seen = set()
    for a, b in zip(plain, flipped, strict=True):
        for k, flip in enumerate(b["mirrored"].tolist()):
            seen.add(flip)
            for name in ("source", "driving", "mask", "depth"):
                assert torch.equal(b[name][k], a[name][k].flip(-1) if flip else a[name][k])
            for name in ("beta", "source_beta"):
                assert torch.equal(b[name][k], a[name][k][p] if flip else a[name][k])
            for name in ("camera", "source_camera"):
                yaw_a, pitch_a, _ = label_angles_rad(a[name][k].numpy())
                yaw_b, pitch_b, _ = label_angles_rad(b[name][k].numpy())
                assert yaw_b == pytest.approx(
                    -yaw_a if flip else yaw_a, abs=1e-5
                )  # float32 rotation
                assert pitch_b == pytest.approx(pitch_a, abs=1e-5)
    assert seen == {True, False}


def test_mirror_permutation_swaps_sides() -> None:
    p = mirror_permutation(ARKIT52)
    names = np.array(ARKIT52.names)
    left = list(names).index("eyeBlinkLeft")
    assert names[p[left]] == "eyeBlinkRight"
    assert np.array_equal(p[p], np.arange(52)) and (p != np.arange(52)).sum() >= 4
    with pytest.raises(UserError, match="data.mirror=false"):
        mirror_permutation(BFM64)
    with pytest.raises(UserError, match="browLeft"):
        mirror_permutation(ExpressionSpace("odd", 2, "t", "1", ("browLeft", "jaw")))


def test_clip_loader(heads: FrameDataset) -> None:
    loader = ClipLoader(heads, videos=3, frames=4, image_size=4, seed=2)
    batch = next(iter(loader))
    assert batch["image"].shape == (3, 4, 3, 4, 4) and batch["beta"].shape == (3, 4, 52)
    assert len(set(batch["clip"].tolist())) == 3
    i = int(batch["index"][1, 2])
    assert np.array_equal(batch["beta"][1, 2], heads.beta(i))
    # a 4 x 4 reduction keeps the mean, up to rounding to 8 bits
    assert abs(float(batch["image"][1, 2].mean()) - (heads.image(i).mean() / 127.5 - 1)) < 0.05
    again = next(iter(ClipLoader(heads, videos=3, frames=4, image_size=4, seed=2, num_workers=1)))
    _assert_equal(batch, again)
