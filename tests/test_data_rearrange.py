"""merge, split and the checks of validate that look at pictures and faces."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from conventions.cameras import camera_label, project_points
from conventions.landmarks import LANDMARKS_70
from conventions.spaces import ARKIT52
from dataset.joining import finalise
from dataset.reader import open_dataset
from dataset.upkeep.checks import reprojection
from dataset.upkeep.rearrange import merge, people_by_face, resplit
from dataset.upkeep.validate import describe, validate
from dataset.writer import DatasetSpec, ShardWriter, shard_path
from dataset_tool import main
from dnnlib.errors import UserError


def _dataset(
    dest: Path, people: int = 4, seed: int = 0, resolution: int = 32, landmarks: bool = False
) -> Path:
    """`people` clips of two frames of noise, two clips a shard."""
    from tracking.pose import canonical_face

    rng = np.random.default_rng(seed)
    labels = {"gaze": 4, **({"landmarks": 140} if landmarks else {})}
    spec = DatasetSpec(resolution, ARKIT52, channels=("image", "mask"), extra_labels=labels)
    mesh = canonical_face().points
    points = np.stack([mesh[i] if i < len(mesh) else mesh[0] for i in LANDMARKS_70])
    for shard in range(-(-people // 2)):
        with ShardWriter(dest, shard, spec) as writer:
            for person in range(2 * shard, min(2 * shard + 2, people)):
                writer.add_clip(f"p{person}", 10 * person, "train", 25)
                for _ in range(2):
                    camera = camera_label(*rng.normal(0, 0.2, 2))
                    extra = {"gaze": rng.random(4)}
                    if landmarks:
                        extra["landmarks"] = project_points(points, camera.astype(float)).ravel()
                    image = rng.integers(0, 256, (resolution, resolution, 3), dtype=np.uint8)
                    writer.add_frame(
                        image=image, mask=image[..., 0], camera=camera, beta=rng.random(52), **extra
                    )
    finalise(dest)
    return dest


def test_merge_copies_everything(tmp_path: Path) -> None:
    a, b = _dataset(tmp_path / "a"), _dataset(tmp_path / "b", people=3, seed=1)
    assert merge([a, b], tmp_path / "c", clips_per_shard=3) == 14
    whole = open_dataset(tmp_path / "c")
    parts = [open_dataset(a), open_dataset(b)]
    assert validate(tmp_path / "c") == []
    for i in range(14):
        data, j = (parts[0], i) if i < 8 else (parts[1], i - 8)
        for channel in ("image", "mask"):
            assert whole.encoded(i, channel) == data.encoded(j, channel)
        for label in ("camera", "beta", "gaze"):
            np.testing.assert_array_equal(whole.label(label, i), data.label(label, j))
    assert list(whole.clips["identity"]) == list(range(7))  # nobody of b is taken for somebody of a
    names = [c["name"].decode() for c in whole.clips]
    assert names == ["p0", "p1", "p2", "p3", "1/p0", "1/p1", "1/p2"]
    assert len(list((tmp_path / "c" / "shards").glob("*.zip"))) == 3
    with pytest.raises(UserError, match="exists already"):
        merge([a, b], tmp_path / "c")


def test_merge_refuses_what_does_not_fit(tmp_path: Path) -> None:
    a, b = _dataset(tmp_path / "a"), _dataset(tmp_path / "b", resolution=48)
    with pytest.raises(UserError, match="differ in resolution"):
        merge([a, b], tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_split_divides_people_not_clips(tmp_path: Path) -> None:
    path = _dataset(tmp_path / "a", people=20)
    assert resplit(path, val=0.1, test=0.2, seed=3) == {"train": 14, "val": 2, "test": 4}
    first = open_dataset(path).clips.copy()
    assert validate(path) == [] and describe(path)["splits"]["test"]["identities"] == 4
    finalise(path)  # joining the shards again must not undo it
    np.testing.assert_array_equal(open_dataset(path).clips, first)
    resplit(path, val=0.1, test=0.2, seed=3)
    np.testing.assert_array_equal(open_dataset(path).clips, first)
    resplit(path, val=0.1, test=0.2, seed=4)
    assert (open_dataset(path).clips["split"] != first["split"]).any()
    resplit(path, val=0, test=0.001)  # a share above nothing is at least one person
    assert describe(path)["splits"]["test"]["identities"] == 1
    with pytest.raises(UserError, match="too few"):
        resplit(_dataset(tmp_path / "b", people=2), val=0.1, test=0.1)
    with pytest.raises(UserError, match="sum to less than 1"):
        resplit(path, val=0.5, test=0.6)


def test_split_by_face_joins_people_and_validate_sees_leaks(tmp_path: Path) -> None:
    path = _dataset(tmp_path / "a", people=6)
    with pytest.raises(UserError, match="no face embedding"):
        resplit(path, by="face")
    vectors = np.eye(6, 128)
    vectors[4] = 0.9 * vectors[0] + np.sqrt(1 - 0.81) * vectors[4]  # p4 is p0
    for i, vector in enumerate(vectors):
        record = path / "videos" / f"{i:05d}.json"
        record.parent.mkdir(exist_ok=True)
        record.write_text(json.dumps({"clips": [{"name": f"p{i}", "embedding": vector.tolist()}]}))
    clips = np.load(path / "clips.npy")
    clips["split"][4] = 2
    np.save(path / "clips.npy", clips)
    assert any("clips 0 (train) and 4 (test) show the same face" in p for p in validate(path))
    counts = resplit(path, by="face", val=0.2, test=0.2)
    assert sum(counts.values()) == 5
    clips = open_dataset(path).clips
    assert clips["identity"][0] == clips["identity"][4] and clips["split"][0] == clips["split"][4]
    assert validate(path) == []


def test_a_chain_of_likenesses_is_not_one_person() -> None:
    """Neighbours on an arc are alike, its ends are not; two clusters stay two in spite of a double between them."""
    angles = np.radians(np.arange(0, 180, 6))
    arc = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    people = people_by_face(arc, np.arange(len(arc)))
    assert people[0] != people[-1] and people[0] == people[1]
    rng = np.random.default_rng(0)
    a, b = np.eye(64)[:2]
    own = [(c + 0.05 * rng.normal(size=64)) for c in [a] * 40 + [b] * 40]
    vectors = np.stack([*own, a + b])  # cosine 0.7 with both
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    people = people_by_face(vectors, np.arange(81))
    assert len(set(people[:40])) == len(set(people[40:80])) == 1 and people[0] != people[40]


def test_who_was_one_person_stays_one() -> None:
    people = people_by_face(np.eye(4), np.array([0, 1, 0, 2]))
    assert people[0] == people[2] and len(set(people)) == 3


def test_a_picture_in_two_clips_is_reported(tmp_path: Path) -> None:
    spec = DatasetSpec(32)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with ShardWriter(tmp_path / "d", 0, spec) as writer:
        for name in ("a", "b"):
            writer.add_clip(name, 0, "train", 25)
            for shade in (
                image,
                image,
                np.roll(image, ord(name), 0),
            ):  # a still within a clip is fine
                writer.add_frame(image=shade, camera=camera_label(0, 0))
    finalise(tmp_path / "d")
    problems = validate(tmp_path / "d")
    assert len(problems) == 1 and "clips 0 and 1 share a picture" in problems[0]


def test_reprojection_and_sheet(tmp_path: Path) -> None:
    path = _dataset(tmp_path / "d", landmarks=True)
    figures = reprojection(open_dataset(path))
    assert figures is not None and figures["p95_px"] < 1e-3  # the labels are the truth here
    result = CliRunner().invoke(main, ["validate", str(path), "--sheet", str(tmp_path / "s.png")])
    assert result.exit_code == 0, result.output
    assert "landmarks lie 0.00 px" in result.output and "is in order" in result.output
    assert Image.open(tmp_path / "s.png").size == (1024, 384)
    frames = np.load(path / "frames.npy", mmap_mode="r+")
    frames["camera"] = camera_label(0.8, 0)  # labels of other pictures
    frames.flush()
    assert any("belong to other pictures" in p for p in validate(path))
    assert reprojection(open_dataset(_dataset(tmp_path / "e"))) is None


def test_commands(tmp_path: Path) -> None:
    a = _dataset(tmp_path / "a")
    run = CliRunner().invoke
    merged = run(main, ["merge", str(a), "--dest", str(tmp_path / "b"), "--clips-per-shard", "9"])
    assert merged.exit_code == 0 and shard_path(tmp_path / "b", 0).exists()
    split = run(main, ["split", str(a), "--val", "0.25", "--test", "0.25"])
    assert (
        split.exit_code == 0 and split.output == "train: 2 people, val: 1 people, test: 1 people\n"
    )
    odd = run(main, ["synth", str(tmp_path / "s"), "--set", "resolutoin=8"])
    assert odd.exit_code == 1 and "did you mean resolution" in odd.output
    odd = run(main, ["synth", str(tmp_path / "s"), "--set", "stride_s=0"])
    assert odd.exit_code == 1 and "positive number of seconds" in odd.output
