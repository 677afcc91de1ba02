"""The memory that this process may still take."""

from __future__ import annotations

from pathlib import Path

from dnnlib.cores import CGROUP, OWN_CGROUP, cgroup_folders

_INFO = Path("/proc/meminfo")
_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def available_memory() -> int | None:
    """Bytes: what the machine has left, and no more than its cgroup (a container, a job) is given. None: not known."""
    lines = _INFO.read_text().splitlines() if _INFO.is_file() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    left = cgroup_memory()
    return min([*found, *([] if left is None else [left])], default=None)


def cgroup_memory(root: Path = CGROUP, own: Path = OWN_CGROUP) -> int | None:
    """Bytes that the process' cgroup and those around it have left at least; None where no limit is set.

    Files that are only cached count as free: the kernel lets go of them first.
    """
    found = []
    for folder in cgroup_folders("memory", root, own):
        for most, used in _FILES:
            try:
                limit = int((folder / most).read_text())  # "max": no number, no limit
                taken = int((folder / used).read_text()) - _cached(folder)
            except (OSError, ValueError):
                continue
            found.append(max(0, limit - max(0, taken)))
    return min(found, default=None)


def _cached(folder: Path) -> int:
    stat = folder / "memory.stat"
    for line in stat.read_text().splitlines() if stat.is_file() else ():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0
