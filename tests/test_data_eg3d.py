"""EG3D's folders and zips: read as they are, written on request, refused in one sentence when broken."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conventions.cameras import camera_label
from conventions.spaces import ARKIT52
from dataset.eg3d import export_eg3d
from dataset.joining import finalise
from dataset.reader import open_dataset
from dataset.samplers import PairSampler
from dataset.upkeep.validate import validate
from dataset.writer import DatasetSpec, ShardWriter
from dnnlib.errors import UserError

SIZE = 8
NAMES = ["00000/img00000000.png", "00000/img00000001.png", "00001/img00000002.png"]


def _png(seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _content() -> dict[str, Any]:
    return {"labels": [[n, camera_label(0.1 * i, 0).tolist()] for i, n in enumerate(NAMES)]}


def _make(
    path: Path,
    content: Any = None,
    zipped: bool = True,
    method: int = zipfile.ZIP_STORED,
    images: dict[str, bytes] | None = None,
) -> Path:
    members = images if images is not None else {name: _png(i) for i, name in enumerate(NAMES)}
    if content is not False:
        members["dataset.json"] = json.dumps(_content() if content is None else content).encode()
    if zipped:
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    else:
        for name, data in members.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    return path


@pytest.mark.parametrize("kind", ["stored", "deflated", "folder"])
def test_read_as_it_is(tmp_path: Path, kind: str) -> None:
    method = zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED
    data = open_dataset(_make(tmp_path / "ffhq.zip", zipped=kind != "folder", method=method))
    assert len(data) == 3 and data.resolution == SIZE and data.space is None
    for i in range(3):
        with Image.open(io.BytesIO(_png(i))) as picture:
            assert np.array_equal(data.image(i), np.asarray(picture).transpose(2, 0, 1))
        assert np.array_equal(data.camera(i), camera_label(0.1 * i, 0))
    assert len(data.clips) == 3  # photos of a collection are not a video
    with pytest.raises(UserError, match="two frames"):
        PairSampler(data)
    assert validate(data.path) == []


def test_folders_as_clips(tmp_path: Path) -> None:
    data = open_dataset(_make(tmp_path / "videos.zip"), eg3d_clips="folder")
    assert data.clips["n_frames"].tolist() == [2, 1] and data.frames["index"].tolist() == [0, 1, 0]
    pairs = PairSampler(data, batch_size=4).batch(0)
    assert set(pairs.source.tolist()) <= {0, 1} and (pairs.source + pairs.driving == 1).all()


def _changed(**changes: Any) -> dict[str, Any]:
    content = _content()
    for index, label in changes.items():
        content["labels"][int(index[1:])][1] = label
    return content


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (False, "no dataset.json"),
        ({"labels": None}, 'no list "labels"'),
        ([1, 2], "a list instead of an object"),
        (_changed(_1=[0.0] * 24), "img00000001.png has 24 numbers instead of 25"),
        (_changed(_2=[0.0] * 24 + [float("nan")]), "NaN is no number"),
        (_changed(_0=["x"] * 25), "not made of numbers"),
        ({"labels": _content()["labels"][:2]}, "img00000002.png has no label"),
        ({"labels": [["a"]]}, "not of the form"),
    ],
)
def test_broken_descriptions(tmp_path: Path, content: Any, says: str) -> None:
    path = _make(tmp_path / "d.zip", content)
    with pytest.raises(UserError, match=says) as caught:
        open_dataset(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_broken_files(tmp_path: Path) -> None:
    no_zip = tmp_path / "a.zip"
    no_zip.write_bytes(b"PK nothing")
    with pytest.raises(UserError, match="not a readable zip"):
        open_dataset(no_zip)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        open_dataset(tmp_path / "empty")
    images = {NAMES[0]: _png(0, (SIZE, SIZE + 1)), NAMES[1]: _png(1), NAMES[2]: _png(2)}
    with pytest.raises(UserError, match="must be square"):
        open_dataset(_make(tmp_path / "b.zip", images=images))
    images = {NAMES[0]: _png(0), NAMES[1]: _png(1, (4, 4)), NAMES[2]: b"no image"}
    data = open_dataset(_make(tmp_path / "c.zip", images=images))
    with pytest.raises(
        UserError, match=r"img00000001.png.* 4 x 4 pixels but the dataset has 8 x 8"
    ):
        data.image(1)
    with pytest.raises(UserError, match=r"img00000002.png.* not a readable image"):
        data.image(2)


@pytest.mark.parametrize("target", ["out.zip", "out"])
@pytest.mark.parametrize("codec", ["png", "webp"])
def test_export_round_trip(tmp_path: Path, target: str, codec: Any) -> None:
    random = np.random.default_rng(0)
    with ShardWriter(tmp_path / "own", 0, DatasetSpec(SIZE, ARKIT52, codec)) as writer:
        for clip, split in enumerate(["train", "test"]):
            writer.add_clip(f"c{clip}", clip, split, 30.0)
            for _ in range(2):
                image = random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
                writer.add_frame(
                    image=image,
                    camera=camera_label(*random.normal(0, 0.2, 2)),
                    beta=random.random(52),
                )
    finalise(tmp_path / "own")
    own = open_dataset(tmp_path / "own")
    assert export_eg3d(own, tmp_path / target) == 4
    back = open_dataset(tmp_path / target, ARKIT52)
    assert np.array_equal(back.clips, own.clips)
    for i in range(4):
        assert np.array_equal(back.image(i), own.image(i))
        assert np.array_equal(back.camera(i), own.camera(i)) and np.array_equal(
            back.beta(i), own.beta(i)
        )
    with pytest.raises(UserError, match="exists already"):
        export_eg3d(own, tmp_path / target)
    export_eg3d(own, tmp_path / "plain.zip", with_expression=False)
    with zipfile.ZipFile(tmp_path / "plain.zip") as archive:
        content = json.loads(archive.read("dataset.json"))
    assert list(content) == ["labels"] and content["labels"][3][0] == "00000/img00000003.png"
    assert len(content["labels"][0][1]) == 25
