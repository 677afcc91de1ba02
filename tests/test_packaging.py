"""What a stranger's machine gets: bounds, locks and environment in step; weights that are what the page says."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dnnlib import sha256_file

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "requirements-cuda.lock", "requirements-dev.lock")
MODELS_LOCK = "requirements-models.lock"
CLUSTER_LOCK = "requirements-cluster.lock"
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


def _lines(name: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _pins(*names: str) -> dict[str, str]:
    """Canonical name -> version of every line of the given lock files."""
    pins: dict[str, str] = {}
    for name in names:
        for line in _lines(name):
            requirement = Requirement(line)
            specifiers = list(requirement.specifier)
            assert len(specifiers) == 1 and specifiers[0].operator == "==", (
                f"{name}: {line} is not an exact pin"
            )
            key = canonicalize_name(requirement.name)
            assert key not in pins, f"{key} is pinned twice"
            pins[key] = specifiers[0].version
    return pins


def _project() -> dict[str, object]:
    project: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def _requirements(extra: str | None = None) -> list[Requirement]:
    project = _project()
    lines = project["dependencies"] if extra is None else project["optional-dependencies"][extra]  # type: ignore[index]
    return [Requirement(line) for line in lines]  # type: ignore[attr-defined]


# ---- versions in step --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "locks"),
    [
        (None, ("requirements.lock",)),
        ("dev", LOCKS),
        ("models", (MODELS_LOCK,)),
        ("reference", ("requirements-reference.lock",)),
        ("cluster", (CLUSTER_LOCK,)),
    ],
)
def test_every_bound_of_pyproject_is_met_by_a_pin(
    extra: str | None, locks: tuple[str, ...]
) -> None:
    pins = _pins(*locks)
    for requirement in _requirements(extra):
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is in pyproject.toml but not in {locks}"
        assert requirement.specifier.contains(pins[name]), (
            f"{requirement} is not met by {pins[name]}"
        )
        assert len(requirement.specifier) > 0, f"{name} has no bounds in pyproject.toml"


def test_environment_yml_holds_exactly_the_locks() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    (pip_lines,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert pip_lines == [line for lock in LOCKS for line in _lines(lock)]
    (python,) = [d for d in conda if d.startswith("python=")]
    assert python == "python=3.11"
    assert _project()["requires-python"] == ">=3.11"


def test_locks_name_no_machine() -> None:
    # A lock must work from any index: exact versions only, no addresses, paths or options.
    for lock in (*LOCKS, MODELS_LOCK, CLUSTER_LOCK, "requirements-reference.lock"):
        for line in _lines(lock):
            assert not re.search(r"://|^-|@|\\", line), f"{lock}: {line}"


@pytest.mark.parametrize("lock", (*LOCKS, MODELS_LOCK))
def test_what_is_installed_is_what_is_locked(lock: str) -> None:
    if not Path(sys.prefix, ".installed").exists():
        pytest.skip("needs the .venv that make test creates")
    for line in _lines(lock):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            # a CPU-only torch calls itself 2.14.1+cpu
            installed = importlib.metadata.version(requirement.name).partition("+")[0]
            assert requirement.specifier.contains(installed), line


def test_locks_are_complete() -> None:
    """`make` installs with --no-deps: everything that a locked package asks for must be locked too."""
    pins = _pins(*LOCKS)
    for name in pins:
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # the CUDA libraries on a machine without them
        for need in map(Requirement, needs):
            if need.marker is not None and not need.marker.evaluate({"extra": ""}):
                continue
            other = canonicalize_name(need.name)
            assert other in pins, f"{name} needs {need}, which no lock holds"
            assert need.specifier.contains(pins[other], prereleases=True), f"{name} needs {need}"


def test_the_cluster_lock_adds_to_the_others() -> None:
    """It is installed beside them with --no-deps: it pins nothing anew, and ray's needs are met."""
    pins = _pins("requirements.lock", CLUSTER_LOCK)  # fails on what both pin
    try:
        needs = importlib.metadata.requires("ray") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs the package ray")
    for need in map(Requirement, needs):
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            assert need.specifier.contains(pins[canonicalize_name(need.name)]), f"ray needs {need}"


def _imported_modules() -> dict[str, str]:
    """Top-level module -> a file of the project that imports it."""
    found: dict[str, str] = {}
    files = [*ROOT.glob("*.py"), *(f for p in PACKAGES for f in (ROOT / p).rglob("*.py"))]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for name in names:
                found.setdefault(name.partition(".")[0], str(file.relative_to(ROOT)))
    return found


