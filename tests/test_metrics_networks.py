"""Weights by path in their true layouts, Fréchet distance in closed form, KID against torchmetrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from metrics_support import pairs_of
from safetensors.torch import save_file
from torch.nn import functional

from dnnlib.errors import UserError
from metrics.networks import Networks
from metrics.pairs import Pairs, Side
from metrics.registry import get_metric
from metrics.sets import Fid, FrechetIdentity, Kid, frechet_distance, polynomial_mmd
from pretrained.inception import FidInception, fid_inception
from pretrained.lpips import lpips_network


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights with the names and shapes of pt_inception-2015-12-05."""
    torch.manual_seed(0)
    state = FidInception().net.state_dict()
    for name, value in state.items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif name.endswith("conv.weight"):
            value.normal_(0, (2.0 / value[0].numel()) ** 0.5)
    path = tmp_path_factory.mktemp("fid") / "inception.safetensors"
    save_file(
        {k: v.contiguous() for k, v in state.items() if not k.endswith("num_batches_tracked")}, path
    )
    return path


def test_inception_layout_is_the_published_one(inception_file: Path) -> None:
    state = FidInception().net.state_dict()
    # Facts of the published file: 1008 classes, no auxiliary head, 94 convolutions with batch norm.
    assert state["fc.weight"].shape == (1008, 2048) and state["fc.bias"].shape == (1008,)
    assert state["Conv2d_1a_3x3.conv.weight"].shape == (32, 3, 3, 3)
    assert state["Mixed_5b.branch_pool.conv.weight"].shape == (32, 192, 1, 1)
    assert state["Mixed_6e.branch7x7dbl_5.conv.weight"].shape == (192, 192, 1, 7)
    assert state["Mixed_7c.branch3x3dbl_3b.conv.weight"].shape == (384, 384, 3, 1)
    assert sum(k.endswith("conv.weight") for k in state) == 94
    assert not any(k.startswith("AuxLogits") for k in state)


def test_inception_pools_as_the_graph_of_2015(inception_file: Path) -> None:
    network = fid_inception(inception_file)
    block = network.net.Mixed_7c
    x = torch.rand(1, 2048, 8, 8) * 0.1
    torch.manual_seed(0)
    ours = network._block("Mixed_7c", x)
    assert ours.shape == (1, 2048, 8, 8)
    pooled = functional.max_pool2d(x, 3, stride=1, padding=1)
    torch.testing.assert_close(ours[:, -192:], block.branch_pool(pooled))
    torch.testing.assert_close(ours[:, :-192], block(x)[:, :-192])  # the other branches as they are
    first = network.net.Mixed_5b
    y = torch.ones(1, 192, 8, 8)
    pooled_ones = functional.avg_pool2d(y, 3, 1, 1, count_include_pad=False)
    assert torch.equal(pooled_ones, y)  # padding does not darken the border
    torch.testing.assert_close(network._block("Mixed_5b", y)[:, -32:], first.branch_pool(y))


def test_fid_and_kid_run_from_a_file(inception_file: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (40, 40, 3)).astype(np.uint8) for _ in range(3)]
    networks = Networks({"inception": inception_file})
    pairs = pairs_of(pictures, pictures, networks)
    fid, kid = Fid(networks), Kid(networks)
    fid.update(pairs)
    kid.update(pairs)
    # equal sets: 2048 features in float64, eigenvalues of rank 2
    assert fid.value() == pytest.approx(0, abs=1e-4)
    assert np.isfinite(kid.value())
    assert "sha256" in networks.record("inception")


def test_weights_of_another_network_are_refused(tmp_path: Path, inception_file: Path) -> None:
    other = tmp_path / "imagenet.safetensors"
    save_file({"fc.weight": torch.zeros(1000, 2048)}, other)
    with pytest.raises(UserError, match="1000 classes where FID's Inception has 1008"):
        fid_inception(other)
    with pytest.raises(UserError, match="AlexNet"):
        lpips_network("lpips_alex", other)


def alexnet_file(path: Path) -> Path:
    from torchvision.models import alexnet

    torch.manual_seed(0)
    state = alexnet(weights=None).features.state_dict()
    save_file({f"features.{k}": v.contiguous() for k, v in state.items()}, path)
    return path


def test_lpips_alex_equals_torchmetrics_with_the_same_backbone(tmp_path: Path) -> None:
    from torchmetrics.functional.image.lpips import _LPIPS

    path = alexnet_file(tmp_path / "alexnet.safetensors")
    ours = lpips_network("lpips_alex", path)
    oracle = _LPIPS(pretrained=True, net="alex", pnet_rand=True).eval()
    convolutions = [m for m in oracle.net.modules() if isinstance(m, torch.nn.Conv2d)]
    mine = [m for m in ours.stages.modules() if isinstance(m, torch.nn.Conv2d)]
    for theirs, own in zip(convolutions, mine, strict=True):
        theirs.load_state_dict(own.state_dict())
    a, b = torch.rand(2, 3, 80, 80) * 2 - 1, torch.rand(2, 3, 80, 80) * 2 - 1
    with torch.no_grad():
        expected = oracle(a, b).flatten()
    # float32 features; the oracle adds 1e-10 to the norm, we put 1e-16 under the root
    torch.testing.assert_close(ours.distance(a, b), expected, atol=1e-5, rtol=1e-4)
    assert expected.min() > 0


