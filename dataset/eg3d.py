"""EG3D's dataset format, read as it is and written on request.

A folder or an uncompressed zip of images with `dataset.json` = {"labels": [["00000/img00000000.png", [25 numbers]],
...]}.
It knows neither expressions nor clips. What `export_eg3d` writes carries both in further keys of the same JSON, which
EG3D's own tools do not look at:

    "expression": {...}       the expression space
    "betas": [[D floats]]     one a label, in the order of "labels"
    "clips": [[name, identity, split, n_frames, fps]]   neighbouring frames, in the order of "labels"
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from conventions.spaces import ExpressionSpace
from dataset.codecs import decode_image, encode_image
from dataset.frames import FrameDataset, OpenFiles
from dataset.spec import (
    CAMERA_DIM,
    CLIP_DTYPE,
    FIXED_DATE,
    SPLITS,
    DatasetSpec,
    clip_name,
    frame_dtype,
)
from dataset.verify import verify_dataset
from dnnlib.errors import UserError
from dnnlib.files import atomic_folder, atomic_path
from dnnlib.listing import files_below, is_hidden
from dnnlib.reading.archives import member_bytes, open_zip, zip_files
from dnnlib.reading.files import read_bytes
from dnnlib.reading.text import parse_json

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_MAX_IMAGE_BYTES = 2**28
_LOCAL_HEADER_BYTES = 30  # of a zip member, before its name


@dataclass
class _ZipStore:
    path: Path
    names: list[str]
    unpacked: npt.NDArray[np.int64]  # bytes of a member once inflated; -1: it is stored as it is

    def __post_init__(self) -> None:
        self._files = OpenFiles()

    def read(self, frame: int, row: np.void, channel: str) -> bytes:
        # image_offset is that of the member's local header: its length is known only there.
        start, size = int(row["image_offset"]), int(row["image_size"])
        header = self._files.pread(self.path, start, _LOCAL_HEADER_BYTES)
        skip = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        data = self._files.pread(self.path, start + _LOCAL_HEADER_BYTES + skip, size)
        size = int(self.unpacked[frame])
        if size < 0:
            return data
        unpacker = zlib.decompressobj(wbits=-15)
        try:
            content = unpacker.decompress(data, size + 1)  # more than it promises is a bomb
        except zlib.error as error:
            raise UserError(
                f"{self.where(frame, row, channel)} is damaged; pack it anew"
            ) from error
        if len(content) != size:
            raise UserError(f"{self.where(frame, row, channel)} is damaged; pack it anew")
        return content

    def where(self, frame: int, row: np.void, channel: str) -> str:
        return f"{self.names[frame]} in {self.path}"


@dataclass
class _FolderStore:
    path: Path
    names: list[str]

    def read(self, frame: int, row: np.void, channel: str) -> bytes:
        return read_bytes(self.path / self.names[frame], "restore the file", _MAX_IMAGE_BYTES)

    def where(self, frame: int, row: np.void, channel: str) -> str:
        return str(self.path / self.names[frame])


def read_eg3d(path: Path, clips: Literal["auto", "image", "folder"] = "auto") -> FrameDataset:
    """Open an EG3D folder or zip; every frame is in the train split unless the file says otherwise.

    Args:
        path: folder or zip.
        clips: what makes a clip. "image": every image is one by itself (right for photo collections such as FFHQ, whose
            folders mean nothing, but useless for pairs); "folder": the images of one folder, in the order of their
            names; "auto": what the file declares, else "image".

    Raises:
        UserError: not a zip, no images, no or broken dataset.json, an image without label, a label of wrong length
            or with NaN.
    """
    names, store, offsets, raw = _list_zip(path) if path.is_file() else _list_folder(path)
    if not names:
        raise UserError(f"{path} holds no images; give a dataset folder or zip")
    content = _parse(raw, path)
    order = {name: i for i, name in enumerate(n for n, _ in content["labels"])}
    if unlabelled := [name for name in names if name not in order]:
        raise UserError(
            f"{path}: {unlabelled[0]} has no label in dataset.json ({len(unlabelled)} lack one); add it"
        )
    rows = np.array([order[name] for name in names])
    cameras = _camera_labels(content["labels"], rows, path)
    space, betas = _betas(content, rows, path)
    spec = DatasetSpec(_resolution(store, offsets, path), space, source={"format": "eg3d"})
    frames = np.zeros(len(names), frame_dtype(spec))
    frames["camera"], frames["confidence"] = cameras, 1.0
    frames["image_offset"], frames["image_size"] = offsets[:, 0], offsets[:, 1]
    if betas is not None:
        frames["beta"] = betas
    table = _clip_table(content, names, clips, path)
    frames["clip"] = np.repeat(np.arange(len(table)), table["n_frames"])
    frames["index"] = np.arange(len(names)) - table["first_frame"][frames["clip"]]
    frames["time_s"] = frames["index"] / table["fps"][frames["clip"]]
    return FrameDataset(path, spec, table, frames, store)


def _list_zip(path: Path) -> tuple[list[str], _ZipStore, npt.NDArray[np.int64], bytes | None]:
    with open_zip(path, "give a dataset folder or an uncompressed zip") as archive:
        members = {i.filename: i for i in zip_files(archive)}
        raw = member_bytes(archive, "dataset.json") if "dataset.json" in members else None
    names = sorted(filter(_is_frame, members), key=_by_folder)
    infos = [members[name] for name in names]
    if odd := [
        i for i in infos if i.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    ]:
        raise UserError(
            f"{path}: {odd[0].filename} is packed by an unsupported method; pack the zip uncompressed"
        )
    if odd := [i for i in infos if max(i.file_size, i.compress_size) > _MAX_IMAGE_BYTES]:
        raise UserError(
            f"{path}: {odd[0].filename} is larger than {_MAX_IMAGE_BYTES / 2**20:.0f} MiB; leave it out"
        )
    offsets = np.array([(i.header_offset, i.compress_size) for i in infos], np.int64).reshape(-1, 2)
    unpacked = [i.file_size if i.compress_type == zipfile.ZIP_DEFLATED else -1 for i in infos]
    return names, _ZipStore(path, names, np.array(unpacked, np.int64)), offsets, raw


def _list_folder(path: Path) -> tuple[list[str], _FolderStore, npt.NDArray[np.int64], bytes | None]:
    found = (p.relative_to(path).as_posix() for p in files_below(path, every_name=True))
    names = sorted(filter(_is_frame, found), key=_by_folder)
    description = path / "dataset.json"
    raw = read_bytes(description, "write it anew") if description.is_file() else None
    return names, _FolderStore(path, names), np.zeros((len(names), 2), np.int64), raw


def _is_frame(name: str) -> bool:
    return name.lower().endswith(_IMAGE_SUFFIXES) and not is_hidden(name)


def _by_folder(name: str) -> tuple[str, str]:
    # Plain order of the paths would put "a0/1" between "a/1" and "a/b/1" and break a folder apart.
    return PurePosixPath(name).parent.as_posix(), name


def _parse(raw: bytes | None, path: Path) -> dict[str, Any]:
    if raw is None:
        raise UserError(
            f"{path} has no dataset.json with camera labels; make the dataset with dataset_tool.py"
        )
    content = parse_json(raw, f"{path}: dataset.json", "write it anew")
    try:
        labels = content["labels"]
        good = all(len(item) == 2 and isinstance(item[0], str) for item in labels)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{path}: dataset.json has no list "labels" of [name, numbers]; write it anew'
        ) from error
    if not good:
        raise UserError(
            f"{path}: a label in dataset.json is not of the form [name, numbers]; write it anew"
        )
    return content


def _camera_labels(
    labels: list[Any], rows: npt.NDArray[np.int64], path: Path
) -> npt.NDArray[np.float32]:
    for row in rows:
        name, label = labels[row]
        if not isinstance(label, list) or len(label) != CAMERA_DIM:
            length = len(label) if isinstance(label, list) else repr(label)
            raise UserError(
                f"{path}: the label of {name} has {length} numbers instead of {CAMERA_DIM}; write it anew"
            )
    try:
        cameras = np.array([labels[row][1] for row in rows], np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"{path}: a label in dataset.json is not made of numbers; write it anew"
        ) from error
    if len(bad := np.flatnonzero(~np.isfinite(cameras).all(axis=1))):
        raise UserError(
            f"{path}: the label of {labels[rows[bad[0]]][0]} holds NaN or infinity; leave the image out"
        )
    return cameras


def _betas(content: dict[str, Any], rows: npt.NDArray[np.int64], path: Path) -> tuple[Any, Any]:
    if "betas" not in content or "expression" not in content:
        return None, None
    try:
        space = ExpressionSpace.from_dict(content["expression"])
    except UserError as error:
        raise UserError(f"{path}: dataset.json is damaged ({error}); export it again") from error
    try:
        betas = np.array(content["betas"], np.float32)[rows]
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise UserError(
            f"{path}: the betas in dataset.json do not fit its labels; export it again"
        ) from error
    if betas.shape != (len(rows), space.dim) or not np.isfinite(betas).all():
        raise UserError(
            f"{path}: the betas in dataset.json are not {space.dim} finite numbers each; export it again"
        )
    return space, betas


def _clip_table(
    content: dict[str, Any], names: list[str], clips: str, path: Path
) -> npt.NDArray[np.void]:
    if clips == "auto" and "clips" in content:
        try:
            rows = [
                (clip_name(n), i, SPLITS.index(s), 0, k, fps)
                for n, i, s, k, fps in content["clips"]
            ]
            table = np.array(rows, CLIP_DTYPE)
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise UserError(
                f"{path}: the clips in dataset.json are not [name, identity, split, frames, fps] each; export it again"
            ) from error
    elif clips == "folder":
        folders, counts = np.unique(
            [PurePosixPath(n).parent.as_posix() for n in names], return_counts=True
        )
        rows = [
            (clip_name(f), i, 0, 0, int(k), 25.0)
            for i, (f, k) in enumerate(zip(folders, counts, strict=True))
        ]
        table = np.array(rows, CLIP_DTYPE)
    else:
        rows = [(clip_name(n), i, 0, 0, 1, 25.0) for i, n in enumerate(names)]
        table = np.array(rows, CLIP_DTYPE)
    good = np.isfinite(table["fps"]) & (table["fps"] > 0) & (table["n_frames"] > 0)
    if int(table["n_frames"].astype(np.int64).sum()) != len(names) or not good.all():
        raise UserError(
            f"{path}: the clips in dataset.json do not add up to its {len(names)} images; export it again"
        )
    table["first_frame"] = np.cumsum(table["n_frames"]) - table["n_frames"]
    return table


def _resolution(store: _ZipStore | _FolderStore, offsets: npt.NDArray[np.int64], path: Path) -> int:
    row: np.void = np.zeros(1, [("image_offset", "<i8"), ("image_size", "<i8")])[0]
    row["image_offset"], row["image_size"] = offsets[0]
    try:
        height, width, _ = decode_image(store.read(0, row, "image")).shape
    except UserError as error:
        raise UserError(
            f"{store.where(0, row, 'image')} is not a readable image; replace it"
        ) from error
    if height != width:
        raise UserError(
            f"{path}: images are {width} x {height} pixels but must be square; crop them first"
        )
    return height


# ---- writing -----------------------------------------------------------------------------------------------------


def export_eg3d(
    dataset: FrameDataset,
    dest: str | os.PathLike[str],  # a name that ends in .zip, or a folder
    with_expression: bool = True,  # add betas and clips; EG3D's tools pass over them
) -> int:
    """Write the images as PNG with EG3D's labels; returns the number of images.

    All of it appears at once, after every picture's checksum was found right.

    Raises:
        UserError: `dest` exists, the dataset is damaged, or the disk is full.
    """
    dest = Path(dest)
    if dest.exists():
        raise UserError(f"{dest} exists already; choose another name")
    verify_dataset(dataset)
    labels: list[Any] = []
    with _sink(dest) as put:
        for i in range(len(dataset)):
            name = f"{i // 1000:05d}/img{i:08d}.png"
            as_it_is = (
                dataset.spec.image_codec == "png" and dataset.spec.source.get("format") != "eg3d"
            )
            data = (
                dataset.encoded(i)
                if as_it_is
                else encode_image(dataset.image(i).transpose(1, 2, 0), "png")
            )
            put(name, data)
            labels.append([name, _numbers(dataset.camera(i))])
        content: dict[str, Any] = {"labels": labels}
        if with_expression:
            content["clips"] = [
                [
                    c["name"].decode(),
                    int(c["identity"]),
                    SPLITS[c["split"]],
                    int(c["n_frames"]),
                    float(c["fps"]),
                ]
                for c in dataset.clips
            ]
            if dataset.space is not None:
                content["expression"] = dataset.space.to_dict()
                content["betas"] = [_numbers(dataset.beta(i)) for i in range(len(dataset))]
        put("dataset.json", json.dumps(content).encode())
    return len(labels)


@contextmanager
def _sink(dest: Path) -> Iterator[Any]:
    if dest.suffix.lower() == ".zip":
        with (
            atomic_path(dest) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
        ):
            yield lambda name, data: archive.writestr(zipfile.ZipInfo(name, FIXED_DATE), data)
        return

    with atomic_folder(dest, "dataset.json") as folder:

        def put(name: str, data: bytes) -> None:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)

        yield put


def _numbers(label: npt.NDArray[np.float32]) -> list[float]:
    # The shortest decimals that read back as the same float32.
    return [float(str(x)) for x in label]
