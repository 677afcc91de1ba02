"""Scores of pictures against scikit-image, torchmetrics and numbers by hand; clips, failures and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from metrics_support import pairs_of
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import calc_metrics
from dnnlib.errors import UserError
from dnnlib.listing import natural_key
from metrics.calc import calculate
from metrics.image import l1, ms_ssim, psnr, ssim
from metrics.pairs import Pairs, Side
from metrics.registry import get_metric, metric_names
from metrics.result import Result


def pair(seed: int = 0, size: int = 48) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 256, (size, size, 3))
    b = np.clip(a + rng.integers(-40, 41, a.shape), 0, 255)
    return a.astype(np.uint8), b.astype(np.uint8)


def as_batch(*images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def save(folder: Path, *images: np.ndarray, names: tuple[str, ...] = ()) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{names[i] if names else i}.png")
    return folder


def with_hull(side: Side, box: tuple[int, int, int, int]) -> None:
    """Give a side faces whose landmarks fill a box (left, top, right, bottom), without running a network."""
    from metrics.networks import Face

    left, top, right, bottom = box
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)
    points = np.concatenate([corners, np.tile(corners.mean(0), (474, 1))])
    landmarks = np.concatenate([points, np.zeros((478, 1))], axis=1).astype(np.float32)
    face = Face(landmarks, np.zeros(52, np.float32), np.eye(3), np.zeros(3), 1.0)
    side.__dict__["faces"] = [face] * len(side)


# ---- formulas ----------------------------------------------------------------------------------------------------


def test_psnr_and_l1_by_hand() -> None:
    black, grey = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.1)
    # MSE 0.01 -> 20 dB; atol: 0.1 is not a float32
    assert psnr(black, grey).item() == pytest.approx(20.0, abs=1e-5)
    assert psnr(black, black).item() == 100.0
    assert l1(black, grey).item() == pytest.approx(0.1, abs=1e-8)


def oracle_ssim(a: np.ndarray, b: np.ndarray) -> float:
    score = structural_similarity(
        b,
        a,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    return float(score)


def test_psnr_and_ssim_equal_scikit_image() -> None:
    import skimage.data

    photo = np.asarray(skimage.data.astronaut())[::4, ::4].copy()
    blurred = gaussian_filter(photo, (1.5, 1.5, 0))
    for a, b in (pair(), (blurred, photo)):
        pred, ref = as_batch(a, b), as_batch(b, b)
        found_psnr, found_ssim = psnr(pred, ref), ssim(pred, ref)
        # atol: float32 pictures; both means are float64
        oracle = peak_signal_noise_ratio(b, a, data_range=255)
        assert found_psnr[0].item() == pytest.approx(oracle, abs=1e-4)
        assert found_ssim[0].item() == pytest.approx(oracle_ssim(a, b), abs=1e-4)
        assert found_ssim[1].item() == pytest.approx(1.0, abs=1e-9)


def test_ms_ssim_equals_torchmetrics_and_its_own_definition() -> None:
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    a, b = pair(size=176)
    smooth = gaussian_filter(b, (2, 2, 0))
    pred, ref = as_batch(a, smooth), as_batch(b, b)
    oracle = multiscale_structural_similarity_index_measure(
        pred, ref, data_range=1.0, reduction="none"
    )
    found = ms_ssim(pred, ref)
    assert found.dtype == torch.float64
    # float32 against our float64: 2e-6 seen
    torch.testing.assert_close(found.float(), oracle, atol=1e-4, rtol=0)
    assert ms_ssim(ref, ref).tolist() == pytest.approx([1.0, 1.0], abs=1e-9)
    with pytest.raises(ValueError, match="161 px"):
        ms_ssim(pred[..., :160], ref[..., :160])


def test_face_variants_look_inside_the_face_only() -> None:
    ref = np.full((64, 64, 3), 100, np.uint8)
    pred = ref.copy()
    pred[:, 40:] = 0  # wrong outside
    pred[20:30, 10:30] += 51  # half of the face is off by 0.2
    pairs = pairs_of([pred], [ref])
    with_hull(pairs.ref, (10, 10, 30, 30))
    face_l1 = get_metric("l1_face").frame(pairs).item()  # type: ignore[misc]
    # Pillow's polygon includes its border: rows 10..29 or 30 of 20
    assert face_l1 == pytest.approx(0.1, abs=0.012)
    assert face_l1 < get_metric("l1").frame(pairs).item()  # type: ignore[misc]
    outside = ref.copy()
    outside[:, 40:] = 0
    clean = pairs_of([outside], [ref])
    with_hull(clean.ref, (10, 10, 30, 30))
    assert get_metric("psnr_face").frame(clean).item() == 100.0  # type: ignore[misc]
    assert get_metric("ssim_face").frame(clean).item() == pytest.approx(1.0)  # type: ignore[misc]


def test_detail_counts_what_128_pixels_do_not_hold() -> None:
    """A ramp, which 128 px hold, under a checkerboard of single pixels, which they do not: energies by hand."""
    ramp = np.tile(np.linspace(40, 200, 256), (256, 1))
    board = np.where(np.indices((256, 256)).sum(axis=0) % 2, 1.0, -1.0)

    def picture(amplitude: float) -> np.ndarray:
        return np.repeat((ramp + amplitude * board).round()[..., None], 3, axis=2).astype(np.uint8)

    full, half, none = picture(20), picture(10), picture(0)
    found = []
    for pred in (full, half, none):
        pairs = pairs_of([pred], [full])
        with_hull(pairs.ref, (40, 40, 199, 199))
        found.append(get_metric("detail_face").frame(pairs).item())  # type: ignore[misc]
    low = ramp[0, 40:200].var()
    share = [a**2 / (a**2 + low) for a in (20, 10)]
    # values are whole steps of 256: 0.3 of a step of noise beside 20
    assert found == pytest.approx([1.0, share[1] / share[0], 0.0], abs=5e-3)
    pairs = pairs_of([full[:200, :200]], [full[:200, :200]])
    with_hull(pairs.ref, (40, 40, 150, 150))
    with pytest.raises(ValueError, match="256, 384, 512"):
        get_metric("detail_face").frame(pairs)  # type: ignore[misc]


def test_stlpips_is_zero_for_equal_and_grows_with_blur() -> None:
    pytest.importorskip("stlpips_pytorch", reason="needs the weights of stlpips-pytorch")
    a = gaussian_filter(pair(size=64)[0], (2, 2, 0))
    pred = [a, gaussian_filter(a, (1, 1, 0)), gaussian_filter(a, (4, 4, 0))]
    pairs = pairs_of(pred, [a, a, a])
    metric = get_metric("stlpips")
    assert metric.frame is not None
    scores = metric.frame(pairs).tolist()
    assert scores[0] == pytest.approx(0, abs=1e-6) and scores[0] < scores[1] < scores[2]
    assert "sha256" in pairs.pred.networks.record("stlpips_alex")
    # The same number as the training loss gives.
    net = pairs.pred.networks.perceptual("stlpips_alex")
    direct = net.distance(as_batch(*pred) * 2 - 1, as_batch(a, a, a) * 2 - 1)
    assert scores == pytest.approx(direct.tolist(), abs=1e-6)  # float32


def test_a_network_runs_once_for_all_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair()
    pairs = pairs_of([a], [b])
    calls = []
    monkeypatch.setattr(pairs.pred.networks, "face", lambda image: calls.append(1))
    for name in ("akd", "aed", "apd", "gaze", "apd_translation"):
        assert torch.isnan(get_metric(name).frame(pairs)).all()  # type: ignore[misc]
    assert len(calls) == 2  # prediction and reference


def test_every_metric_says_what_it_is() -> None:
    for name in metric_names():
        metric = get_metric(name)
        assert metric.direction in ("higher", "lower") and metric.range and len(metric.formula) > 10
    with pytest.raises(UserError, match="did you mean 'ssim'"):
        get_metric("sim")


def test_the_page_has_an_entry_for_every_metric() -> None:
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    for name in metric_names():
        assert f"`{name}`" in page, name


# ---- clips and failures ------------------------------------------------------------------------------------------


def test_clips_are_matched_by_name_and_failures_counted(tmp_path: Path) -> None:
    a, b = pair()
    save(tmp_path / "pred" / "one", a, a, a[:16, :16])
    save(tmp_path / "ref" / "one", b, b, b)
    save(tmp_path / "pred" / "two", b, b)
    save(tmp_path / "ref" / "two", b)
    save(tmp_path / "ref" / "three", b)
    result = calculate(tmp_path / "pred", tmp_path / "ref", ["psnr", "l1"])
    counts = {name: scores.n_pairs for name, scores in result.clips.items()}
    assert counts == {"one": 2, "two": 1} and result.n_pairs == 3
    error = np.abs(a / 255.0 - b / 255.0).mean()
    assert result.mean("l1") == pytest.approx(2 * error / 3, abs=1e-7)  # float32 pictures
    assert sorted(result.failures.lines()) == [
        "one: 16 x 16 px against 48 x 48 px (first: frame 2)",
        "three: no prediction",
        "two: no reference (first: frame 1)",
    ]


def test_a_missing_frame_does_not_shift_the_others(tmp_path: Path) -> None:
    frames = [pair(seed)[0] for seed in range(4)]
    save(tmp_path / "ref", *frames)
    save(tmp_path / "pred", frames[0], frames[2], frames[3], names=("0", "2", "3"))
    result = calculate(tmp_path / "pred", tmp_path / "ref", ["psnr"])
    assert result.mean("psnr") == 100.0 and result.n_pairs == 3
    assert result.failures.lines() == ["ref: no prediction (first: frame 1)"]


def test_unreadable_and_nan_frames_do_not_stop_the_others(tmp_path: Path) -> None:
    a, b = pair()
    save(tmp_path / "pred", a, a, a)
    save(tmp_path / "ref", b, b, b)
    (tmp_path / "pred" / "0.png").write_bytes(b"")
    (tmp_path / "pred" / "1.png").unlink()
    Image.fromarray(np.full((48, 48), np.nan, np.float32)).save(tmp_path / "pred" / "1.tif")
    result = calculate(tmp_path / "pred", tmp_path / "ref", ["psnr"])
    assert result.n_pairs == 1 and not np.isnan(result.mean("psnr"))
    first, second = result.failures.lines()
    assert "0.png is empty" in first and "NaN" in second


def test_a_video_that_cannot_be_decoded_is_one_failure(tmp_path: Path) -> None:
    a, b = pair()
    save(tmp_path / "pred" / "good", a)
    save(tmp_path / "ref" / "good", b)
    (tmp_path / "pred" / "bad.mp4").write_bytes(b"nonsense")
    save(tmp_path / "ref" / "bad", b)
    result = calculate(tmp_path / "pred", tmp_path / "ref", ["psnr"])
    assert result.n_pairs == 1
    assert any("bad.mp4 cannot be read as a video" in line for line in result.failures.lines())


def test_a_picture_below_a_metrics_window_fails_that_metric_alone(tmp_path: Path) -> None:
    a, b = pair(size=48)
    save(tmp_path / "pred", a)
    save(tmp_path / "ref", b)
    result = calculate(tmp_path / "pred", tmp_path / "ref", ["psnr", "ms_ssim"])
    assert np.isnan(result.mean("ms_ssim")) and result.failed("ms_ssim") == 1
    assert result.count("psnr") == 1 and "161 px" in result.failures.lines()[0]
    assert result.to_dict()["scores"]["ms_ssim"]["value"] is None
    assert "not measured" in "\n".join(result.lines())


def test_flicker_counts_consecutive_frames_only(tmp_path: Path) -> None:
    black, grey = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 51, np.uint8)
    save(tmp_path / "ref", *[black] * 5)
    save(tmp_path / "pred", black, grey, black, grey, names=("0", "1", "3", "4"))
    result = calculate(tmp_path / "pred", tmp_path / "ref", ["flicker"])
    # 0 -> 1 and 3 -> 4 change by 0.2; 1 -> 3 is a gap
    assert result.count("flicker") == 2 and result.mean("flicker") == pytest.approx(0.2, abs=1e-6)


def test_flow_jitter_is_the_acceleration_of_what_moves(tmp_path: Path) -> None:
    import skimage.data
    from scipy.ndimage import shift

    photo = np.asarray(skimage.data.astronaut())[:256, 96:352].astype(np.float32)
    wobble = np.array([0.0, 1.5, -1.0, 2.0, 0.0, -2.0])  # pixels of 256

    def clip(name: str, shifts: np.ndarray) -> Path:
        moved = [shift(photo, (0, s, 0), order=1, mode="nearest") for s in shifts]
        return save(tmp_path / name, *(m.astype(np.uint8) for m in moved))

    steady = np.arange(6) * 2.0  # a steady motion has no acceleration
    ref = clip("ref", steady)
    found = [
        calculate(clip(f"p{amount}", steady + amount * wobble), ref, ["flow_jitter"])
        for amount in (0.0, 0.5, 1.0)
    ]
    scores = [result.mean("flow_jitter") for result in found]
    assert found[0].count("flow_jitter") == 4 and scores[0] == 0.0 and scores[1] < scores[2]
    turns = np.abs(np.diff(wobble, n=2)).mean() / 256 * 100
    # sub-pixel flow and what enters at the border; 1.006 times the truth seen
    assert scores[2] == pytest.approx(turns, rel=0.05)
    gap = calculate(
        clip("gap", np.delete(steady, 2)), clip("gap_ref", np.delete(steady, 2)), ["flow_jitter"]
    )
    assert gap.count("flow_jitter") == 3


def calc(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(calc_metrics.main, ["calc", *map(str, words)])
    return result.exit_code, result.output


def test_calc_prints_its_protocol(tmp_path: Path) -> None:
    for i in range(6):
        a, b = pair(i)
        save(tmp_path / "p" / str(i), a)
        save(tmp_path / "r" / str(i), b)
    scores = tmp_path / "s.json"
    places = ("--pred", tmp_path / "p", "--ref", tmp_path / "r", "--json", scores)
    code, output = calc(*places, "--metrics", "psnr,ssim")
    assert code == 0, output
    for part in ("pairs       6 frames of 6 clips", "48 x 48", "failures    0", "10 log10", "95 %"):
        assert part in output
    found = json.loads(scores.read_text())
    assert set(found["scores"]) == {"psnr", "ssim"} and found["protocol"]["pairs"] == 6
    low, high = found["scores"]["psnr"]["interval_95"]
    assert low < found["scores"]["psnr"]["value"] < high and len(found["per_clip"]) == 6


@pytest.mark.parametrize(
    ("pred", "names", "more", "says"),
    [
        ("missing", "psnr", (), "does not exist"),
        ("empty", "psnr", (), "holds neither"),
        ("good", "fid9", (), "no metric"),
        ("good", ",", (), "empty"),
        ("good", "fid", (), "--weights inception=PATH"),
        ("good", "fid", ("--weights", "inception=absent.pth"), "does not exist"),
        ("good", "psnr", ("--weights", f"nothing={__file__}"), "no weights 'nothing'"),
        ("good", "psnr", ("--weights", "arcface"), "NAME=PATH"),
        ("good", "csim_source", (), "--source"),
    ],
)
def test_mistakes_end_in_one_sentence(
    tmp_path: Path, pred: str, names: str, more: tuple[str, ...], says: str
) -> None:
    save(tmp_path / "good", pair()[0])
    (tmp_path / "empty").mkdir()
    places = ("--pred", tmp_path / pred, "--ref", tmp_path / "good")
    code, output = calc(*places, "--metrics", names, *more)
    assert code == (2 if says == "NAME=PATH" else 1)
    assert says in output and "Traceback" not in output


def test_the_reason_is_what_failed_not_what_has_no_partner(tmp_path: Path) -> None:
    (tmp_path / "pred").mkdir()
    (tmp_path / "pred" / "b.mp4").write_bytes(b"nonsense")
    for name in ("a", "b"):
        save(tmp_path / "ref" / name, pair()[0])
    code, output = calc("--pred", tmp_path / "pred", "--ref", tmp_path / "ref")
    assert code == 1 and "b.mp4 cannot be read as a video" in output and "Traceback" not in output


def test_scores_do_not_replace_a_picture(tmp_path: Path) -> None:
    frame = save(tmp_path / "p", pair()[0]) / "0.png"
    before = frame.read_bytes()
    code, output = calc("--pred", tmp_path / "p", "--ref", tmp_path / "p", "--json", frame)
    assert code == 1 and "must end in .json" in output and frame.read_bytes() == before


def test_frames_are_in_natural_order() -> None:
    names = ["f10.png", "f2.png", "f1.png", "g.png"]
    ordered = [p.name for p in sorted(map(Path, names), key=natural_key)]
    assert ordered == ["f1.png", "f2.png", "f10.png", "g.png"]


def test_results_name_no_folder_of_the_machine(tmp_path: Path) -> None:
    save(tmp_path / "p", pair()[0])
    result: Result = calculate(tmp_path / "p", tmp_path / "p", ["psnr"])
    assert str(tmp_path) not in json.dumps(result.to_dict())


def test_pairs_without_a_source_say_so() -> None:
    a, b = pair()
    pairs = pairs_of([a], [b])
    assert isinstance(pairs, Pairs)
    with pytest.raises(ValueError, match="no source"):
        _ = pairs.source
