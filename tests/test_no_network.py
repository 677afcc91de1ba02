"""Importing any module of the project opens no network connection, compiles nothing and warns of nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "export3d",
    "dnnlib",
    "torch_utils",
    "conventions",
    "pretrained",
    "tracking",
    "dataset",
    "running",
    "training",
    "tuning",
    "inference",
    "viewer",
    "metrics",
)

# Runs in a process of its own: an audit hook cannot be taken away again.
WATCHER = """
import json, sys
COMPILERS = ("c++", "g++", "gcc", "cc", "clang++", "nvcc", "ninja", "make")
seen = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        address = arguments[-1] if event == "socket.connect" else arguments[0]
        seen.append(f"{event} {address!r}")
    elif event == "subprocess.Popen" and str(arguments[0]).rpartition("/")[2] in COMPILERS:
        seen.append(f"{event} {arguments[0]!r}")
sys.addaudithook(watch)
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps(seen))
"""


def _modules() -> list[str]:
    files = [f for p in PACKAGES for f in (ROOT / p).rglob("*.py")]
    names = [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in files]
    return sorted(n.removesuffix(".__init__") for n in names if not n.endswith("__main__"))


def test_importing_every_module_connects_to_nothing_and_compiles_nothing() -> None:
    modules = _modules()
    assert len(modules) > len(PACKAGES)
    result = subprocess.run(
        [sys.executable, "-c", WATCHER, *modules],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == []
    assert "Warning" not in result.stderr, result.stderr
