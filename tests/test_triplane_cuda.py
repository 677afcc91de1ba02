"""The CUDA renderer: its source runs here, block by block through csrc/cuda_shim.h, and on a GPU where there is one."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import cuda_support
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from triplane_support import CASES, NAMES, Case, assert_agrees, lazy_and_full, spec

from torch_utils.ops import library
from torch_utils.ops.triplane_render import CUDA_WIDTH, RaySpec, triplane_render
from training.config import RenderConfig
from training.rendering import fused
from training.rendering.triplane import TriplaneDecoder


class Args(ctypes.Structure):
    """Mirrors csrc/triplane_render.h."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("planes", "w1", "b1", "w2", "b2")]
        + [(f"rays{i}", ctypes.c_void_p) for i in range(4)]
        + [(name, ctypes.c_void_p) for name in ("features", "depth", "opacity")]
        + [(f"cotangent{i}", ctypes.c_void_p) for i in range(3)]
        + [(f"grad{i}", ctypes.c_void_p) for i in range(7)]
        + [(name, ctypes.c_int64) for name in ("n", "planes_n", "rays", "size", "channels")]
        + [(name, ctypes.c_int64) for name in ("padded_channels", "hidden", "colours")]
        + [(name, ctypes.c_int64) for name in ("coarse", "fine", "layout")]
        + [(name, ctypes.c_float) for name in ("near", "span", "far", "box_side")]
        + [("min_weight", ctypes.c_float), ("plane_type", ctypes.c_int32)]
    )


class EmulatedRenderer:
    """What torch.ops.export3d_cuda offers for tri-planes, on CPU tensors, through the emulated kernels."""

    def __init__(self, path: Path) -> None:
        self.lib = ctypes.CDLL(str(path))
        self.lib.export3d_triplane_workspace.restype = ctypes.c_int64
        self.calls = 0

    def _run(self, args: Args, backward: bool) -> None:
        self.calls += 1
        floats = self.lib.export3d_triplane_workspace(ctypes.byref(args), int(backward))
        space = torch.full((floats + 1,), torch.nan)  # nothing may be read before it is written
        space[-1] = 7.0
        pointer = ctypes.c_void_p(space.data_ptr())
        assert (
            self.lib.export3d_triplane_cuda(ctypes.byref(args), pointer, int(backward), None) == 0
        )
        assert space[-1] == 7.0  # and nothing written behind the end

    def _arguments(
        self,
        planes: Tensor,
        decoder: list[Tensor],
        rays: list[Tensor | None],
        sizes: list[int],
        lengths: list[float],
    ) -> Args:
        args = Args()
        for name, tensor in zip(("planes", "w1", "b1", "w2", "b2"), (planes, *decoder)):
            setattr(args, name, tensor.data_ptr())
        for i, ray in enumerate(rays):
            setattr(args, f"rays{i}", None if ray is None else ray.data_ptr())
        origins, near, far = rays[0], lengths[0], lengths[1]
        assert origins is not None
        args.n, args.rays = origins.shape[:2]
        args.planes_n, args.size, args.padded_channels = planes.shape[0], *planes.shape[3:]
        args.channels, args.coarse, args.fine, args.layout = sizes
        args.hidden, args.colours = len(decoder[0]), len(decoder[2]) - 1
        args.near, args.span, args.far, args.box_side = near, far - near, far, lengths[2]
        args.min_weight = lengths[3]
        return args

    def triplane_render(self, planes: Tensor, decoder: list[Tensor], *rest: Any) -> Any:
        *rays, sizes, lengths = rest
        args = self._arguments(planes, decoder, rays, sizes, lengths)
        out = [torch.full((args.n, args.rays, k), torch.nan) for k in (args.colours, 1, 1)]
        args.features, args.depth, args.opacity = (t.data_ptr() for t in out)
        self._run(args, backward=False)
        return tuple(out)

    def triplane_render_backward(
        self, cotangents: list[Tensor], planes: Tensor, decoder: list[Tensor], *rest: Any
    ) -> list[Tensor]:
        *rays, sizes, lengths, of_rays = rest
        args = self._arguments(planes, decoder, rays, sizes, lengths)
        out = [torch.zeros_like(t) for t in (planes, *decoder)]
        if of_rays:
            out += [torch.zeros_like(t) for t in rays[:2]]
        for i, tensor in enumerate(cotangents):
            setattr(args, f"cotangent{i}", tensor.data_ptr())
        for i, tensor in enumerate(out):
            setattr(args, f"grad{i}", tensor.data_ptr())
        self._run(args, backward=True)
        return out


@pytest.fixture(scope="module")
def emulated_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shim") / "triplane.so"
    # Small images need several sweeps of the grid and several chunks.
    limits = {"MAX_BLOCKS": 2, "FORWARD_SAMPLES": 300, "BACKWARD_SAMPLES": 200}
    return cuda_support.emulated_library(path, ("triplane.cu",), **limits)


