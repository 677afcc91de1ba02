"""What a network is given for a protocol is what `gen_videos.py animate` gives it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from animate_support import photo, save_tiny
from click.testing import CliRunner
from PIL import Image
from training_support import make_dataset

import calc_metrics
from conventions.cameras import camera_label
from dataset.synthesis.heads import SyntheticHeads
from dataset.synthesis.motion import units_to_beta
from dnnlib.errors import UserError
from inference.animate import AnimateOptions, animate_frames
from inference.network import Network
from inference.tracked import NetworkTracker
from metrics.consistency import score_views
from metrics.footage import DatasetFootage, Moment
from metrics.generate import CLAIM_VERSION, Method, generate, resized
from metrics.networks import Networks
from metrics.protocols import build_protocol
from tracking.media import VideoReader, VideoWriter

FRAMES = 8


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people who turn and open their mouths, smiling from the first frame on."""
    heads, data = SyntheticHeads(seed=3), tmp_path_factory.mktemp("clips")
    for person in (1, 2):
        with VideoWriter(data / f"{person}.mp4", 25.0) as writer:
            for i in range(FRAMES):
                beta = units_to_beta(mouthSmileLeft=0.8, mouthSmileRight=0.8, jawOpen=0.1 * i)
                label = camera_label(0.05 * i, 0.0)
                writer.write(heads.render(person, beta, label, 160, 1).image)
    return data


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that looks at the source's camera, moves its pixels and undoes its expression."""
    return save_tiny(
        tmp_path_factory.mktemp("network") / "tiny.safetensors",
        overrides=(
            *("model.generator.align=source", "model.generator.texture=source"),
            *("model.generator.background=image", "model.generator.motion_modes=4"),
        ),
    )


@pytest.mark.parametrize("resolution", [32, 48])  # the network's; another one
def test_gen_makes_the_frames_of_animate(
    resolution: int, clips: Path, checkpoint: Path, tmp_path: Path
) -> None:
    protocol = build_protocol("folder", clips, "two", 1, 1, 4, 2, resolution)
    protocol.save(tmp_path / "two.json")
    words = ("gen", "--protocol", tmp_path / "two.json", "--data", clips, "--method", checkpoint)
    result = CliRunner().invoke(
        calc_metrics.main, [*map(str, words), "--device", "cpu", "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    network = Network.load(checkpoint, "cpu", "fp32")
    inputs = NetworkTracker(network)
    for pair in protocol.pairs:
        made = sorted((tmp_path / "out" / pair.id).iterdir())
        first = next(iter(VideoReader(clips / pair.source))).image
        source = inputs.image(first, "the source")
        clip = inputs.clip(clips / pair.driving, max_frames=pair.start + pair.count * pair.step)
        options = AnimateOptions(shown="result", relative=False)
        expected = list(animate_frames(network, source, clip, options))[pair.start :: pair.step]
        assert len(made) == len(expected) == 4
        for file, frame in zip(made, expected, strict=True):
            assert np.array_equal(np.asarray(Image.open(file)), resized(frame, resolution))
        # not every network would notice: this one shows it when the source's own beta is not given
        mute = network.encode(source.crop, source.camera, None)
        planes = network.planes(mute, clip.betas[pair.start])
        other = network.render(planes, clip.cameras[pair.start]).image
        assert not np.array_equal(other, expected[0])


def test_views_are_of_the_source_with_its_own_expression(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, source, given = Network.load(checkpoint, "cpu", "fp32"), photo(), []
    monkeypatch.setattr(
        network, "encode", lambda *labels: given.append(labels) or Network.encode(network, *labels)
    )
    score_views(network, source, Networks(), n_views=2)
    ((_, camera, beta),) = given
    assert np.array_equal(camera, source.camera) and np.array_equal(beta, source.beta)


def test_the_floor_is_the_truth_through_a_resolution() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    moment = Moment(crop, np.zeros(52, np.float32), camera_label(0.0, 0.0))
    (through,) = Method.load("floor:16").frames(moment, iter([moment]))
    assert through.shape == (16, 16, 3) and np.array_equal(through, resized(crop, 16))
    (whole,) = Method.load("floor:64").frames(moment, iter([moment]))
    (beyond,) = Method.load("floor:512").frames(moment, iter([moment]))  # a network finer than that
    assert np.array_equal(whole, crop) and np.array_equal(beyond, crop)


def test_frames_of_networks_without_the_sources_expression_are_not_taken_over(
    tmp_path: Path,
) -> None:
    """Earlier versions wrote no version, and gave networks no beta of the source."""
    data = make_dataset(tmp_path / "heads")
    protocol = build_protocol("heads", data, "toy", 2, 0, 2, split=None)
    generate(Method("copy"), protocol, DatasetFootage(data), tmp_path / "out")
    claim = tmp_path / "out" / "generated.json"
    record = json.loads(claim.read_text())
    assert record.pop("version") == CLAIM_VERSION
    claim.write_text(json.dumps(record))
    with pytest.raises(UserError, match="out was made by another version; choose another folder"):
        generate(Method("copy"), protocol, DatasetFootage(data), tmp_path / "out")
