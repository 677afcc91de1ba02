"""Seconds and bytes, measured the same way by every benchmark: alternating runs, medians, peak of the process."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Run = Callable[[], Any]


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What the numbers were measured on; device: where the benchmark ran, whatever else is in the machine."""
    model = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        rows = [r for r in info.read_text().splitlines() if r.startswith("model name")]
        model = rows[0].partition(":")[2].strip() if rows else ""
    return {
        "cpu": model or platform.processor(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),  # programs that wanted a core in the last minute
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if _is_cuda(device) else "cpu",
    }


def alternate(runs: dict[str, Run], repeats: int, warm_up: bool = True) -> dict[str, float]:
    """Median seconds of each run; they take turns, forwards and backwards through the list."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    if warm_up:
        for run in runs.values():
            run()
    for turn in range(repeats):
        for name in list(runs) if turn % 2 == 0 else reversed(list(runs)):
            _wait()
            start = time.perf_counter()
            runs[name]()
            _wait()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_bytes(run: Run, device: torch.device | str = "cpu") -> int:
    """Bytes that the process (on CUDA: the device) grew by at most while `run` was running; 0 where unknown.

    device: where `run` runs; a CPU benchmark takes nothing of the GPU beside it.
    """
    gc.collect()
    if _is_cuda(device):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed earlier must not hide what is taken now
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _status_kib("VmRSS")
        run()
        return max(0, _status_kib("VmHWM") - before) * 1024
    except (OSError, AttributeError):
        return 0


def _status_kib(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise OSError(f"no {key}")


def matmul_flops(
    size: int = 1536,
    repeats: int = 7,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> float:
    """Floating point operations a second of torch's matrix product: the ceiling of arithmetic."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / alternate({"matmul": lambda: a @ b}, repeats)["matmul"]


def read_bytes_per_second(mib: int, repeats: int = 9) -> float:
    """Bytes a second at which a sum reads an array of so many MiB."""
    x = torch.ones(mib << 18)
    return x.numel() * 4 / alternate({"sum": x.sum}, repeats)["sum"]


def _is_cuda(device: torch.device | str) -> bool:
    return torch.device(device).type == "cuda"


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
