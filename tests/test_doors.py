"""Files from outside go through one door a format, and a door opens nothing but the file that it is given."""

from __future__ import annotations

import ast
import io
import os
import socket
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from rights_support import without_rights
from safetensors.torch import save_file
from test_architecture import LAYERS

from dataset.frames import OpenFiles
from dataset.preparation.finding import find_sources
from dataset.preparation.tracks import is_track, read_track
from dataset.spec import DatasetSpec, frame_dtype
from dataset.verify import verify_pictures
from dnnlib.errors import UserError
from dnnlib.reading.archives import archive_names, copy_member, open_zip, read_member
from dnnlib.reading.arrays import open_npy, read_npz
from dnnlib.reading.containers import open_container
from dnnlib.reading.files import check_file, open_file, read_bytes, read_head
from dnnlib.reading.pictures import read_picture
from dnnlib.reading.tensors import read_safetensors, read_torch
from dnnlib.reading.text import parse_json, read_json
from tracking.media import VideoReader, VideoWriter

ROOT = Path(__file__).resolve().parents[1]
DOORS = "dnnlib/reading/"
# Calls that read foreign formats; each has one home.
FORBIDDEN = {
    *("av.open", "Image.open", "imageio.imread", "iio.imread", "iio.imopen", "imageio.get_reader"),
    *("loadmat", "scipy.io.loadmat", "np.load", "numpy.load", "np.fromfile", "np.memmap"),
    *("tarfile.open", "zipfile.ZipFile", "ZipFile", "load_file", "safetensors.torch.load_file"),
    *("safe_open", "torch.load", "pickle.load", "pickle.loads", "np.lib.format.open_memmap"),
    *("yaml.load", "yaml.safe_load", "yaml.full_load", "json.load", "json.loads"),
}
# JSON that is no file: what a process of the same run has said.
OWN_JSON = (
    "benchmarks/costs.py",
    "benchmarks/data.py",
    "benchmarks/endurance.py",
    "benchmarks/kills.py",
    "benchmarks/presets.py",
    "dataset/synthesis/generate.py",
    "running/heartbeat.py",
    "torch_utils/distributed.py",
)

# Reading without a door, and why it may be: whatever else reads a file goes through `dnnlib/reading/files.py`.
OWN_FILES = {
    "benchmarks": "what the measurement itself has written, and /proc",
    "dataset/synthesis/basis.py": "the package's own data",
    "dnnlib/cores.py": "/proc and /sys",
    "dnnlib/memory.py": "/proc and /sys",
    "metrics/generate.py": "a claim, after it was read through its door",
    "torch_utils/checkpoints.py": "after check_file",
    "torch_utils/doctor.py": "/proc",
    "torch_utils/ops/library.py": "the program's own sources, and /proc",
    "tracking/matte.py": "the package's own data",
    "tuning/trial.py": "/proc",
    "viewer/session.py": "what it has just written",
}


def _reads(name: str, call: ast.Call) -> bool:
    if name.endswith((".read_text", ".read_bytes")):
        return True
    modes = [*call.args[1:2], *(k.value for k in call.keywords if k.arg == "mode")]
    is_read = all(isinstance(m, ast.Constant) and str(m.value).startswith("r") for m in modes)
    return name == "open" and is_read


def test_nobody_reads_a_file_without_looking_what_it_is() -> None:
    files = [f for r in LAYERS for f in sorted((ROOT / r).rglob("*.py"))] + sorted(
        ROOT.glob("*.py")
    )
    found = {
        name
        for file in files
        if not (name := file.relative_to(ROOT).as_posix()).startswith(DOORS)
        if any(_reads(*called) for called in _calls(file))
    }
    allowed = {n for n in found if any(n == own or n.startswith(f"{own}/") for own in OWN_FILES)}
    assert found == allowed


def _calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def _writes(call: ast.Call) -> bool:
    modes = [*call.args[1:2], *(k.value for k in call.keywords if k.arg == "mode")]
    return any(isinstance(m, ast.Constant) and str(m.value).startswith("w") for m in modes)


