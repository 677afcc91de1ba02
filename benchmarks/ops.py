"""Time bias_act and upfirdn2d against plain torch, and store what ``impl="auto"`` rests on.

    python -m benchmarks.ops --json benchmarks/results/ops.json

Every case runs the implementations in turn, forwards and backwards through their list, in one
process; the medians are compared. ``ref`` is the specification, ``torch`` (upfirdn2d only) the best
we know to write with torch's own operators: a strided or transposed depth-wise convolution.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from torch.nn import functional

import dnnlib.cli
from benchmarks.measure import machine
from benchmarks.options import device_option, json_option
from dnnlib.errors import UserError
from dnnlib.files import write_json
from dnnlib.params import Number, Whole
from torch_utils.ops import bias_act, downsample2d, filter2d, library, setup_filter, upsample2d

Op = Callable[[Tensor], Tensor]
TAPS = (1, 3, 3, 1)

# Sizes of the networks: raw render, super-resolution, tri-plane, discriminator.
SHAPES = [(4, 3, 64, 64), (2, 16, 32, 32), (2, 64, 64, 64), (1, 64, 128, 128)]
# Cases in which rounding, not speed, is the question are left out: float64.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def torch_up(x: Tensor) -> Tensor:
    """upsample2d as a transposed depth-wise convolution (for [N, C, H, W] and four taps)."""
    f = setup_filter(TAPS, separable=False, device=x.device).to(x.dtype) * 4
    weight = f[None, None].expand(x.shape[1], 1, 4, 4).contiguous()
    return functional.conv_transpose2d(x, weight, stride=2, padding=1, groups=x.shape[1])


def torch_down(x: Tensor) -> Tensor:
    """downsample2d as a strided depth-wise convolution."""
    f = setup_filter(TAPS, separable=False, device=x.device).to(x.dtype)
    weight = f[None, None].expand(x.shape[1], 1, 4, 4).contiguous()
    return functional.conv2d(x, weight, stride=2, padding=1, groups=x.shape[1])


def implementations(name: str, fast: Any, channels: int, x: Tensor) -> dict[str, Op]:
    f = setup_filter(TAPS, device=x.device)
    if name.startswith("bias_act"):
        act = name.split("/")[1]
        b = torch.randn(channels).to(x)
        return {
            impl: lambda x, impl=impl: bias_act(x, b, act=act, impl=impl) for impl in ("ref", fast)
        }
    function = {"upsample2d": upsample2d, "downsample2d": downsample2d, "filter2d": filter2d}[name]
    ops: dict[str, Op] = {
        impl: lambda x, impl=impl: function(x, f, impl=impl) for impl in ("ref", fast)
    }
    plain = {"upsample2d": torch_up, "downsample2d": torch_down}.get(name)
    if plain and x.dtype == torch.float32:  # in bfloat16 it takes torch seconds on a CPU
        torch.testing.assert_close(plain(x), ops[fast](x), atol=0.05, rtol=0.05)  # the same thing
        ops["torch"] = plain
    return ops


def median_seconds(ops: dict[str, Op], x: Tensor, train: bool, budget_s: float) -> dict[str, float]:
    """Median time of each implementation, alternating; stops after ``budget_s`` or 41 rounds."""
    x = x.detach().requires_grad_(train)
    cotangent = torch.randn_like(next(iter(ops.values()))(x))

    # On one CPU thread that thread's own time counts, so that other programs do not matter. (The
    # backward pass of CPU tensors runs in the thread that asks for it.)
    alone = not x.is_cuda and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter

    def once(op: Op) -> float:
        if x.is_cuda:
            torch.cuda.synchronize()
        start = clock()
        y = op(x)
        if train:
            torch.autograd.grad(y, x, cotangent)
        if x.is_cuda:
            torch.cuda.synchronize()
        return clock() - start

    for op in ops.values():
        once(op)
    times: dict[str, list[float]] = {name: [] for name in ops}
    end = clock() + budget_s
    for turn in range(41):
        for name in list(ops) if turn % 2 == 0 else reversed(list(ops)):
            times[name].append(once(ops[name]))
        if turn >= 2 and clock() > end:
            break
    return {name: statistics.median(values) for name, values in times.items()}


@dnnlib.cli.command()
@device_option
@click.option("--threads", default=1, type=Whole(1, 1024), help="CPU threads.")
@click.option("--budget", default=0.25, type=Number(0, 3600), help="Seconds per case.")
@json_option
def main(device: str, threads: int, budget: float, json_path: Path | None) -> None:
    """Time bias_act and upfirdn2d against plain torch."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    kind: library.Kind = "cuda" if device == "cuda" else "cpu"
    result = library.load(kind)
    if not result.loaded:
        raise UserError(f"no {kind} operators: {result.cause}. {result.cure}")
    names = [f"bias_act/{act}" for act in ("linear", "lrelu", "swish", "softplus")]
    names += ["upsample2d", "downsample2d", "filter2d"]
    cases = []
    for name in names:
        for shape in SHAPES:
            for dtype_name, dtype in DTYPES.items():
                for layout in ("nchw", "nhwc"):
                    fmt = torch.channels_last if layout == "nhwc" else torch.contiguous_format
                    x = torch.randn(shape).to(kind, dtype).contiguous(memory_format=fmt)
                    for train in (False, True):
                        ops = implementations(name, kind, shape[1], x)
                        seconds = median_seconds(ops, x, train, budget)
                        case = {
                            "op": name,
                            "shape": list(shape),
                            "dtype": dtype_name,
                            "layout": layout,
                            "mode": "forward+backward" if train else "forward",
                            "ms": {k: round(v * 1e3, 4) for k, v in seconds.items()},
                            "ref_over_fast": round(seconds["ref"] / seconds[kind], 2),
                        }
                        if "torch" in seconds:
                            case["torch_over_fast"] = round(seconds["torch"] / seconds[kind], 2)
                        cases.append(case)
        of_op = [c["ref_over_fast"] for c in cases if c["op"] == name]
        click.echo(
            f"{name:18s} reference / {kind}: median {statistics.median(of_op):5.2f}, "
            f"worst {min(of_op):5.2f}, best {max(of_op):6.2f}  ({len(of_op)} cases)"
        )
    if json_path is not None:
        thread_time = kind == "cpu" and threads == 1
        method = "medians of alternating runs in one process; "
        method += "thread time" if thread_time else "wall time"
        write_json(json_path, {"machine": machine(device), "method": method, "cases": cases})


if __name__ == "__main__":
    main()
