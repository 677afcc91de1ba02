"""The operators under torch.compile: what torch is told about their results is true, and no graph ends at one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training_support import make_dataset, tiny, trainer
from triplane_support import Case, spec

from benchmarks.frame import random_network
from conventions.cameras import camera_label
from torch_utils.ops import bias_act, library, setup_filter, upfirdn2d
from torch_utils.ops.bias_act import ACTIVATIONS


@pytest.fixture(scope="module", autouse=True)
def _cpu_library() -> None:
    if not library.use_library("cpu", explicit=True):
        pytest.skip(f"no CPU operators: {library.load('cpu').cause}")


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def graph_breaks() -> dict[str, int]:
    return dict(torch._dynamo.utils.counters["graph_break"])


def assert_fake_is_true(name: str, *args: Any) -> None:
    """The fake's shapes, types and strides are those of the kernel."""
    operator = getattr(library.namespace("cpu"), name)
    torch.library.opcheck(operator.default, args, test_utils=("test_schema", "test_faketensor"))


LAYOUTS: dict[str, Callable[..., Tensor]] = {
    "contiguous": lambda *shape: torch.randn(*shape),
    "channels_last": lambda *shape: torch.randn(*shape).to(memory_format=torch.channels_last),
    "half": lambda *shape: torch.randn(*shape).half(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("order", [0, 1, 2])
def test_fake_of_bias_act(layout: str, order: int) -> None:
    x, g, h = (LAYOUTS[layout](2, 5, 3, 4) for _ in range(3))
    grads = (g if order > 0 else None, h if order > 1 else None)
    code = ACTIVATIONS["swish"].code
    assert_fake_is_true("bias_act", x, x[0, :, 0, 0].clone(), *grads, order, 1, code, 0.0, 1.0, 1.0)


def test_fake_of_bias_act_in_place() -> None:
    """Compiled or not, the result is in the caller's tensor."""

    def run(x: Tensor) -> Tensor:
        return bias_act(x, None, act="relu", gain=2.0, impl="cpu", overwrite=True) + 1

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 9, 4, 6)
    want = 2 * x.clamp(min=0)
    assert torch.equal(compiled(x), want + 1) and torch.equal(x, want)
    torch.library.opcheck(torch.ops.export3d_cpu.bias_act_, (x, None, 0, 1, 0.0, 1.0, -1.0))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 9, 4, 6), (1, 1, 4, 6), (2, 9, 1, 1), (0, 9, 4, 6)])
def test_fake_of_upfirdn2d(layout: str, shape: tuple[int, ...]) -> None:
    factors = [2, 2, 1, 1, 2, 2]
    assert_fake_is_true(
        "upfirdn2d", LAYOUTS[layout](*shape), torch.ones(4), [9, 11], factors, False, 4.0
    )


@pytest.mark.parametrize("side", [3, 0])
def test_fakes_of_triplane_render(side: int) -> None:
    case = Case(16, 8, 5, 6, max(side, 1), spec(4, 3), 2, True)
    rays = [t[:, : side**2].contiguous() for t in (case.origins, case.directions)]
    noise = [t[:, : side**2].contiguous() for t in case.noise or ()]
    packed = case.planes.permute(0, 1, 3, 4, 2).contiguous()
    rest = (packed, case.weights, *rays, *noise, [16, 4, 3, 0], [2.25, 3.3, 1.0, 0.0])
    assert_fake_is_true("triplane_render", *rest)
    cotangents = [torch.randn(2, side**2, k) for k in (5, 1, 1)]
    for of_rays in (False, True):
        assert_fake_is_true("triplane_render_backward", cotangents, *rest, of_rays)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_compiled_operators(memory: torch.memory_format) -> None:
    taps = setup_filter((1, 3, 3, 1))

    def run(x: Tensor, b: Tensor) -> Tensor:
        x = bias_act(x, b, act="lrelu", clamp=1.0, impl="cpu")
        return upfirdn2d(x, taps, up=2, padding=2, impl="cpu").square().sum()

    x = torch.randn(2, 9, 4, 6).to(memory_format=memory).requires_grad_()
    b = torch.randn(9, requires_grad=True)
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    got = torch.autograd.grad(compiled(x, b), (x, b))
    want = torch.autograd.grad(run(x, b), (x, b))
    assert all(torch.equal(p, q) for p, q in zip(got, want, strict=True))


def test_a_compiled_frame_is_three_whole_graphs() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def counting(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    network = random_network("tiny")
    crop = np.full((network.resolution, network.resolution, 3), 90, dtype=np.uint8)
    beta = np.full(network.space.dim, 0.5, dtype=np.float32)

    def frame() -> np.ndarray:
        planes = network.planes(network.encode(crop, None, None), beta)
        return network.render(planes, camera_label(0.1, 0.0)).image

    plain = frame()
    model = network.model
    for part in (model.vit, model.plane_head, model.superresolution):
        part.compile(backend=counting, dynamic=False)
    assert np.array_equal(frame(), plain) and np.array_equal(frame(), plain)
    assert len(graphs) == 3 and not graph_breaks()


def test_a_compiled_training_step_is_the_eager_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(tmp_path / "data")
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda run, **options: compile_(run, backend="aot_eager", **options)
    )
    monkeypatch.setattr(library, "_results", {})  # the trainer loads it: a build would end a graph
    plain = trainer(tiny(dataset), tmp_path / "plain")
    compiled = trainer(tiny(dataset, "train.compile=true"), tmp_path / "compiled")
    batch = next(iter(plain.batches()))
    got = compiled.train_step(batch)
    breaks, graphs = graph_breaks(), torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert not breaks and graphs == 1
    want = plain.train_step(batch)
    assert got == pytest.approx(want, rel=1e-5)  # float32 sums in another order
    for (name, p), q in zip(
        plain.model.named_parameters(), compiled.model.parameters(), strict=True
    ):
        torch.testing.assert_close(q, p, atol=1e-5, rtol=0, msg=name)
