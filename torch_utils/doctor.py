"""Say what this machine has, what was built, what failed and the cure: python -m torch_utils.doctor

Exit code 0 if everything that this machine can run is there, 1 if something is broken. A missing
GPU or a missing optional package is not broken. Also builds the operators, if they are not built.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from dnnlib.cores import available_cores
from torch_utils.ops import compiler, library

State = Literal["ok", "none", "broken"]

# distribution name -> what it is for; the first group has to be there.
REQUIRED = {
    "torch": "everything",
    "torchvision": "backbones of the losses",
    "numpy": "everything",
    "scipy": "metrics, smoothing",
    "click": "the command line",
    "pillow": "reading and writing images",
    "safetensors": "checkpoints",
    "pyyaml": "configs/",
    "ninja": "building the operators",
}
OPTIONAL = {
    "av": "reading and writing videos",
    "imageio": "writing images and videos",
    "tensorboard": "training curves",
    "ai-edge-litert": "tracking real photos and videos",
    "anny": "synthetic heads",
    "embreex": "rasterising synthetic heads",
    "stlpips-pytorch": "the perceptual loss without VGG weights",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    topic: str
    text: str
    state: State = "ok"
    cure: str = ""


def _first_line(command: list[str], containing: str = "") -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run: {error}"
    lines = [line for line in done.stdout.splitlines() if containing in line]
    return lines[0].strip() if lines else f"exit code {done.returncode}"


def _cpu_features() -> str:
    interesting = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512_bf16", "amx_tile")
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "unknown"
    flags: set[str] = set()
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            flags = set(line.partition(":")[2].split())
            break
    found = [name for name in interesting if name in flags]
    return " ".join(found) or "none of the x86 vector extensions"


def toolchain() -> Iterator[Finding]:
    """Python, torch, processor, compilers, CUDA."""
    version = platform.python_version()
    old = sys.version_info < (3, 11)
    yield Finding(
        "python",
        f"{version} ({sys.executable})",
        "broken" if old else "ok",
        "Python 3.11 or newer is needed" if old else "",
    )
    yield Finding("system", platform.platform())
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    yield Finding("torch", f"{torch.__version__} ({cuda}), {torch.get_num_threads()} threads")
    yield Finding(
        "processor", f"{os.cpu_count()} cores, {available_cores()} of them ours; {_cpu_features()}"
    )
    try:
        name = compiler.find_compiler()
        flags = " ".join(compiler.supported_flags(name))
        yield Finding("compiler", f"{_first_line([*name.split(), '--version'])}; {flags}")
    except compiler.BuildError as error:
        yield Finding("compiler", error.cause, "none", error.cure)
    nvcc = shutil.which("nvcc")
    yield (
        Finding("nvcc", f"{_first_line([nvcc, '--version'], 'release')} ({nvcc})")
        if nvcc
        else Finding("nvcc", "not found; only needed to build the CUDA operators", "none")
    )
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            memory_gib = device.total_memory / 2**30
            text = f"{device.name}, sm_{device.major}{device.minor}, {memory_gib:.0f} GiB"
            yield Finding(f"gpu {index}", text)
    else:
        yield Finding("gpu", "torch sees none; everything runs on the CPU", "none")


def operators() -> Iterator[Finding]:
    """Build or find each library that this machine can use, and run one number through it."""
    try:
        yield Finding("cache", str(library.cache_folder()))
    except compiler.BuildError as error:
        yield Finding("cache", error.cause, "broken", error.cure)
    kinds: list[library.Kind] = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for kind in kinds:
        result = library.load(kind)
        topic = f"{kind} operators"
        if not result.loaded:
            state: State = "none" if result.asked_for else "broken"
            # Here the reader already is where other messages send them for the rest.
            cure = (
                result.cure
                if not result.detail
                else f"mend what the compiler says:\n{result.detail}"
            )
            yield Finding(topic, f"not available: {result.cause}", state, cure)
            continue
        from torch_utils.ops import bias_act  # here: what fails is reported

        try:
            x = torch.tensor([-1.0, 2.0], device=kind)
            got = bias_act(x, dim=0, act="relu", gain=3.0, impl=kind).tolist()
            got += _ray_through_nothing(kind)
        except RuntimeError as error:  # built for another device, or a driver that is too old
            text = f"do not run: {compiler.first_cause(error)}"
            yield Finding(topic, text, "broken", _cure_of_a_library(kind, result.path))
            continue
        how = f"built in {result.seconds:.1f} s" if result.seconds else "found built"
        if got == [0.0, 6.0, 4.0]:
            yield Finding(topic, f"{how}, {result.path}")
        else:
            cure = _cure_of_a_library(kind, result.path)
            yield Finding(topic, f"give {got} for [0.0, 6.0, 4.0]", "broken", cure)


def _cure_of_a_library(kind: library.Kind, path: Path | None) -> str:
    cure = f"Delete {path} and run this again"
    if kind == "cuda":
        cure += "; TORCH_CUDA_ARCH_LIST, if it is set, has to name this GPU's number"
    return cure


def _ray_through_nothing(device: str) -> list[float]:
    """[4.0]: the depth of a ray that hits nothing is the far end."""
    from torch_utils.ops.triplane_render import (  # here: what fails is reported
        RaySpec,
        triplane_render,
    )

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, device=device)

    nothing = zeros(2) - 1e4  # of density
    decoder = (zeros(2, 2), zeros(2), zeros(2, 2), nothing)
    rays = zeros(1, 1, 3), torch.eye(3, device=device)[None, :1]
    depth = triplane_render(zeros(1, 3, 2, 4, 4), decoder, *rays, RaySpec(1.0, 4.0, 3, 2))[1]
    return [round(float(depth), 4)]


def packages() -> Iterator[Finding]:
    """Third-party packages: version, or what does not work without it."""
    for names, needed in ((REQUIRED, True), (OPTIONAL, False)):
        for name, purpose in names.items():
            try:
                yield Finding(name, importlib.metadata.version(name))
            except importlib.metadata.PackageNotFoundError:
                text = f"not installed ({purpose})"
                yield Finding(name, text, "broken" if needed else "none", f"pip install {name}")


def main(words: Sequence[str] = ()) -> int:
    """Print the report; 1 if anything is broken. Uses no click, which may be what is missing."""
    if words:
        print(f"Error: the doctor takes no options; leave out {words[0]}", file=sys.stderr)
        return 2
    marks = {"ok": "ok  ", "none": "--  ", "broken": "FAIL"}
    broken = 0
    for title, findings in (
        ("Toolchain", toolchain()),
        ("Operators", operators()),
        ("Packages", packages()),
    ):
        print(title)
        for finding in findings:
            broken += finding.state == "broken"
            print(f"  {marks[finding.state]} {finding.topic:<16} {finding.text}")
            if finding.cure:
                print(f"       {'':<16} cure: {finding.cure}")
    print("Everything this machine can run is there." if not broken else f"{broken} broken.")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
