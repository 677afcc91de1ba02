"""The C++ compiler and its flags, and what its output says when a build fails."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

# NaN has to survive and sums keep their order: no -ffast-math. Errno and trapping mode are
# nobody's business here, and only without them do comparisons and roundings vectorise.
REQUIRED_FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math")
# -fopenmp only when compiling, not when linking: its symbols are then found in the OpenMP library
# that torch itself brought, and there is one pool of threads instead of two.
OPTIONAL_FLAGS = ("-march=native", "-fopenmp")


class BuildError(Exception):
    """A library cannot be had; ``cure`` says what would help."""

    def __init__(self, cause: str, cure: str, detail: str = "") -> None:
        super().__init__(cause)
        self.detail = detail  # all that the compiler said
        self.cause = cause
        self.cure = cure


def find_compiler() -> str:
    """The C++ compiler: $CXX, c++, g++ or clang++.

    Raises:
        BuildError: there is none.
    """
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")):
        if shutil.which(name.split()[0]):
            return name
    raise BuildError("no C++ compiler was found", "Install g++ (apt install g++) or set CXX")


def supported_flags(compiler: str) -> list[str]:
    """The flags to compile with: the required ones, and those optional ones the compiler takes."""
    flags = list(REQUIRED_FLAGS)
    for flag in OPTIONAL_FLAGS:
        command = [*compiler.split(), flag, "-x", "c++", "-fsyntax-only", "-"]
        try:
            trial = subprocess.run(command, input=b"", capture_output=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if trial.returncode == 0:
            flags.append(flag)
    return flags


def put_ninja_on_path() -> None:
    """The ninja of the ninja package, for interpreters started without activating their venv."""
    if shutil.which("ninja"):
        return
    try:
        import ninja  # here: an extra package
    except ImportError:
        raise BuildError("ninja was not found", "Install it: pip install ninja") from None
    os.environ["PATH"] = f"{ninja.BIN_DIR}{os.pathsep}{os.environ.get('PATH', '')}"


def find_cuda_home() -> None:
    """Help torch where nvcc on the PATH is a link or a script: the headers are elsewhere."""
    nvcc = shutil.which("nvcc")
    if nvcc and not {"CUDA_HOME", "CUDA_PATH"} & os.environ.keys():
        for home in (Path(nvcc).resolve().parent.parent, Path("/usr/local/cuda")):
            if (home / "include" / "cuda_runtime.h").is_file():
                os.environ["CUDA_HOME"] = str(home)
                return


def first_cause(error: BaseException) -> str:
    """The one line of a build's output that says what is wrong."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    text = "\n".join(str(link) for link in chain)
    for pattern in (r"^.*\b(?:fatal )?error: .*$", r"^.*(?:not found|cannot find|No such).*$"):
        if match := re.search(pattern, text, flags=re.MULTILINE):
            return match.group(0).strip()
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
