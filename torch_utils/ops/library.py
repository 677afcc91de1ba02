"""Builds and loads the C++ and CUDA libraries behind the operators.

Nothing happens at import. On first use a library is compiled with
:mod:`torch.utils.cpp_extension` and ninja into a folder named after everything that shapes it
(sources, torch version, flags, processor), and found there by every later process. A build that
fails is reported once, as a warning with its cause, and the operators go on with their torch
reference.

Ahead of time: ``python -m torch_utils.ops.build [cpu] [cuda]``.

Environment:
    EXPORT3D_CACHE         folder of the built libraries; default ``~/.cache/export3d``
    EXPORT3D_NO_BUILD=1    never compile; libraries built earlier are still used
    EXPORT3D_BUILD_WAIT_S  seconds to wait for another process's build, default 300
    CXX, CUDA_HOME, TORCH_CUDA_ARCH_LIST  as in torch.utils.cpp_extension; set the first and the last alike
                           where a library is built and where it is used: they are in its folder's name
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from torch_utils.ops.compiler import (
    OPTIONAL_FLAGS,
    REQUIRED_FLAGS,
    BuildError,
    find_compiler,
    find_cuda_home,
    first_cause,
    put_ninja_on_path,
    supported_flags,
)
from torch_utils.ops.fakes import register_fakes

try:
    import fcntl
except ImportError:  # not a POSIX system: two processes may build at once, which is only slower
    fcntl = None  # type: ignore[assignment]

Kind = Literal["cpu", "cuda"]

CSRC = Path(__file__).parent / "csrc"
SOURCES: dict[Kind, tuple[str, ...]] = {
    "cpu": (
        "binding.cpp",
        "bias_act_cpu.cpp",
        "upfirdn2d_cpu.cpp",
        "triplane_binding.cpp",
        "triplane_cpu.cpp",
        "triplane_parts_cpu.cpp",
    ),
    "cuda": ("binding.cpp", "bias_act.cu", "upfirdn2d.cu", "triplane_binding.cpp", "triplane.cu"),
}
CUDA_FLAGS = ("-O3",)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildResult:
    """What became of one library in this process."""

    kind: Kind
    path: Path | None  # None: not available
    seconds: float  # time to compile; 0 if it was found built
    cause: str = ""
    cure: str = ""
    detail: str = ""
    asked_for: bool = False  # unavailable because of EXPORT3D_NO_BUILD

    @property
    def loaded(self) -> bool:
        return self.path is not None


_results: dict[Kind, BuildResult] = {}
_warned: set[Kind] = set()
_references_only = False
_mutex = threading.RLock()


# ------------------------------------------------------------------------------------------------
# What the operators call


def use_library(kind: Kind, *, explicit: bool = False) -> bool:
    """True if the library is loaded, building it if need be; else warn once and return False.

    Args:
        explicit: the caller asked for this very implementation, so that even an absence the user
            wished for (EXPORT3D_NO_BUILD) is worth a warning.
    """
    if _references_only and not explicit:
        return False
    result = _results.get(kind) or load(kind)
    if not result.loaded and kind not in _warned and (explicit or not result.asked_for):
        _warned.add(kind)
        warnings.warn(
            f"The {kind} operators are not available, the torch reference is used instead: "
            f"{result.cause}. {result.cure}",
            RuntimeWarning,
            stacklevel=3,
        )
    return result.loaded


@contextlib.contextmanager
def references_only() -> Iterator[None]:
    """While the block runs, `impl="auto"` takes the plain torch references of all operators: for comparisons."""
    global _references_only
    before, _references_only = _references_only, True
    try:
        yield
    finally:
        _references_only = before


def namespace(kind: Kind) -> Any:
    """``torch.ops.export3d_cpu`` or ``torch.ops.export3d_cuda``; only after use_library."""
    return getattr(torch.ops, f"export3d_{kind}")


def load(kind: Kind) -> BuildResult:
    """Load the library once per process, compiling it if the cache does not hold it."""
    with _mutex:
        if kind not in _results:
            start = time.perf_counter()
            try:
                path, compiled = _load_or_build(kind)
                register_fakes(kind)
                seconds = time.perf_counter() - start if compiled else 0.0
                _results[kind] = BuildResult(kind, path, seconds)
            except BuildError as error:
                _results[kind] = BuildResult(
                    kind,
                    None,
                    0.0,
                    error.cause,
                    error.cure,
                    error.detail,
                    asked_for=_building_forbidden(),
                )
        return _results[kind]


# ------------------------------------------------------------------------------------------------
# The cache


def cache_folder() -> Path:
    """Where libraries of all kinds and versions live.

    Raises:
        BuildError: there is no home folder to put it in.
    """
    chosen = os.environ.get("EXPORT3D_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "export3d"
    try:
        return (Path(chosen) if chosen else base).expanduser()
    except RuntimeError as error:  # no HOME, and a user whom the system does not know
        raise BuildError(
            "there is no home folder to keep the library in",
            "Set EXPORT3D_CACHE to a folder that can be written",
        ) from error


def library_path(kind: Kind) -> Path:
    """The library's file: sources, torch, flags, processor and C library are hashed into it.

    Nothing of the running kernel: an image is built on one machine and used on another.

    Raises:
        BuildError: the sources cannot be read, or there is no folder for libraries.
    """
    digest = hashlib.sha256()
    try:
        for source in sorted(CSRC.iterdir()):
            if source.suffix in {".h", ".cpp", ".cu"}:
                digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    except OSError as error:
        raise BuildError(
            f"the sources in {CSRC} cannot be read ({error.strerror or error})",
            "Install the package again, or make the folder readable",
        ) from error
    facts = [kind, torch.__version__, platform.system(), platform.machine(), *platform.libc_ver()]
    facts += [_processor(), os.environ.get("CXX", ""), *REQUIRED_FLAGS, *OPTIONAL_FLAGS]
    if kind == "cuda":
        # what nvcc compiles for: the list, which needs no GPU, or the devices that are here
        facts += [*CUDA_FLAGS, os.environ.get("TORCH_CUDA_ARCH_LIST") or _device_names()]
    digest.update("\n".join(facts).encode())
    return cache_folder() / "ops" / digest.hexdigest()[:16] / f"export3d_{kind}.so"


def _processor() -> str:
    """What -march=native depends on: a home folder may be shared by different machines."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return " ".join(sorted(line.partition(":")[2].split()))
    return platform.processor()


