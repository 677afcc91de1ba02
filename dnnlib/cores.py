"""The cores that this process may use, and how threads wait for each other beside other programs.

Imported by `dnnlib` and so before torch, whose OpenMP reads these variables when it is loaded.
"""

from __future__ import annotations

import math
import os
from collections.abc import MutableMapping
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
_MOUNTS = {"cpu": ("cpu", "cpu,cpuacct"), "memory": ("memory",)}


def available_cores() -> int:
    """Cores that this process may use: its affinity, and the share that its cgroup (a container, a job) is given."""
    cores = _affinity()
    quota = cgroup_cores()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cgroup_cores(root: Path = CGROUP, own: Path = OWN_CGROUP) -> float | None:
    """The least share of cores that the process' cgroup and those around it are given; None where none is set."""
    quotas = []
    for folder in cgroup_folders("cpu", root, own):
        try:
            if (folder / "cpu.max").is_file():  # version 2: "200000 100000" or "max 100000"
                quota, period = (folder / "cpu.max").read_text().split()[:2]
            else:
                quota = (folder / "cpu.cfs_quota_us").read_text().strip()  # version 1: -1 for none
                period = (folder / "cpu.cfs_period_us").read_text().strip()
            if quota != "max" and int(quota) > 0 and int(period) > 0:
                quotas.append(int(quota) / int(period))
        except (OSError, ValueError):
            continue
    return min(quotas, default=None)


def cgroup_folders(
    controller: str,  # "cpu", "memory"
    root: Path = CGROUP,
    own: Path = OWN_CGROUP,
) -> list[Path]:
    """Where a limit may stand: the process' own group and those above it, of both versions of cgroups."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    mounts = [root / name for name in _MOUNTS[controller]]  # of version 1
    found = [root, *mounts]
    for line in lines:
        _, controllers, path = ([*line.split(":", 2), "", ""])[:3]
        if controllers and controller not in controllers.split(","):
            continue
        parts = [p for p in path.split("/") if p not in ("", "..")]
        for base in mounts if controllers else (root,):
            found += [base.joinpath(*parts[:n]) for n in range(1, len(parts) + 1)]
    return found


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def be_a_good_neighbour(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let waiting threads sleep, and start no more of them than there are cores; what the user has set stays.

    At each barrier OpenMP's threads spin until the last one is there. Beside another busy program that one waits for a
    core which a spinning thread holds, and a frame takes ten times as long.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(environment):
        environment["OMP_WAIT_POLICY"] = "passive"
    if "OMP_NUM_THREADS" not in environment and available_cores() < _affinity():
        environment["OMP_NUM_THREADS"] = str(
            available_cores()
        )  # OpenMP knows affinity, not cgroups


be_a_good_neighbour()
