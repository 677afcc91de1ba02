"""Small good files of every format that is read, made here: what `fuzz_readers.py` damages."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 64  # pixels; libx265 writes beyond its memory below


def picture(side: int = SIDE) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return np.stack([x * 5 % 256, y * 5 % 256, (x + y) * 3 % 256], -1).astype(np.uint8)


def pictures(folder: Path) -> list[Path]:
    from PIL import Image, ImageCms

    rgb = Image.fromarray(picture())
    exif = Image.Exif()
    exif[274] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    extras: dict[str, Any] = {"exif": exif.tobytes(), "icc_profile": profile}
    rgb.save(folder / "a.png", **extras)
    rgb.save(folder / "a.jpg", quality=90, **extras)
    rgb.save(folder / "progressive.jpg", progressive=True)
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    rgb.save(folder / "a.webp", **extras)
    rgb.save(folder / "lossless.webp", lossless=True)
    rgb.save(folder / "a.bmp")
    rgb.save(folder / "a.ppm")
    rgb.save(folder / "a.avif")
    for method in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
        rgb.save(folder / f"{method}.tif", compression=method)
    rgb.convert("P").save(folder / "a.gif", transparency=3, save_all=True, append_images=[rgb])
    rgb.convert("P").save(folder / "palette.png", transparency=3)
    grey = picture()[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(grey.astype(np.float32) / 255).save(folder / "float.tif")
    return sorted(folder.iterdir())


def videos(folder: Path) -> list[Path]:
    import av

    codecs = {
        "h264.mp4": ("libx264", "aac"),
        "h264.mkv": ("libx264", "aac"),
        "h264.ts": ("libx264", "aac"),
        "mpeg4.avi": ("mpeg4", "mp2"),
        "vp9.webm": ("libvpx-vp9", "libopus"),
        "hevc.mp4": ("libx265", None),
        "theora.ogv": ("libtheora", "libvorbis"),
        "flv.flv": ("flv", None),
        "mpeg.mpg": ("mpeg2video", "mp2"),
        "wmv.wmv": ("wmv2", None),
        "a.gif": ("gif", None),
    }
    made = []
    for name, (video_codec, audio_codec) in codecs.items():
        if not {video_codec, audio_codec or video_codec} <= av.codecs_available:
            continue
        with av.open(f"file:{folder / name}", "w") as container:
            stream = container.add_stream(video_codec, rate=25)
            stream.width = stream.height = SIDE
            stream.pix_fmt = "rgb8" if video_codec == "gif" else "yuv420p"
            sound = container.add_stream(audio_codec, rate=48000) if audio_codec else None
            for i in range(6):
                image = np.roll(picture(), 3 * i, axis=1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
            container.mux(stream.encode(None))
            if sound is not None:
                wave = np.sin(np.arange(9600) / 9).astype(np.float32)[None]
                frame = av.AudioFrame.from_ndarray(np.repeat(wave, 2, 0), "fltp", "stereo")
                frame.rate = 48000
                container.mux(sound.encode(frame))
                container.mux(sound.encode(None))
        made.append(folder / name)
    return made


def checkpoints(folder: Path) -> list[Path]:
    import torch

    from torch_utils.checkpoints import save_checkpoint

    state = {"a.weight": torch.randn(4, 5), "b": torch.arange(6), "c": torch.zeros(0, 3)}
    save_checkpoint(folder / "a.safetensors", state, {"kind": "model", "config": {"x": [1, 2.5]}})
    torch.save(state, folder / "a.pth")
    return [folder / "a.safetensors", folder / "a.pth"]


def arrays(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    values = {"exp": rng.normal(size=(3, 64)), "angle": np.zeros((3, 3)), "trans": np.zeros((3, 3))}
    np.savez(folder / "plain.npz", **values)  # type: ignore[arg-type]
    np.savez_compressed(folder / "packed.npz", **values)  # type: ignore[arg-type]
    np.save(folder / "a.npy", values["exp"])
    np.save(folder / "rows.npy", np.zeros(5, [("name", "S8"), ("values", "<f4", (3,))]))
    return sorted(folder.iterdir())


def matlab(folder: Path) -> list[Path]:
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    values = {
        "exp": rng.normal(size=(1, 64)).astype(np.float32),
        "angle": rng.normal(size=(1, 3)),
        "trans": np.arange(3, dtype=np.uint16)[None],
        "text": "hello",
        "cell": np.array([1, "a"], dtype=object),
        "struct": {"a": 1.0},
    }
    for packed in (False, True):
        savemat(folder / f"packed{packed:d}.mat", values, do_compression=packed)
    return sorted(folder.iterdir())


def archives(folder: Path) -> list[Path]:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "PNG")
    labels = [[f"00000/img{i:08d}.png", list(np.eye(4).ravel()) + [1.0] * 9] for i in range(2)]
    members = {name: buffer.getvalue() for name, _ in labels}
    members["dataset.json"] = json.dumps({"labels": labels}).encode()
    for name, method in (
        ("stored.zip", zipfile.ZIP_STORED),
        ("deflated.zip", zipfile.ZIP_DEFLATED),
    ):
        with zipfile.ZipFile(folder / name, "w", method) as archive:
            for member, content in members.items():
                archive.writestr(member, content)
    for name, mode in (("a.tar", "w:"), ("a.tgz", "w:gz")):
        with tarfile.open(folder / name, mode) as tar:  # type: ignore[call-overload]
            for member, content in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return sorted(folder.iterdir())


def datasets(folder: Path) -> list[Path]:
    from conventions.cameras import camera_label
    from conventions.spaces import ARKIT52
    from dataset.joining import finalise
    from dataset.writer import DatasetSpec, ShardWriter

    spec = DatasetSpec(SIDE, ARKIT52, channels=("image", "depth", "mask"))
    with ShardWriter(folder, 0, spec) as shard:
        for c in range(2):
            shard.add_clip(f"clip{c}", c, "train", 25.0)
            for i in range(2):
                shard.add_frame(
                    image=picture(),
                    depth=np.full((SIDE, SIDE), 2.7, np.float32),
                    mask=np.full((SIDE, SIDE), 200, np.uint8),
                    camera=camera_label(0.1 * i, 0.0),
                    beta=np.full(52, 0.1, np.float32),
                )
    finalise(folder)
    return sorted(p for p in folder.rglob("*") if p.is_file())