def test_nobody_else_opens_foreign_formats() -> None:
    files = [
        f
        for f in sorted(ROOT.rglob("*.py"))
        if not any(
            p.startswith(".") or p in ("tests", "out", "runs") for p in f.relative_to(ROOT).parts
        )
    ]
    assert len(files) > 100
    found = [
        f"{file.relative_to(ROOT)}:{call.lineno} {name}"
        for file in files
        if not file.relative_to(ROOT).as_posix().startswith(DOORS)
        for name, call in _calls(file)
        if name in FORBIDDEN and not _writes(call)
        if not (name == "json.loads" and file.relative_to(ROOT).as_posix() in OWN_JSON)
    ]
    assert found == []


# ---- what is a file ----------------------------------------------------------------------------------------------


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


ALL_DOORS: list[Callable[[Path], object]] = [
    read_picture,
    open_container,
    VideoReader,
    read_npz,
    open_npy,
    read_safetensors,
    read_torch,
    read_json,
    archive_names,
    lambda path: read_bytes(path, "give another"),
    lambda path: open_file(path, "give another"),
    read_track,
    lambda path: OpenFiles().pread(path, 0, 1),
    lambda path: verify_pictures(path, np.zeros(0, frame_dtype(DatasetSpec(16))), DatasetSpec(16)),
]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_fifo, "a device or a pipe"),
        (_device, "a device or a pipe"),
        (_loop, "cannot be opened"),
        (Path.mkdir, "is a folder"),
        (Path.touch, "is empty"),
        (lambda path: None, "does not exist"),
    ],
)
@pytest.mark.parametrize("door", ALL_DOORS)
def test_what_is_no_file_is_told_at_once(
    tmp_path: Path, make: Callable[[Path], None], says: str, door: Callable[[Path], object]
) -> None:
    make(tmp_path / "x.zip")
    with pytest.raises(UserError, match=says) as caught:
        door(tmp_path / "x.zip")
    assert "x.zip" in str(caught.value) and "\n" not in str(caught.value)


def test_reading_takes_the_memory_of_the_file_not_of_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{}")
    tracemalloc.start()
    try:
        assert read_bytes(path, "give another") == b"{}"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20  # a buffer of the file object and some strings; the limit is a GiB


@pytest.mark.parametrize("door", ALL_DOORS)
def test_no_permission_is_told(tmp_path: Path, door: Callable[[Path], object]) -> None:
    (tmp_path / "x.zip").write_bytes(b"x")
    (tmp_path / "x.zip").chmod(0)
    with pytest.raises(UserError, match=r"x\.zip may not be read \(permission denied\)"):
        without_rights(lambda: door(tmp_path / "x.zip"))


@pytest.mark.parametrize("make", [_fifo, _device, _loop, Path.mkdir, Path.touch, lambda path: None])
def test_what_is_no_file_has_no_head(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x.txt")
    assert read_head(tmp_path / "x.txt", 9) == b""
    assert not is_track(tmp_path / "x.txt")
    with pytest.raises(UserError, match="holds no videos"):
        find_sources(tmp_path)


def test_a_file_that_may_not_be_read_has_no_head(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"FRAME X Y W H\n\xff")
    assert is_track(tmp_path / "x.txt")
    (tmp_path / "x.txt").chmod(0)
    assert not without_rights(lambda: is_track(tmp_path / "x.txt"))
    with pytest.raises(UserError, match="holds no videos"):
        without_rights(lambda: find_sources(tmp_path))


def test_a_track_that_is_no_text_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"FRAME X Y W H\n1 0.1 0.1 0.5 \xff\n")
    with pytest.raises(UserError, match=r"x\.txt"):
        read_track(tmp_path / "x.txt")
    (source,) = find_sources(tmp_path)  # a rejected one, that says why
    assert "x.txt" in source.problem


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "http://127.0.0.1/x.mp4", ""])
def test_impossible_names_are_told(name: str) -> None:
    with pytest.raises(UserError):
        check_file(name, "give another")


# ---- videos ------------------------------------------------------------------------------------------------------


