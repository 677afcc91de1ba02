"""The dataset on disk: written whole or not at all, read back exactly, joined in any order to the same bytes."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

from conventions.cameras import camera_label
from conventions.spaces import ARKIT52, ExpressionSpace
from dataset.joining import finalise
from dataset.reader import open_dataset
from dataset.upkeep.cli import validate_command
from dataset.upkeep.validate import describe, validate
from dataset.writer import DatasetSpec, ShardWriter, shard_path
from dnnlib.errors import UserError

SIZE = 16


def spec(**changes: Any) -> DatasetSpec:
    values: dict[str, Any] = {
        "resolution": SIZE,
        "expression": ARKIT52,
        "channels": ("image", "depth", "mask"),
        "extra_labels": {"beta_true": 52},
        "crop": {"name": "eg3d", "version": 1},
    }
    return DatasetSpec(**{**values, **changes})


def frame(seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "image": random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8),
        "depth": random.uniform(2.3, 3.3, (SIZE, SIZE)).astype(np.float32),
        "mask": random.integers(0, 256, (SIZE, SIZE), dtype=np.uint8),
        "camera": camera_label(float(random.normal(0, 0.3)), 0.1),
        "beta": random.uniform(0, 1, 52).astype(np.float32),
        "beta_true": random.uniform(0, 1, 52).astype(np.float32),
    }


def write_shard(dest: Path, shard: int, clips: tuple[int, ...] = (3, 2)) -> None:
    splits = ("train", "val", "test")
    with ShardWriter(dest, shard, spec()) as writer:
        for c, n_frames in enumerate(clips):
            writer.add_clip(
                f"clip {shard}.{c}", identity=10 * shard + c, split=splits[c % 3], fps=25.0
            )
            for f in range(n_frames):
                writer.add_frame(**frame(100 * shard + 10 * c + f), confidence=0.5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for shard in (1, 0):
        write_shard(tmp_path / "heads", shard)
    finalise(tmp_path / "heads", n_shards=2)
    return tmp_path / "heads"


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_frames_come_back(folder: Path) -> None:
    data = open_dataset(folder, ARKIT52)
    assert (len(data), len(data.clips), data.resolution) == (10, 4, SIZE)
    assert data.space == ARKIT52 and data.spec.crop == {"name": "eg3d", "version": 1}
    assert [c["name"].decode() for c in data.clips] == [
        "clip 0.0",
        "clip 0.1",
        "clip 1.0",
        "clip 1.1",
    ]
    for i, seed in enumerate([0, 1, 2, 10, 11, 100, 101, 102, 110, 111]):
        expected = frame(seed)
        assert np.array_equal(data.image(i), expected["image"].transpose(2, 0, 1))
        assert np.abs(data.depth(i) - expected["depth"]).max() <= 0.5 / 32768 + 1e-6  # 16-bit steps
        assert np.array_equal(np.rint(data.mask(i) * 255), expected["mask"])
        assert np.array_equal(data.camera(i), expected["camera"])
        assert np.array_equal(data.beta(i), expected["beta"])
        assert np.array_equal(data.label("beta_true", i), expected["beta_true"])
    assert data.frames["time_s"][2] == pytest.approx(2 / 25) and data.frames["confidence"][0] == 0.5
    assert data.clips_of("val").tolist() == [1, 3]


def test_offsets_are_those_of_a_plain_zip(folder: Path) -> None:
    data = open_dataset(folder)
    with zipfile.ZipFile(shard_path(folder, 1)) as archive:
        names = archive.namelist()
        assert names[:3] == [
            "00000/img00000000.png",
            "00000/depth00000000.png",
            "00000/mask00000000.png",
        ]
        assert archive.testzip() is None
        assert archive.read("00000/depth00000001.png") == data.encoded(6, "depth")


def test_bytes_depend_on_the_frames_only(folder: Path, tmp_path: Path) -> None:
    for shard in (0, 1):
        write_shard(tmp_path / "again", shard)
    finalise(tmp_path / "again")
    assert _bytes(folder) == _bytes(tmp_path / "again")
    finalise(tmp_path / "again")  # joining twice changes nothing
    assert _bytes(folder) == _bytes(tmp_path / "again")


def test_a_shard_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    dest = tmp_path / "heads"
    with pytest.raises(RuntimeError), ShardWriter(dest, 0, spec()) as writer:
        writer.add_clip("a", 0, "train", 25.0)
        writer.add_frame(**frame(0))
        raise RuntimeError("killed")
    assert list(dest.glob("shards/*")) == []
    with pytest.raises(UserError, match="no complete shard"):
        finalise(dest)
    write_shard(dest, 0)
    with pytest.raises(UserError, match="not finished"):
        open_dataset(dest)
    with pytest.raises(UserError, match=r"1 complete shards, not 3 \(missing: \[1, 2\]\)"):
        finalise(dest, n_shards=3)
    with ShardWriter(dest, 1, spec(crop={"name": "other"})) as writer:
        writer.add_clip("b", 1, "train", 25.0)
        writer.add_frame(**frame(1))
    with pytest.raises(UserError, match="shard 1 differs from shard 0 in crop"):
        finalise(dest)


def test_clips_without_frames_are_left_out_and_long_names_shortened(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 0, spec()) as writer:
        writer.add_clip("empty", 0, "train", 25.0)
        writer.add_clip("ä" * 40, 1, "train", 25.0)
        writer.add_frame(**frame(0))
        writer.add_clip("also empty", 0, "train", 25.0)
    finalise(tmp_path)
    clips = open_dataset(tmp_path).clips
    assert len(clips) == 1 and clips["identity"][0] == 1
    name = clips["name"][0].decode()
    assert name.startswith("ää") and len(name.encode()) <= 64


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"camera": np.zeros(24)}, r"camera has shape \(24,\)"),
        ({"beta": np.full(52, np.nan)}, "beta holds NaN"),
        ({"beta": None}, "has no beta"),
        ({"mask": None}, "lacks the channel 'mask'"),
        ({"image": np.zeros((8, 8, 3), np.uint8)}, "image has shape"),
        ({"image": np.zeros((SIZE, SIZE, 3))}, "uint8"),
        ({"typo": np.zeros(3)}, "typo"),
    ],
)
def test_bad_frames_are_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with ShardWriter(tmp_path, 0, spec()) as writer:
        writer.add_clip("a", 0, "train", 25.0)
        with pytest.raises(UserError, match=says):
            writer.add_frame(**{**frame(0), **change})
        writer.add_frame(**frame(0))  # nothing of the bad one stays
    finalise(tmp_path)
    assert validate(tmp_path) == [] and len(open_dataset(tmp_path)) == 1


@pytest.mark.parametrize("codec", ["webp", "jpg"])
def test_lossy_codecs_stay_close(tmp_path: Path, codec: Any) -> None:
    ramp = np.linspace(0, 255, SIZE).astype(np.uint8)
    image: npt.NDArray[np.uint8] = np.stack(
        np.broadcast_arrays(ramp[:, None], ramp[None], ramp[:, None]), axis=2
    )
    with ShardWriter(tmp_path, 0, DatasetSpec(SIZE, image_codec=codec)) as writer:
        writer.add_clip("a", 0, "train", 25.0)
        writer.add_frame(
            image=image.transpose(2, 0, 1), camera=camera_label(0, 0)
        )  # [3, H, W] is taken, too
    finalise(tmp_path)
    data = open_dataset(tmp_path)
    assert data.space is None
    error = np.abs(data.image(0).astype(int) - image.transpose(2, 0, 1))
    assert error.mean() < 4  # quality 95; webp halves the colour resolution
    with pytest.raises(UserError, match="no expression parameters"):
        data.beta(0)
    with pytest.raises(UserError, match="arkit52"):
        open_dataset(tmp_path, ARKIT52)


def test_another_expression_space_is_refused(folder: Path) -> None:
    other = ExpressionSpace("mine", 52, "none", "1", tuple(f"e{i}" for i in range(52)))
    with pytest.raises(UserError, match="mine"):
        open_dataset(folder, other)


def test_datasets_travel_to_workers(folder: Path) -> None:
    data = open_dataset(folder)
    first = data.image(0)
    message = pickle.dumps(data)
    assert len(message) < 20_000  # the index goes as its path
    assert np.array_equal(pickle.loads(message).image(0), first)


def test_damage_is_named(folder: Path) -> None:
    shard = shard_path(folder, 1)
    data = open_dataset(folder)
    whole = shard.read_bytes()
    shard.write_bytes(whole[: int(data.frames["image_offset"][9])])
    with pytest.raises(UserError, match="truncated"):
        open_dataset(folder).image(9)
    start = int(data.frames["image_offset"][5])
    shard.write_bytes(whole[:start] + b"nonsense" + whole[start + 8 :])
    with pytest.raises(UserError, match=r"frame 5 .*00001.zip.* not a readable image"):
        open_dataset(folder).image(5)
    assert any("checksum" in p for p in validate(folder))
    result = CliRunner().invoke(validate_command, [str(folder)])
    assert result.exit_code != 0 and "frame 5" in result.output
    shard.unlink()
    with pytest.raises(UserError, match=r"00001\.zip does not exist; restore the file"):
        open_dataset(folder).image(5)
    (folder / "clips.npy").write_bytes(b"no")
    with pytest.raises(UserError, match="damaged"):
        open_dataset(folder)
    with pytest.raises(UserError, match="does not exist"):
        open_dataset(folder / "nothing")


def test_describe_and_validate(folder: Path) -> None:
    figures = describe(folder)
    assert figures["frames"] == 10 and figures["splits"]["val"] == {
        "clips": 2,
        "identities": 2,
        "frames": 4,
    }
    assert validate(folder) == []
    frames = np.load(folder / "frames.npy", mmap_mode="r+")
    frames["camera"][3, 0] = 5.0
    frames["beta"][4, 7] = np.nan
    frames.flush()
    problems = validate(folder, decode_every=0)
    assert any("frame 3 has a camera" in p for p in problems) and any(
        "frame 4 has NaN" in p for p in problems
    )


@pytest.mark.parametrize(
    ("field", "value"), [("image_offset", -5), ("image_size", 2**31 - 1), ("image_size", -1)]
)
def test_an_index_that_lies_reads_nothing(folder: Path, field: str, value: int) -> None:
    frames = np.load(folder / "frames.npy", mmap_mode="r+")
    frames[field][4] = value
    frames.flush()
    with pytest.raises(UserError, match=r"00000\.zip is truncated"):
        open_dataset(folder).image(4)
