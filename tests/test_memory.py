"""How much memory is left: the machine's, and no more than a container is given."""

from __future__ import annotations

from pathlib import Path

from dnnlib.memory import available_memory, cgroup_memory


def _left(tmp_path: Path, own: str) -> int | None:
    (tmp_path / "own").write_text(own)
    return cgroup_memory(tmp_path, tmp_path / "own")


def _group(root: Path, place: str, **files: object) -> None:
    (root / place).mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (root / place / name.replace("__", ".")).write_text(f"{value}\n")


def test_the_group_that_has_least_left_counts_and_cached_files_are_free(tmp_path: Path) -> None:
    _group(tmp_path, "job", memory__max=1000, memory__current=700, memory__stat="inactive_file 300")
    assert _left(tmp_path, "0::/job/step\n") == 600
    _group(tmp_path, "job/step", memory__max=500, memory__current=450)
    assert _left(tmp_path, "0::/job/step\n") == 50
    _group(tmp_path, "job/step", memory__max="max", memory__current=450)
    assert _left(tmp_path, "0::/job/step\n") == 600


def test_version_1_and_no_limit(tmp_path: Path) -> None:
    assert _left(tmp_path, "0::/\n") is None
    _group(tmp_path, "memory/job", memory__limit_in_bytes=1000, memory__usage_in_bytes=1200)
    assert _left(tmp_path, "5:memory:/job\n") == 0


def test_this_machine_has_some() -> None:
    left = available_memory()
    assert left is None or left > 2**20