def test_what_the_project_imports_it_declares() -> None:
    declared = {canonicalize_name(r.name) for r in _requirements()}
    builds = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    declared |= {canonicalize_name(Requirement(line).name) for line in builds}  # for setup.py
    owners = importlib.metadata.packages_distributions()
    for module, file in _imported_modules().items():
        if (
            module in sys.stdlib_module_names
            or (ROOT / module).is_dir()
            or (ROOT / f"{module}.py").exists()
        ):
            continue
        distributions = {canonicalize_name(d) for d in owners.get(module, [module])}
        assert distributions & declared, (
            f"{file} imports {module}, which pyproject.toml does not declare"
        )


def test_packages_that_only_carry_data_are_never_imported() -> None:
    imported = _imported_modules()
    owners = importlib.metadata.packages_distributions()
    for requirement in _requirements("models"):
        name = canonicalize_name(requirement.name)
        modules = [m for m, ds in owners.items() if name in {canonicalize_name(d) for d in ds}]
        assert not set(modules) & set(imported), f"{name} is imported, so it needs its dependencies"


# ---- third-party weights -----------------------------------------------------------------------------------------


def _weight_rows() -> list[dict[str, str]]:
    text = (ROOT / "docs" / "third_party_weights.md").read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("|")]
    header = [cell.strip() for cell in table[0].strip("|").split("|")]
    assert header[:5] == ["file", "package", "version", "licence", "sha256"]
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table[2:]]
    return [dict(zip(header, row, strict=True)) for row in rows]


def _digest(path: Path) -> str:
    """SHA-256 of a file; of a folder: of the lines 'sha256  relative/path' of its files in sorted order."""
    if path.is_file():
        return sha256_file(path)
    files = sorted(
        f
        for f in path.rglob("*")
        if f.is_file() and "__pycache__" not in f.parts and f.suffix != ".pyc"
    )
    lines = "".join(f"{sha256_file(f)}  {f.relative_to(path).as_posix()}\n" for f in files)
    return hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("row", _weight_rows(), ids=lambda row: Path(row["file"]).name)
def test_third_party_files_are_the_ones_of_the_page(row: dict[str, str]) -> None:
    pins = _pins("requirements.lock", MODELS_LOCK)
    assert pins[canonicalize_name(row["package"])] == row["version"]
    module = row["file"].partition("/")[0]
    spec = importlib.util.find_spec(module)  # found, not imported
    assert spec is not None and spec.origin is not None, (
        f"{row['package']} is not installed; run make venv"
    )
    assert _digest(Path(spec.origin).parent.parent / row["file"]) == row["sha256"]


def test_every_package_that_carries_data_is_on_the_page() -> None:
    packages = {canonicalize_name(row["package"]) for row in _weight_rows()}
    assert set(_pins(MODELS_LOCK)) <= packages


# ---- make, CI, repository ----------------------------------------------------------------------------------------


def test_ci_runs_make_test_and_the_linters_and_fails_with_them(tmp_path: Path) -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    log = tmp_path / "log"
    make = tmp_path / "make"
    for failing, expected in (
        ("none", ["test", "lint"]),
        ("test", ["test"]),
        ("lint", ["test", "lint"]),
    ):
        log.unlink(missing_ok=True)
        make.write_text(f'#!/bin/sh\necho "$@" >> "{log}"\n[ "$1" != {failing} ]\n')
        make.chmod(0o755)
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        result = subprocess.run(
            [str(ROOT / ".ci" / "run")], env=environment, cwd=tmp_path, check=False
        )
        assert log.read_text().split() == expected
        assert (result.returncode == 0) == (failing == "none")


def test_make_refuses_a_python_that_is_too_old(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    result = subprocess.run(
        ["make", "venv", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0 and "older than Python 3.11" in result.stderr
    assert not (tmp_path / "venv").exists()


def test_licence_is_apache() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text and len(text) > 11_000
    assert _project()["license"] == "Apache-2.0"


def test_citation_names_paper_and_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == _project()["version"]
    assert "Tri-plane" in citation["preferred-citation"]["title"]


def test_skips_are_counted_and_a_cuda_job_without_cuda_tests_fails(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = cuda: needs a CUDA device\n")
    (tmp_path / "test_a.py").write_text(
        "import pytest\n"
        "def test_plain(): pass\n"
        "@pytest.mark.cuda\n"
        "def test_on_the_gpu(): pass\n"
        "def test_data(): pytest.skip('needs the moon')\n"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "EXPORT3D_REQUIRE_CUDA": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 x needs a CUDA device" in result.stdout and "1 x needs the moon" in result.stdout
    assert "no CUDA test ran" in result.stdout
    assert result.returncode == 1, result.stdout