def clip(path: Path, container_format: str | None = None) -> Path:
    with av.open(f"file:{path}", "w", format=container_format) as container:
        video = container.add_stream("libx264", rate=25)
        video.width = video.height = 64
        sound = container.add_stream("aac", rate=48000, layout="mono")
        for i in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 50 * i, np.uint8), "rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        frame.rate = 48000
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[bytes]]]:
    """("127.0.0.1:port", what arrived there), in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        running = threading.Event()

        def accept() -> None:
            while not running.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(1)
                    heard.append(connection.recv(64))

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield "{}:{}".format(*server.getsockname()), heard
        finally:
            running.set()
            thread.join()


@pytest.mark.parametrize("scheme", ["http", "tcp", "rtmp", "udp", "async:http"])
def test_an_address_is_the_name_of_a_file(listener: tuple[str, list[bytes]], scheme: str) -> None:
    address, heard = listener
    url = f"{scheme}://{address}/x.mp4"
    for door in (open_container, VideoReader):
        with pytest.raises(UserError, match="does not exist"):
            door(url)
    # A folder of such a name is a folder: pictures, sound and the written video stay on this disk.
    Path(url).parent.mkdir(parents=True)
    clip(Path(url))
    assert len(list(VideoReader(url))) == 4
    with VideoWriter(f"{scheme}://{address}/y.mp4", 25, audio_from=url) as writer:
        writer.write(np.zeros((64, 64, 3), np.uint8))
    assert VideoReader(f"{scheme}://{address}/y.mp4").has_audio
    assert heard == []


@pytest.mark.parametrize(
    "name", ["12:30.mp4", "pipe:0.mp4", "concat:a|b.mp4", "-y.mp4", "a%03d.mp4", "ü\udcff.mp4"]
)
def test_odd_names_are_read_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        clip(tmp_path / "a.mp4").rename(name)
    except (UnicodeEncodeError, OSError):
        pytest.skip("this file system takes no such name")
    assert len(list(VideoReader(name))) == 4
    with VideoWriter(f"out-{name}", 25, audio_from=name) as writer:
        writer.write(np.zeros((64, 64, 3), np.uint8))
    assert VideoReader(f"out-{name}").has_audio


def test_lists_of_further_files_are_not_followed(listener: tuple[str, list[bytes]]) -> None:
    address, heard = listener
    clip(Path("secret.mp4"))
    mpd = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT5S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
        '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1000"><BaseURL>{}</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>"
    )
    for target in ("secret.mp4", f"http://{address}/x.mp4"):
        Path("hls.mp4").write_text(
            f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{target}\n#EXT-X-ENDLIST\n"
        )
        Path("concat.mp4").write_text(f"ffconcat version 1.0\nfile {target}\n")
        Path("dash.mp4").write_text(mpd.format(target))
        Path("session.mp4").write_text(
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
        )
        for name in ("hls.mp4", "concat.mp4", "dash.mp4", "session.mp4"):
            with pytest.raises(UserError, match="cannot be read as a video"):
                VideoReader(name)
    assert heard == []


def test_a_frame_beyond_all_sizes_is_refused(tmp_path: Path) -> None:
    Image.new("L", (9000, 9000)).save(tmp_path / "bomb.gif")  # 81 megapixels in 100 kB
    with pytest.raises(UserError, match="cannot be read as a video"):
        VideoReader(tmp_path / "bomb.gif")


# ---- archives, arrays, text, tensors -----------------------------------------------------------------------------


def test_a_member_larger_than_allowed_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big", bytes(2**22))
    with pytest.raises(UserError, match=r"big in .*a\.zip unpacks to more than 1 MiB"):
        read_member(tmp_path / "a.zip", "big", limit=2**20)
    assert read_member(tmp_path / "a.zip", "big") == bytes(2**22)


def test_a_member_that_is_longer_than_it_says_is_damaged(tmp_path: Path) -> None:
    """The directory promises 100 bytes; the stream holds 4 MiB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big", bytes(2**22))
    content = buffer.getvalue().replace((2**22).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        read_member(tmp_path / "a.zip", "big")


def test_locked_and_strange_members_are_told(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x", b"abc")
    with pytest.raises(UserError, match="packed in an unknown way"):
        read_member(tmp_path / "a.zip", "x")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x", b"abc")
    content = bytearray(buffer.getvalue())
    content[content.index(b"PK\1\2") + 8] |= 1  # the flag of a password
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(UserError, match="is encrypted"):
        read_member(tmp_path / "b.zip", "x")
    with pytest.raises(UserError, match="not a readable zip"), open_zip(ROOT / "README.md"):
        pass


def test_a_member_is_copied_in_pieces(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(3 * 2**20 + 5)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.mp4", content)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("x.mp4")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    for name in ("a.zip", "a.tar.gz"):
        copy_member(tmp_path / name, "x.mp4", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == content
        half = (tmp_path / name).read_bytes()[:1000]
        (tmp_path / f"half-{name}").write_bytes(half)
        with pytest.raises(UserError):
            copy_member(tmp_path / f"half-{name}", "x.mp4", tmp_path / "copy")


def test_headers_that_lie_take_no_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 4)))
    lie = (tmp_path / "a.npy").read_bytes().replace(b"(3, 4), }        ", b"(90000, 90000), }")
    assert b"90000" in lie
    (tmp_path / "b.npy").write_bytes(lie)
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("x.npy", lie)
    with pytest.raises(UserError, match=r"b\.npy is damaged"):
        open_npy(tmp_path / "b.npy")
    with pytest.raises(UserError, match=r"b\.npz: x\.npy is not a plain array"):
        read_npz(tmp_path / "b.npz")


def test_arrays_come_back(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "f": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "empty": np.zeros((0, 3)),
        "scalar": np.array(3.5),
        "text": np.array("one\ntwo"),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        found = read_npz(tmp_path / "a.npz")
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype and found[name].shape == array.shape
            np.testing.assert_array_equal(found[name], array)
    np.save(tmp_path / "a.npy", arrays["a"])
    np.testing.assert_array_equal(open_npy(tmp_path / "a.npy"), arrays["a"])


@pytest.mark.parametrize("name", ["npy", "npz"])
def test_objects_are_never_unpickled(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"a.{name}"
    array = np.array([{"an": "object"}], dtype=object)
    if name == "npy":
        np.save(path, array, allow_pickle=True)
    else:
        np.savez(path, x=array)
    with pytest.raises(UserError, match="object"):
        open_npy(path) if name == "npy" else read_npz(path)


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 200_000,
        b'{"a": ' * 200_000,
        b"\xff\xfe{}",
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[1]",
        b"{",
    ],
)
def test_json_that_is_none_is_one_sentence(text: bytes) -> None:
    with pytest.raises(UserError, match=r"^x\.json .*; restore the file$"):
        parse_json(text, "x.json")


def test_damaged_weights_are_one_sentence(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(3)}, tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    for i, bad in enumerate(
        (content[:20], content[:-1], content.replace(b"F32", b"F99"), b"x" * 99)
    ):
        (tmp_path / f"{i}.safetensors").write_bytes(bad)
        with pytest.raises(UserError, match="is damaged"):
            read_safetensors(tmp_path / f"{i}.safetensors")
    (tmp_path / "a.pth").write_bytes(b"x" * 99)
    with pytest.raises(UserError, match="holds more than tensors"):
        read_torch(tmp_path / "a.pth")


def test_names_from_files_cannot_command_the_terminal(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a\n\x1b[2J\u202eb.png", b"x")
    with pytest.raises(UserError) as caught:
        read_member(tmp_path / "a.zip", "a\n\x1b[2J\u202eb.png", limit=0)
    assert r"a\n\x1b[2J\u202eb.png" in str(caught.value)
    assert "Jürgen 李" in str(UserError("Jürgen 李 stays"))


def test_a_member_without_a_name_is_passed_over(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("\1", b"x")  # zipfile ends a name at a zero byte
        archive.writestr("y", b"abc")
    (tmp_path / "a.zip").write_bytes(
        buffer.getvalue().replace(b"\1x", b"\0x", 1).replace(b"\1PK", b"\0PK")
    )
    assert archive_names(tmp_path / "a.zip") == ["y"]
