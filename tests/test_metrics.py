"""Scores against closed forms and scikit-image, failures that are counted, the t-SNE figure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import calc_metrics
from dnnlib.errors import UserError
from inference.pictures import natural_key
from metrics.calc import calculate
from metrics.registry import get_metric, metric_names
from metrics.tsne import draw_scatter, purity, tsne


def pair(seed: int = 0, size: int = 48) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 256, (size, size, 3))
    b = np.clip(a + rng.integers(-40, 41, a.shape), 0, 255)
    return a.astype(np.uint8), b.astype(np.uint8)


def as_batch(*images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def save(folder: Path, *images: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


def test_psnr_and_l1_by_hand() -> None:
    black, grey = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.1)
    # MSE 0.01 -> 20 dB; atol: 0.1 is not a float32
    assert get_metric("psnr").function(black, grey).item() == pytest.approx(20.0, abs=1e-5)
    assert get_metric("psnr").function(black, black).item() == 100.0
    assert get_metric("l1").function(black, grey).item() == pytest.approx(0.1, abs=1e-8)


def test_psnr_and_ssim_equal_scikit_image() -> None:
    a, b = pair()
    pred, ref = as_batch(a, b), as_batch(b, b)
    psnr, ssim = (get_metric(n).function(pred, ref) for n in ("psnr", "ssim"))
    # atol: float32 pictures; both means are float64
    assert psnr[0].item() == pytest.approx(peak_signal_noise_ratio(b, a, data_range=255), abs=1e-4)
    oracle = structural_similarity(
        b,
        a,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    assert ssim[0].item() == pytest.approx(oracle, abs=1e-4)
    assert ssim[1].item() == pytest.approx(1.0, abs=1e-9)


def test_every_metric_says_what_it_is() -> None:
    assert metric_names() == ["psnr", "ssim", "l1", "stlpips"]
    for name in metric_names():
        metric = get_metric(name)
        assert metric.direction in ("higher", "lower") and metric.range and len(metric.formula) > 10
    with pytest.raises(UserError, match="did you mean 'ssim'"):
        get_metric("sim")


def test_clips_are_matched_by_name_and_failures_counted(tmp_path: Path) -> None:
    a, b = pair()
    small = a[:16, :16]
    save(tmp_path / "pred" / "one", a, a, small)
    save(tmp_path / "ref" / "one", b, b, b)
    save(tmp_path / "pred" / "two", b, b)
    save(tmp_path / "ref" / "two", b)
    save(tmp_path / "ref" / "three", b)
    result = calculate(tmp_path / "pred", tmp_path / "ref", ["psnr", "l1"])
    assert result.clips == {"one": 2, "two": 1} and result.n_pairs == 3
    l1 = np.abs(a / 255.0 - b / 255.0).mean()
    assert result.mean("l1") == pytest.approx(2 * l1 / 3, abs=1e-7)  # float32 pictures
    assert sorted(result.failures) == [
        "one frame 2: 16 x 16 px against 48 x 48 px",
        "three: no prediction",
        "two: 1 frames have no partner",
    ]


def test_unreadable_frames_do_not_stop_other_clips(tmp_path: Path) -> None:
    a, b = pair()
    for clip in ("good", "bad"):
        save(tmp_path / "pred" / clip, a)
        save(tmp_path / "ref" / clip, b)
    (tmp_path / "pred" / "bad" / "0.png").write_bytes(b"")
    result = calculate(tmp_path / "pred", tmp_path / "ref", ["psnr"])
    assert list(result.clips) == ["good"] and len(result.failures) == 1


def test_calc_prints_its_protocol(tmp_path: Path) -> None:
    a, b = pair()
    save(tmp_path / "p", a)
    save(tmp_path / "r", b)
    words = [
        "calc",
        "--pred",
        str(tmp_path / "p"),
        "--ref",
        str(tmp_path / "r"),
        "--json",
        str(tmp_path / "s.json"),
    ]
    result = CliRunner().invoke(calc_metrics.main, [*words, "--metrics", "psnr,ssim"])
    assert result.exit_code == 0, result.output
    for part in (
        "pairs       1 frames",
        "48 x 48",
        "failures    0",
        "higher is better",
        "10 log10",
    ):
        assert part in result.output
    scores = json.loads((tmp_path / "s.json").read_text())
    assert set(scores["scores"]) == {"psnr", "ssim"} and scores["protocol"]["pairs"] == 1


@pytest.mark.parametrize(
    ("pred", "names", "says"),
    [
        ("missing", "psnr", "does not exist"),
        ("empty", "psnr", "holds neither"),
        ("good", "fid9", "no metric"),
        ("good", ",", "empty"),
    ],
)
def test_mistakes_end_in_one_sentence(tmp_path: Path, pred: str, names: str, says: str) -> None:
    save(tmp_path / "good", pair()[0])
    (tmp_path / "empty").mkdir()
    words = [
        "calc",
        "--pred",
        str(tmp_path / pred),
        "--ref",
        str(tmp_path / "good"),
        "--metrics",
        names,
    ]
    result = CliRunner().invoke(calc_metrics.main, words)
    assert result.exit_code == 1 and says in result.output and "Traceback" not in result.output


def test_frames_are_in_natural_order() -> None:
    names = ["f10.png", "f2.png", "f1.png", "g.png"]
    assert [p.name for p in sorted(map(Path, names), key=natural_key)] == [
        "f1.png",
        "f2.png",
        "f10.png",
        "g.png",
    ]


def test_stlpips_is_zero_for_equal_and_grows_with_blur() -> None:
    pytest.importorskip("stlpips_pytorch", reason="needs the weights of stlpips-pytorch")
    from scipy.ndimage import gaussian_filter

    a, _ = pair(size=64)
    a = gaussian_filter(a, (2, 2, 0))
    ref = as_batch(a, a, a)
    pred = as_batch(a, gaussian_filter(a, (1, 1, 0)), gaussian_filter(a, (4, 4, 0)))
    scores = get_metric("stlpips").function(pred, ref).tolist()
    assert scores[0] == pytest.approx(0, abs=1e-6) and scores[0] < scores[1] < scores[2]
    assert "sha256" in get_metric("stlpips").extractor()


def test_tsne_keeps_clusters_together() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 25)
    points = rng.normal(size=(100, 20)) + 8 * rng.normal(size=(4, 20))[labels]
    embedded = tsne(points, perplexity=10, iterations=250)
    assert purity(embedded, labels) > 0.98
    assert np.array_equal(embedded, tsne(points, perplexity=10, iterations=250))
    mixed = tsne(rng.normal(size=(100, 20)), perplexity=10, iterations=250)
    assert purity(mixed, labels) < 0.5  # chance is a quarter
    figure = draw_scatter([("a", embedded), ("b", mixed)], labels, side_px=100)
    assert figure.shape == (140, 200, 3) and figure.std() > 5