@pytest.fixture
def emulated(emulated_library: Path, monkeypatch: pytest.MonkeyPatch) -> EmulatedRenderer:
    """From here on the operator on CPU tensors runs the CUDA kernels' source."""
    renderer = EmulatedRenderer(emulated_library)
    monkeypatch.setattr(library, "namespace", lambda kind: renderer)
    monkeypatch.setattr(library, "use_library", lambda kind, explicit=False: True)
    return renderer


@pytest.mark.parametrize("name", [n for n in CASES if not n.startswith("more rays")])
def test_emulated_kernels_equal_the_reference(emulated: EmulatedRenderer, name: str) -> None:
    assert_agrees(CASES[name]())
    assert emulated.calls == 2


def test_emulated_kernels_share_one_triplane(emulated: EmulatedRenderer) -> None:
    case = Case(16, 16, 4, 8, 6, spec(8, 8), n=2)
    decoder: Any = tuple(case.weights)
    one = case.planes[:1].expand(2, -1, -1, -1, -1)
    shared = triplane_render(one, decoder, case.origins, case.directions, case.spec)
    copies = triplane_render(one.clone(), decoder, case.origins, case.directions, case.spec)
    assert all(torch.equal(a, b) for a, b in zip(shared, copies, strict=True))


def test_emulated_kernels_leave_faint_colours_out(emulated: EmulatedRenderer) -> None:
    case = Case(32, 64, 32, 32, 6, spec(24, 24), density=30.0)
    features, *others = lazy_and_full(case, 1e-3)
    assert all(torch.equal(full, lazy) for full, lazy in others)
    lost = (features[0] - features[1]).abs().max()
    assert 0 < lost < 0.1  # a tenth of the weight, colours that differ by less than 1


def test_too_many_channels_are_an_error_not_a_picture(emulated: EmulatedRenderer) -> None:
    case = Case(80, 4, 2, 4, 2, spec(4, 0))
    decoder: Any = tuple(case.weights)
    with pytest.raises(AssertionError):  # the binding raises; the emulation asserts the code 0
        triplane_render(case.planes, decoder, case.origins, case.directions, case.spec)


@pytest.mark.parametrize(("channels", "colours"), [(65, 3), (8, 65)])
def test_auto_leaves_what_is_too_wide_for_the_kernels_to_the_reference(
    monkeypatch: pytest.MonkeyPatch, channels: int, colours: int
) -> None:
    monkeypatch.setattr(library, "use_library", lambda kind, explicit=False: True)
    with FakeTensorMode(), torch.device("cuda"):  # devices without numbers: no GPU is needed
        rays = torch.empty(1, 4, 3), torch.empty(1, 4, 3)

        def takes_operator(c: int, f: int) -> bool:
            planes, decoder = torch.empty(1, 3, c, 4, 4), TriplaneDecoder(c, 4, f)
            return fused._takes_operator(planes, decoder, *rays, RenderConfig())

        assert takes_operator(CUDA_WIDTH, CUDA_WIDTH) and not takes_operator(channels, colours)
        layers = [torch.nn.Linear(channels, 4), torch.nn.Linear(4, 1 + colours)]
        decoder: Any = tuple(t for layer in layers for t in (layer.weight, layer.bias))
        with pytest.raises(ValueError, match=r"more than the 64 .* set render\.impl=ref"):
            triplane_render(torch.empty(1, 3, channels, 4, 4), decoder, *rays, spec(4, 0))


def test_the_python_side_knows_the_widest_kernel() -> None:
    source = (library.CSRC / "triplane_sample.h").read_text()
    assert f"constexpr int kMaxWidth = {CUDA_WIDTH};" in source


def test_compiles_for_every_architecture(tmp_path: Path) -> None:
    cuda_support.assert_compiles_for_every_architecture("triplane.cu", tmp_path)


# ---- on a GPU -----------------------------------------------------------------------------------


@pytest.mark.cuda
def test_gpu_equals_reference() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if not library.use_library("cuda", explicit=True):
        pytest.fail(f"the CUDA operators do not build: {library.load('cuda').cause}")
    for make in CASES.values():
        case = make()
        want = case.reference()
        leaves = [t.detach().cuda().requires_grad_() for t in case.leaves(torch.float32)]
        decoder: Any = tuple(leaves[1:5])
        noise: Any = None if case.noise is None else tuple(t.cuda() for t in case.noise)
        out = triplane_render(leaves[0], decoder, leaves[5], leaves[6], case.spec, noise)
        case.cotangents = [c.cuda() for c in case.cotangents]
        for what, got, ref in zip(NAMES, case.with_gradients(out, leaves), want, strict=True):
            error = (got.cpu().double() - ref).norm() / (ref.norm() + 1e-20)
            assert error < 1e-4, (what, float(error))  # float32, CUDA's exponential


def test_the_python_side_names_the_layouts_in_the_kernels_order() -> None:
    source = (library.CSRC / "triplane_render.h").read_text()
    assert "layout 0: xyz, 1: eg3d_legacy" in source
    assert RaySpec.__dataclass_fields__["layout"].default == "xyz"