def test_lpips_without_its_weights_says_which(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--weights lpips_alex=PATH"):
        Networks().perceptual("lpips_alex")


def test_frechet_distance_of_gaussians_has_its_closed_form() -> None:
    # Diagonal covariances commute: |m|^2 + sum (sqrt a - sqrt b)^2
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 1.0])
    mean = np.array([1.0, 2.0, 0.0])
    expected = 5 + 1 + 0 + 4
    found = frechet_distance(np.zeros(3), np.diag(a), mean, np.diag(b))
    assert found == pytest.approx(expected, abs=1e-12)
    # A common rotation changes nothing.
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    turned = frechet_distance(np.zeros(3), q @ np.diag(a) @ q.T, q @ mean, q @ np.diag(b) @ q.T)
    assert turned == pytest.approx(expected, abs=1e-9)


def given(networks: Networks, rows: np.ndarray, others: np.ndarray, field: str) -> Pairs:
    """Pairs whose features are known."""
    blank = [np.zeros((1, 1, 3), np.uint8)] * len(rows)
    pairs = Pairs(Side(blank, networks), Side(blank, networks))
    pairs.pred.__dict__[field] = torch.from_numpy(rows.astype(np.float32))
    pairs.ref.__dict__[field] = torch.from_numpy(others.astype(np.float32))
    return pairs


def test_streamed_frechet_distance_of_gaussian_features() -> None:
    rng = np.random.default_rng(0)
    networks = Networks()
    whole, parts = FrechetIdentity(networks), [FrechetIdentity(networks) for _ in range(2)]
    n, d = 4000, 4
    a, b = rng.normal(size=(n, d)), 1 + 2 * rng.normal(size=(n, d))
    a[0] = np.nan  # a face that was not found
    for i in range(0, n, 500):
        pairs = given(networks, a[i : i + 500], b[i : i + 500], "embeddings")
        whole.update(pairs)
        parts[i // 500 % 2].update(pairs)
    # |1|^2 d + d (2 - 1)^2 = 8; sampling error of 4000 draws: 0.15 is three standard errors
    assert whole.value() == pytest.approx(8.0, abs=0.3)
    assert whole.failed == 1
    joined = FrechetIdentity(networks)
    for part in parts:
        joined.add(part.state())
    assert joined.value() == pytest.approx(whole.value(), abs=1e-9)  # float64, another order


def test_kid_equals_torchmetrics() -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 32)), rng.normal(size=(60, 32)) + 0.3
    oracle = KernelInceptionDistance(feature=torch.nn.Flatten(), subsets=1, subset_size=60)
    oracle.update(torch.from_numpy(y), real=True)
    oracle.update(torch.from_numpy(x), real=False)
    expected = float(oracle.compute()[0])
    assert polynomial_mmd(x, y, block=17) == pytest.approx(
        expected, rel=1e-5
    )  # its sums are float32
    networks = Networks()
    one, two = Kid(networks), Kid(networks)
    one.update(given(networks, x[:30], y[:30], "inception"))
    two.update(given(networks, x[30:], y[30:], "inception"))
    one.add(two.state())
    assert one.value() == pytest.approx(expected, rel=1e-4)


def test_kid_keeps_the_same_pictures_whatever_the_last_bits_of_their_features(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One thread and two give features that differ there; one process and two must keep the same frames."""
    monkeypatch.setattr("metrics.sets.KID_FRAMES", 8)
    rng = np.random.default_rng(0)
    networks = Networks()
    images = [rng.integers(0, 256, (4, 4, 3)).astype(np.uint8) for _ in range(40)]
    rows = rng.normal(size=(40, 16))
    kept = []
    for scale in (1.0, 1 + 1e-6):
        kid, pairs = Kid(networks), given(networks, rows * scale, rows * scale, "inception")
        pairs.pred.images = pairs.ref.images = images
        kid.update(pairs)
        kept.append(kid.state()["pred_rows"] / scale)
    assert len(kept[0]) == 8
    np.testing.assert_allclose(kept[0], kept[1], rtol=1e-5)  # float32


def test_identity_network_by_path_is_named(tmp_path: Path) -> None:
    assert "sface" in Networks().record("identity")
    metric = get_metric("csim")
    assert metric.extractors == ("identity", "landmarks")
