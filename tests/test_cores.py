"""How many cores are ours, and that threads which wait do not take them from others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dnnlib.cores import available_cores, be_a_good_neighbour, cgroup_cores


def _group(root: Path, place: str, **files: str) -> None:
    folder = root / place
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def _limit(tmp_path: Path, own: str) -> float | None:
    (tmp_path / "own").write_text(own)
    return cgroup_cores(tmp_path, tmp_path / "own")


def test_a_container_of_version_2(tmp_path: Path) -> None:
    _group(tmp_path, "", cpu__max="150000 100000")
    assert _limit(tmp_path, "0::/\n") == 1.5


def test_the_tightest_of_nested_groups_counts(tmp_path: Path) -> None:
    _group(tmp_path, "job", cpu__max="200000 100000")
    _group(tmp_path, "job/step", cpu__max="max 100000")
    assert _limit(tmp_path, "0::/job/step\n") == 2.0


def test_a_container_of_version_1(tmp_path: Path) -> None:
    _group(tmp_path, "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert _limit(tmp_path, "3:cpu,cpuacct:/job\n") is None
    _group(tmp_path, "cpu/job", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    assert _limit(tmp_path, "3:cpu,cpuacct:/job\n2:memory:/other\n") == 0.5


@pytest.mark.parametrize("text", ["", "max", "many 100000", "100000 0", "-5 100000"])
def test_what_cannot_be_read_limits_nothing(tmp_path: Path, text: str) -> None:
    _group(tmp_path, "", cpu__max=text)
    assert _limit(tmp_path, "nonsense") is None


def test_affinity_counts() -> None:
    one = "os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])"
    code = f"import os; {one}; import dnnlib; print(dnnlib.available_cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1" and available_cores() >= 1


def test_what_the_user_has_set_stays() -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        environment = {name: "1", "OMP_NUM_THREADS": "7"}
        before = dict(environment)
        be_a_good_neighbour(environment)
        assert environment == before


@pytest.mark.parametrize(
    "script", ["gen_videos", "train", "pretrain", "calc_metrics", "dataset_tool"]
)
def test_waiting_threads_sleep_in_every_script(script: str, repo_root: Path) -> None:
    """The variable has to stand before OpenMP is loaded, which torch does."""
    code = f"""
import os, sys
class Watch:
    def find_spec(self, name, *rest):
        if name == "torch":
            assert os.environ["OMP_WAIT_POLICY"] == "passive"
sys.meta_path.insert(0, Watch())
import {script}, torch
"""
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    subprocess.run([sys.executable, "-c", code], cwd=repo_root, env=bare, check=True)
