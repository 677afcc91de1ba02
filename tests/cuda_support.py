"""The CUDA sources without a GPU: built by the C++ compiler through csrc/cuda_shim.h, and by nvcc for real machines."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from torch_utils.ops import library

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100")


def emulated_library(path: Path, sources: tuple[str, ...], **limits: int) -> Path:
    """Build .cu files of csrc/ for the CPU as the shared library `path`; skip the test without a compiler.

    limits: EXPORT3D_<name>, made so small that small tensors reach every loop.
    """
    try:
        compiler = library.find_compiler()
    except library.BuildError as error:
        pytest.skip(error.cause)
    flags = ["-std=c++17", "-O2", "-Wall", "-Werror", "-shared", "-fPIC"]
    flags += [f"-DEXPORT3D_{name}={value}" for name, value in limits.items()]
    files = [str(library.CSRC / source) for source in sources]
    command = [*compiler.split(), *flags, "-x", "c++", *files, "-o", str(path)]
    subprocess.run(command, check=True, timeout=120)
    return path


def assert_compiles_for_every_architecture(source: str, folder: Path) -> None:
    """nvcc takes a .cu file of csrc/; skip the test without nvcc."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    release = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True)
    known = set(release.stdout.split())
    wanted = [arch for arch in ARCHITECTURES if arch in known]
    assert "sm_90" in wanted
    # One front-end pass for the oldest; the assembler, which knows the machines, runs for each.
    flags = [f"-gencode=arch=compute_{wanted[0][3:]},code=[{','.join(wanted)}]", "-t", "0"]
    target = folder / "kernels.fatbin"
    command = [nvcc, "-std=c++17", "-fatbin", *flags, "-o", str(target)]
    done = subprocess.run(
        [*command, str(library.CSRC / source)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert target.stat().st_size > 10_000
