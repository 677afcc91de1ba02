"""The doctor: complete on a healthy machine, and exit code 1 with a cure on a broken one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from torch_utils import doctor, ops
from torch_utils.ops import library


def test_report(capsys: pytest.CaptureFixture[str]) -> None:
    code = doctor.main()
    text = capsys.readouterr().out
    for topic in ("python", "torch", "processor", "compiler", "nvcc", "gpu", "cpu operators"):
        assert f" {topic} " in text
    for package in (*doctor.REQUIRED, *doctor.OPTIONAL):
        assert f" {package} " in text
    assert code == int("FAIL" in text)


def test_failed_build_is_told_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = library.BuildResult("cpu", None, 0.0, "the disk is full", "Empty it", "long text")
    monkeypatch.setattr(library, "load", lambda kind: failed)
    assert doctor.main() == 1
    text = capsys.readouterr().out
    assert "FAIL cpu operators" in text and "the disk is full" in text and "long text" in text


def test_library_that_loads_but_does_not_run_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong_device(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA kernel launch failed: error 209\nand more")

    built = library.BuildResult("cpu", Path("/cache/export3d_cpu.so"), 0.0)
    monkeypatch.setattr(library, "load", lambda kind: built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(ops, "bias_act", wrong_device)
    *_, finding = doctor.operators()
    assert finding.state == "broken" and finding.text == (
        "do not run: CUDA kernel launch failed: error 209"
    )
    assert "Delete /cache/export3d_cpu.so" in finding.cure


def test_absence_by_request_is_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = library.BuildResult("cpu", None, 0.0, "forbidden", "Unset it", asked_for=True)
    monkeypatch.setattr(library, "load", lambda kind: absent)
    assert all(finding.state != "broken" for finding in doctor.operators())


def test_missing_package_is_broken_only_if_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "REQUIRED", {"no-such-package-a": "everything"})
    monkeypatch.setattr(doctor, "OPTIONAL", {"no-such-package-b": "little"})
    needed, optional = doctor.packages()
    assert needed.state == "broken" and needed.cure == "pip install no-such-package-a"
    assert optional.state == "none"
