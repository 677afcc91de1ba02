"""The second opinion on identity: dlib's descriptors against SFace's embeddings, on real faces."""

from __future__ import annotations

import importlib.util
from itertools import combinations, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import skimage.data
from metrics_support import pairs_of
from scipy.stats import rankdata

from metrics.networks import Networks
from metrics.pairs import Side
from metrics.registry import get_metric
from tracking.media import VideoReader
from tracking.pictures import read_picture

pytestmark = pytest.mark.reference

WEIGHTS = "dlib_face_recognition_resnet_model_v1.dat"
ONE_PERSON = 0.6  # dlib's own threshold
SFACE_ONE_PERSON = 0.363  # OpenCV's, of SFace's cosine
# The clips of which several show one person, by the names of their data set; every other clip counts as a person.
SAME = ("M030_front", "W009_front")


@pytest.fixture(scope="module")
def networks() -> Networks:
    """With dlib's weights, whose package is only looked into, not imported."""
    pytest.importorskip("dlib", reason="needs the package dlib-bin")
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package face-recognition-models")
    return Networks({"dlib": Path(spec.origin).parent / "models" / WEIGHTS})


def distance(networks: Networks, pred: np.ndarray, ref: np.ndarray) -> float:
    metric = get_metric("id_dlib")
    assert metric.frame is not None
    return float(metric.frame(pairs_of([pred], [ref], networks))[0])


def test_one_face_is_near_itself_and_a_blank_has_no_descriptor(networks: Networks) -> None:
    portrait = skimage.data.astronaut()[:256, 96:352]
    noise = np.random.default_rng(0).integers(-20, 21, portrait.shape)
    noisy = np.clip(portrait.astype(int) + noise, 0, 255).astype(np.uint8)
    moved = np.roll(noisy, 7, axis=1)
    assert distance(networks, portrait, portrait) == 0.0
    assert 0.0 < distance(networks, moved, portrait) < 0.5 * ONE_PERSON
    assert np.isnan(distance(networks, np.full_like(portrait, 128), portrait))
    record = networks.record("dlib")
    assert record.startswith(WEIGHTS) and "sha256 55533b28a958" in record


class Seen(NamedTuple):
    """A picture, as both networks see it."""

    who: str  # "" where the files do not tell
    clip: str
    dlib: np.ndarray
    sface: np.ndarray


@pytest.fixture(scope="module")
def seen(networks: Networks, shared_data: Path) -> list[Seen]:
    """Two frames of each clip, and the portraits; those in which a face is found."""
    out: list[Seen] = []

    def look(who: str, clip: str, images: list[np.ndarray]) -> None:
        for image in images:
            side = Side([image], networks)
            if side.faces[0] is not None:
                out.append(Seen(who, clip, side.dlib[0].numpy(), side.embeddings[0].numpy()))

    for clip in sorted((shared_data / "clips").glob("*.mp4")):
        who = next((person for person in SAME if person in clip.name), clip.name)
        look(who, clip.name, [f.image for f in islice(VideoReader(clip), 0, 21, 20)])
    for portrait in sorted((shared_data / "portraits").iterdir()):
        look("", portrait.name, [read_picture(portrait)])
    return out


def compared(pairs: list[tuple[Seen, Seen]]) -> tuple[np.ndarray, np.ndarray]:
    """dlib's distances and SFace's cosines."""
    return (
        np.array([np.linalg.norm(a.dlib - b.dlib) for a, b in pairs]),
        np.array([float(a.sface @ b.sface) for a, b in pairs]),
    )


@pytest.mark.slow
@pytest.mark.shared_data
def test_both_know_the_people_of_the_clips(seen: list[Seen]) -> None:
    frames = [s for s in seen if s.who]
    across = [(a, b) for a, b in combinations(frames, 2) if a.clip != b.clip]
    same = np.array([a.who == b.who for a, b in across])
    distances, cosines = compared(across)
    assert same.sum() > 30 and (~same).sum() > 2000
    assert auc(-distances, same) > 0.98 and auc(cosines, same) > 0.98  # 0.994 and 1.000 seen
    for person in SAME:
        for one in (f for f in frames if f.who == person):
            others = [(one, f) for f in frames if f.clip != one.clip]
            near, alike = compared(others)
            assert others[near.argmin()][1].who == others[alike.argmax()][1].who == person


@pytest.mark.slow
@pytest.mark.shared_data
def test_their_verdicts_agree_on_portraits_and_clips(seen: list[Seen]) -> None:
    across = [(a, b) for a, b in combinations(seen, 2) if a.clip != b.clip]
    distances, cosines = compared(across)
    assert len(across) > 10_000
    agreed = (distances < ONE_PERSON) == (cosines > SFACE_ONE_PERSON)
    assert (
        agreed.mean() > 0.95
    )  # 0.977 seen; most others are strangers whom dlib takes for one person
    # Of different clips of one person SFace's cosines begin at 0.57, of strangers they end at 0.47.
    sure = cosines > 0.52
    assert sure.sum() > 30 and np.median(distances[sure]) < ONE_PERSON
    assert distances[sure].max() < np.median(distances[~sure])


def auc(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive has the higher score."""
    n, m = positive.sum(), (~positive).sum()
    return float((rankdata(score)[positive].sum() - n * (n + 1) / 2) / (n * m))
