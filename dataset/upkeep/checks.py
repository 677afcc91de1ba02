"""What `validate` measures beyond right and wrong: where labels put the face, pictures that occur twice, a sheet."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from conventions.cameras import project_points
from conventions.landmarks import LANDMARKS_70
from dataset.frames import FrameDataset
from dataset.spec import SPLITS
from dataset.upkeep.rearrange import clip_embeddings
from dnnlib.errors import UserError
from dnnlib.files import atomic_path
from tracking.pose import canonical_face

MAX_FIT = 0.05  # median distance of a good dataset's landmarks from where the labels put them, face heights
SAME_FACE_LEAK = 0.6  # cosine above which two clips of different splits show one person for certain
_SAMPLES = 2000  # frames
_CHUNK = 65536


def sampled(dataset: FrameDataset, n: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """At most n frame numbers, spread evenly at random, sorted."""
    count = min(n, len(dataset))
    return np.sort(np.random.default_rng(seed).choice(len(dataset), count, replace=False))


def reprojection(dataset: FrameDataset) -> dict[str, float] | None:
    """Distance of stored landmarks from where the camera labels put the canonical face.

    {"median_px", "p95_px", "median_share", "p95_share"}: pixels of the crop, and face heights, over landmarks of up to
    2,000 frames. None when the dataset stores no landmarks.
    """
    if dataset.spec.extra_labels.get("landmarks") != 2 * len(LANDMARKS_70):
        return None
    mesh = canonical_face().points
    known = [k for k, index in enumerate(LANDMARKS_70) if index < len(mesh)]
    points = mesh[[LANDMARKS_70[k] for k in known]]
    whole_height = np.ptp(mesh[:, 1]) / np.ptp(points[:, 1])  # the 70 do not reach the forehead
    pixels, shares, fits = [], [], []
    for i in sampled(dataset, _SAMPLES):
        row = dataset.row(int(i))
        seen = np.asarray(row["landmarks"], np.float64).reshape(-1, 2)[known]
        expected = project_points(points, np.asarray(row["camera"], np.float64))
        distance = np.linalg.norm(expected - seen, axis=1)
        pixels.append(distance * dataset.resolution)
        shares.append(distance / (np.ptp(seen[:, 1]) * whole_height))
        if "quality" in dataset.spec.extra_labels:
            fits.append(float(row["quality"][2]))  # the median over all that the tracker saw
    whole = {"fit_median": round(float(np.median(fits)), 5)} if fits else {}
    return {
        **whole,
        "median_px": round(float(np.median(pixels)), 4),
        "p95_px": round(float(np.percentile(pixels, 95)), 4),
        "median_share": round(float(np.median(shares)), 5),
        "p95_share": round(float(np.percentile(shares, 95)), 5),
    }


def fit_problems(dataset: FrameDataset) -> Iterator[str]:
    figures = reprojection(dataset)
    if figures is not None and figures["median_share"] > MAX_FIT:
        yield (
            f"the camera labels put landmarks {100 * figures['median_share']:.1f} % of the face's height away from "
            "where they were seen (median); the labels belong to other pictures or another crop"
        )


def duplicate_problems(dataset: FrameDataset, every: int = 1) -> Iterator[str]:
    """Pictures that occur in two clips, byte for byte; within a clip a still picture is no mistake."""
    frames = np.arange(0, len(dataset), every)
    digests = np.zeros(len(frames), np.uint64)
    for k, i in enumerate(frames):
        try:
            content = dataset.encoded(int(i))
        except UserError:
            continue  # reported as unreadable
        digests[k] = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
    order = np.argsort(digests, kind="stable")
    same = np.flatnonzero((np.diff(digests[order]) == 0) & (digests[order][1:] != 0))
    told: set[tuple[int, int]] = set()
    for place in same:
        a, b = sorted((int(frames[order[place]]), int(frames[order[place + 1]])))
        pair = (int(dataset.row(a)["clip"]), int(dataset.row(b)["clip"]))
        if pair[0] != pair[1] and pair not in told:
            told.add(pair)
            yield f"clips {pair[0]} and {pair[1]} share a picture (frames {a} and {b}); leave one clip out"


def face_leak_problems(dataset: FrameDataset) -> Iterator[str]:
    """People who are in two splits under different identities, by the face embeddings of prepared videos."""
    if not (dataset.path / "videos").is_dir():
        return
    known = clip_embeddings(dataset.path)
    numbers = [i for i, c in enumerate(dataset.clips) if c["name"] in known]
    if not numbers:
        return
    vectors = np.stack([known[dataset.clips["name"][i]] for i in numbers])
    splits = dataset.clips["split"][numbers]
    for start in range(0, len(vectors), 1024):
        alike = vectors[start : start + 1024] @ vectors.T > SAME_FACE_LEAK
        for row, b in zip(*np.nonzero(alike), strict=True):
            a = int(row) + start
            if a < b and splits[a] != splits[b]:
                yield (
                    f"clips {numbers[a]} ({SPLITS[splits[a]]}) and {numbers[b]} ({SPLITS[splits[b]]}) show the same "
                    "face; divide the people anew with dataset_tool.py split --by face"
                )


# ---- contact sheet -----------------------------------------------------------------------------------------------


def contact_sheet(dataset: FrameDataset, out: str | os.PathLike[str], seed: int = 0) -> None:
    """A PNG of 40 random frames with their landmarks, and all cameras of a sample seen from above and from the side.

    Raises:
        UserError: the file cannot be written.
    """
    tile, columns = 128, 8
    numbers = sampled(dataset, 40, seed)
    rows = -(-len(numbers) // columns)
    plot = 2 * tile
    sheet = Image.new("RGB", (columns * tile, rows * tile + plot), "white")
    draw = ImageDraw.Draw(sheet)
    for k, i in enumerate(numbers):
        x, y = k % columns * tile, k // columns * tile
        picture = Image.fromarray(dataset.image(int(i)).transpose(1, 2, 0)).resize((tile, tile))
        sheet.paste(picture, (x, y))
        if "landmarks" in dataset.spec.extra_labels:
            for u, v in dataset.label("landmarks", int(i)).reshape(-1, 2) * tile:
                draw.point((x + float(u), y + float(v)), fill=(0, 255, 120))
    cameras = np.stack([dataset.camera(int(i)) for i in sampled(dataset, 300, seed)])
    for k, (title, across, along) in enumerate((("from above", 0, 2), ("from the side", 2, 1))):
        _frusta(draw, cameras, (k * 2 * plot, rows * tile, 2 * plot, plot), title, across, along)
    with atomic_path(out) as temporary:
        sheet.save(temporary, format="PNG")


def _frusta(
    draw: Any,
    cameras: npt.NDArray[np.float32],
    window: tuple[int, int, int, int],
    title: str,
    across: int,
    along: int,
) -> None:
    """Positions and viewing directions on two axes of the world; the head is the circle in the middle."""
    x0, y0, width, height = window
    scale = height / 7.0  # pixels per world unit: cameras stand 2.7 away

    def place(point: npt.NDArray[np.float32]) -> tuple[float, float]:
        down = (
            1 if along == 2 else -1
        )  # from above +z, where frontal cameras stand, is at the bottom
        return (
            x0 + width / 2 + scale * float(point[across]),
            y0 + height / 2 + down * scale * float(point[along]),
        )

    draw.rectangle((x0, y0, x0 + width - 1, y0 + height - 1), outline=(200, 200, 200))
    cx, cy = place(np.zeros(3, np.float32))
    draw.ellipse((cx - scale / 2, cy - scale / 2, cx + scale / 2, cy + scale / 2), outline="black")
    for label in cameras:
        pose = label[:16].reshape(4, 4)
        centre, forward, right = pose[:3, 3], pose[:3, 2], pose[:3, 0]
        half = 0.5 / float(label[16])  # half of the picture's width at distance 1
        ends = [centre + forward * 0.8 + s * right * half * 0.8 for s in (-1, 1)]
        draw.line([place(ends[0]), place(centre), place(ends[1])], fill=(60, 90, 160))
    draw.text((x0 + 6, y0 + 6), f"cameras {title}", fill="black")