def _device_names() -> str:
    if not torch.cuda.is_available():
        return ""
    names = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    return str(sorted(names))


def _building_forbidden() -> bool:
    return os.environ.get("EXPORT3D_NO_BUILD", "0") not in {"", "0"}


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Wait for another process that builds the same library, but not for ever.

    The lock dies with its owner, so a killed build leaves nothing behind. If the owner hangs, we go
    ahead after EXPORT3D_BUILD_WAIT_S: builds happen in private folders and the result is moved
    into place in one step, so the lock saves work and correctness does not rest on it.
    """
    if fcntl is None:
        yield
        return
    deadline = time.monotonic() + _wait_seconds()
    with open(folder / "build.lock", "a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # held by another process
                if time.monotonic() >= deadline:
                    _log.warning("not waiting any longer for the build in %s", folder)
                    break
                time.sleep(0.1)
            except OSError as error:  # a file system without locks: waiting would bring nothing
                _log.info("%s cannot be locked (%s); building without", folder, error)
                break
        yield  # closing the file releases the lock


def _wait_seconds() -> float:
    text = os.environ.get("EXPORT3D_BUILD_WAIT_S") or "300"
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:  # nor NaN
        raise BuildError(
            f"EXPORT3D_BUILD_WAIT_S={text!r} is not a number of seconds",
            "Set it to one, such as 300",
        )
    return seconds


def _load_or_build(kind: Kind) -> tuple[Path, bool]:
    """The loaded library's path, and whether it was compiled just now."""
    path = library_path(kind)
    if _load_existing(path):
        return path, False
    if _building_forbidden():
        raise BuildError(
            "EXPORT3D_NO_BUILD is set and no built library was found",
            "Unset it, or run python -m torch_utils.ops.build",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _turn(path.parent):
            if _load_existing(path):  # another process built it while we waited
                return path, False
            with tempfile.TemporaryDirectory(prefix="build-", dir=path.parent) as folder:
                os.replace(_compile(kind, Path(folder)), path)
    except OSError as error:
        raise BuildError(
            f"{path.parent} cannot be written ({error.strerror or error})",
            "Set EXPORT3D_CACHE to a folder that can",
        ) from error
    return path, True


def _load_existing(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        torch.ops.load_library(str(path))
    except (OSError, RuntimeError) as error:
        _log.warning("%s cannot be loaded (%s); building it again", path, error)
        return False
    return True


def _compile(kind: Kind, folder: Path) -> Path:
    """Compile in ``folder``, load the library into this process, and return its path there."""
    compiler = find_compiler()
    put_ninja_on_path()
    find_cuda_home()
    torch_log = logging.getLogger("torch.utils.cpp_extension")
    level = torch_log.level
    torch_log.setLevel(logging.ERROR)  # it remarks on the missing GPU even in a CPU build
    try:
        # here: it imports setuptools, and is not needed unless we build
        from torch.utils import cpp_extension
    finally:
        torch_log.setLevel(level)

    if kind == "cuda" and cpp_extension.CUDA_HOME is None:
        raise BuildError("nvcc was not found", "Install the CUDA toolkit or set CUDA_HOME")
    _log.info("building the %s operators (once; %s)", kind, library_path(kind).parent)
    flags = supported_flags(compiler) + (["-DEXPORT3D_CUDA"] if kind == "cuda" else [])
    unset = "CXX" not in os.environ
    os.environ["CXX"] = compiler  # torch looks for $CXX, then for c++ only
    try:
        cpp_extension.load(
            name=f"export3d_{kind}",
            sources=[str(CSRC / source) for source in SOURCES[kind]],
            extra_cflags=flags,
            extra_cuda_cflags=list(CUDA_FLAGS),
            build_directory=str(folder),
            is_python_module=False,
            with_cuda=kind == "cuda",
        )
    except Exception as error:  # whatever went wrong in there, the reference still works
        cure = "Run python -m torch_utils.doctor for the toolchain and the whole message"
        raise BuildError(f"the build failed ({first_cause(error)})", cure, str(error)) from error
    finally:
        if unset:  # it is in the key: the next library's folder needs its run-time name
            del os.environ["CXX"]
    return next(folder.glob("*.so"))
