"""What all tests share: seeds, one thread, the optional real data, scripts run as a user runs them, honest skips."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

REPO_ROOT = Path(__file__).resolve().parents[1]
if str(REPO_ROOT) not in sys.path:
    sys.path.insert(0, str(REPO_ROOT))

torch.set_num_threads(1)
hypothesis.settings.register_profile("project", deadline=None)  # no test asserts seconds
hypothesis.settings.load_profile("project")


@pytest.fixture(autouse=True)
def _seeds() -> Iterator[None]:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield


@pytest.fixture(scope="session")
def repo_root() -> Path:
    return REPO_ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real photos, clips and optional models beside the checkout; the test skips where it is absent."""
    path = REPO_ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("needs ../shared/data")
    return path


Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def cli() -> Cli:
    """`cli("train.py", "--dry-run", env={...}, cwd=..., timeout=...)` runs a script of the checkout as a user would.

    Returns the `CompletedProcess` with `returncode`, `stdout` and `stderr` as text; it does not raise on failure.
    """

    def run(
        script: str,
        *arguments: object,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 300.0,  # seconds
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            **(env or {}),
        }
        command = [sys.executable, str(REPO_ROOT / script), *map(str, arguments)]
        return subprocess.run(
            command,
            cwd=cwd or REPO_ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


# ---- skips are counted -------------------------------------------------------------------------------------------


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    no_cuda = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(no_cuda)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason.removeprefix("Skipped: ")] += 1
    if reasons:
        counts = "; ".join(f"{n} x {reason}" for reason, n in reasons.most_common())
        terminalreporter.write_line(f"skipped {sum(reasons.values())}: {counts}")
    if _cuda_is_required() and _n_cuda_tests_run(terminalreporter) == 0:
        terminalreporter.write_line("EXPORT3D_REQUIRE_CUDA is set, but no CUDA test ran", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    # A job that meant to test CUDA and tested none of it must not be green.
    if not _cuda_is_required() or hasattr(session.config, "workerinput"):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and _n_cuda_tests_run(reporter) == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _cuda_is_required() -> bool:
    return os.environ.get("EXPORT3D_REQUIRE_CUDA", "") not in ("", "0")


def _n_cuda_tests_run(reporter: pytest.TerminalReporter) -> int:
    reports = [*reporter.stats.get("passed", []), *reporter.stats.get("failed", [])]
    return sum("cuda" in report.keywords for report in reports if report.when == "call")
