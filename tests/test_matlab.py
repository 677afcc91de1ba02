"""MATLAB files: plain numbers as scipy reads them, everything else passed over or one sentence."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from dnnlib.errors import UserError
from dnnlib.reading.matlab import read_mat

SAMPLES = (
    Path(scipy.io.__file__).parent / "matlab/tests/data"
)  # saved by MATLAB 6 to 8, where scipy has its tests


def content() -> dict[str, object]:
    """What Deep3DFaceRecon and the Basel model's conversion save, and what else a file may hold."""
    rng = np.random.default_rng(0)
    return {
        "exp": rng.normal(size=(1, 64)).astype(np.float32),
        "angle": rng.normal(size=(1, 3)),
        "id": rng.normal(size=(2, 3, 4)).astype(np.float32),
        "keypoints": np.arange(70000, 70068, dtype=np.int32)[None],
        "tri": np.arange(5, dtype=np.uint16),
        "image": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "whole": np.array([[2**40, -5]]),
        "one": 3.25,
        "yes": np.array([True, False]),
        "empty": np.zeros((0, 3)),
        "a_name_longer_than_eight_bytes": np.eye(2),
        "text": "hello",
        "complex": np.array([1 + 2j]),
        "cell": np.array([1, "a"], dtype=object),
        "struct": {"a": 1.0},
    }


def check_against_scipy(path: Path) -> set[str]:
    """Every array that is found has scipy's numbers; returns the names."""
    ours, theirs = read_mat(path), scipy.io.loadmat(path)
    for name, array in ours.items():
        assert array.shape == theirs[name].shape, name
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
    return set(ours)


@pytest.mark.parametrize("packed", [False, True])
def test_numbers_are_those_of_scipy(tmp_path: Path, packed: bool) -> None:
    made = content()
    scipy.io.savemat(tmp_path / "a.mat", made, do_compression=packed)
    found = check_against_scipy(tmp_path / "a.mat")
    assert found == made.keys() - {"text", "complex", "cell", "struct"}
    assert read_mat(tmp_path / "a.mat")["exp"].dtype == np.float32
    assert read_mat(tmp_path / "a.mat", names=("exp", "one")).keys() == {"exp", "one"}


def _samples() -> Iterator[Path]:
    for path in sorted(SAMPLES.glob("*.mat")):
        try:
            scipy.io.loadmat(path)
        except Exception:  # made to be damaged, or HDF5
            continue
        if "_4" not in path.name and "mat4" not in path.name:
            yield path


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="this scipy comes without its test files")
def test_files_that_matlab_wrote() -> None:
    samples = list(_samples())
    assert len(samples) > 60
    found = {path.name: check_against_scipy(path) for path in samples}
    assert found["testmatrix_7.4_GLNX86.mat"] == {"testmatrix"}
    assert found["testmatrix_6.1_SOL2.mat"] == {"testmatrix"}  # big-endian
    assert found["testdouble_7.1_GLNX86.mat"] == {"testdouble"}
    assert {"a", "theta"} == found["testmulti_7.4_GLNX86.mat"]


def test_other_versions_are_named(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "4.mat", {"a": np.eye(2)}, format="4")
    (tmp_path / "73.mat").write_bytes(
        b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124)
        + b"\0\2IM"
        + bytes(384)
        + b"\x89HDF\r\n\x1a\n"
    )
    (tmp_path / "no.mat").write_bytes(b"hello")
    for name, says in (
        ("4", "no MATLAB file as -v7"),
        ("73", r"7\.3 \(HDF5\); save it with -v7"),
        ("no", "no MATLAB file as -v7"),
    ):
        with pytest.raises(UserError, match=rf"{name}\.mat is .*{says}"):
            read_mat(tmp_path / f"{name}.mat")


def test_a_packed_array_does_not_take_all_memory(tmp_path: Path) -> None:
    header = b"MATLAB 5.0".ljust(124) + b"\0\1IM"
    bomb = zlib.compress(struct.pack("<II", 14, 2**24) + bytes(2**24))
    (tmp_path / "a.mat").write_bytes(header + struct.pack("<II", 15, len(bomb)) + bomb)
    with pytest.raises(UserError, match="unpacks to more than 1 MiB"):
        read_mat(tmp_path / "a.mat", limit=2**20)
    scipy.io.savemat(
        tmp_path / "b.mat",
        {"a": np.zeros((300, 300)), "b": np.zeros((300, 300))},
        do_compression=True,
    )
    with pytest.raises(UserError, match="more than 1 MiB"):
        read_mat(tmp_path / "b.mat", limit=2**20)


def test_every_shortened_file_is_one_sentence(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"exp": np.eye(3), "x": np.arange(4)}, do_compression=True)
    whole = (tmp_path / "a.mat").read_bytes()
    for length in range(1, len(whole)):
        (tmp_path / "b.mat").write_bytes(whole[:length])
        try:
            found = read_mat(tmp_path / "b.mat")
        except UserError as error:
            assert "b.mat" in str(error)
        else:  # cut between two arrays
            assert set(found) <= {"exp", "x"}
