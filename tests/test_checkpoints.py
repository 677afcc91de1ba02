"""Checkpoints: what goes in comes out, and every broken file is refused in one sentence."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import dnnlib.files
from dnnlib.errors import UserError
from training.checkpoints import (
    latest_train_state,
    load_checkpoint,
    load_state_strict,
    load_train_state,
    read_metadata,
    save_checkpoint,
    save_train_state,
    train_state_path,
)

META = {"kind": "model", "config": {"a": 1}, "crop": {"name": "eg3d", "version": 1}}


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def test_round_trip_is_bit_exact(tmp_path: Path) -> None:
    net = _network()
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, net.state_dict(), META)
    state, metadata = load_checkpoint(path, kind="model")
    assert (
        metadata["config"] == {"a": 1}
        and metadata["format"] == "export3d"
        and metadata["version"] == 1
    )
    assert read_metadata(path) == metadata
    other = _network()
    load_state_strict(other, state, "weights")
    for name, tensor in net.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
        assert other.state_dict()[name].dtype == tensor.dtype


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    state = _network().state_dict()
    save_checkpoint(tmp_path / "a.safetensors", state, META)
    save_checkpoint(tmp_path / "b.safetensors", dict(reversed(state.items())), META)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_half_precision_halves_the_file_and_comes_back_as_float32(tmp_path: Path) -> None:
    state = {"w": torch.randn(1000, 100), "big": torch.full((3,), 1e6), "n": torch.tensor(7)}
    save_checkpoint(tmp_path / "h.safetensors", state, META, dtype="float16")
    save_checkpoint(tmp_path / "f.safetensors", state, META)
    half, full = ((tmp_path / f"{n}.safetensors").stat().st_size for n in "hf")
    assert half < 0.52 * full
    back, metadata = load_checkpoint(tmp_path / "h.safetensors")
    assert metadata["stored_dtype"] == "float16"
    assert back["w"].dtype == torch.float32
    torch.testing.assert_close(back["w"], state["w"], rtol=1e-3, atol=1e-6)  # float16 has 11 bits
    assert torch.equal(back["big"], state["big"])  # beyond float16's range: kept
    assert back["n"].item() == 7


def _broken(tmp_path: Path, how: str) -> Path:
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, {"w": torch.ones(64)}, META)
    data = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(data[:-10])
    elif how == "truncated header":
        path.write_bytes(data[:40])
    elif how == "flipped bit":
        data[-1] ^= 1
        path.write_bytes(data)
    elif how == "text":
        path.write_text("hello, this is not a checkpoint")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "pickle":
        torch.save({"w": 1}, path)
    elif how == "other program":
        save_file({"w": torch.ones(3)}, path)
    elif how == "version":
        save_file(
            {"w": torch.ones(3)},
            path,
            {"export3d": json.dumps({**META, "format": "export3d", "version": 9})},
        )
    elif how == "nan":
        from training.checkpoints.io import tensors_sha256

        tensors = {"w": torch.full((3,), float("nan"))}
        meta = {**META, "format": "export3d", "version": 1, "sha256": tensors_sha256(tensors)}
        save_file(tensors, path, {"export3d": json.dumps(meta)})
    elif how == "absent":
        path.unlink()
    return path


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("truncated", "truncated"),
        ("truncated header", "truncated"),
        ("flipped bit", "hash"),
        ("text", "not a safetensors file"),
        ("empty", "is empty"),
        ("pickle", "pickle"),
        ("other program", "another program"),
        ("version", "version 9"),
        ("nan", "NaN"),
        ("absent", "does not exist"),
    ],
)
def test_broken_files_are_refused_in_one_sentence(tmp_path: Path, how: str, says: str) -> None:
    path = _broken(tmp_path, how)
    with pytest.raises(UserError, match=says) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_other_kinds_and_pickles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, {"w": torch.ones(2)}, META)
    with pytest.raises(UserError, match="'model'.*'clebs'"):
        load_checkpoint(path, kind="clebs")
    with pytest.raises(UserError, match="pickle"):
        load_checkpoint(tmp_path / "network-snapshot.pkl")
    with pytest.raises(UserError, match="NaN"):
        save_checkpoint(tmp_path / "n.safetensors", {"w": torch.tensor([float("inf")])}, META)
    assert not (tmp_path / "n.safetensors").exists()


def test_strict_loading_names_and_counts_what_differs() -> None:
    net = _network()
    state = net.state_dict()
    del state["0.weight"]
    state["surplus"] = torch.ones(1)
    state["2.bias"] = torch.ones(5)
    before = net.state_dict()["2.bias"].clone()
    with pytest.raises(
        UserError, match=r"1 missing \(0.weight\); 1 unexpected \(surplus\); 1 of another shape"
    ):
        load_state_strict(net, state, "x.safetensors")
    assert torch.equal(net.state_dict()["2.bias"], before)


def _assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and np.array_equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            _assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            _assert_same(x, y)
    else:
        assert a == b


def test_train_state_holds_optimisers_and_random_states(tmp_path: Path) -> None:
    net = _network()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.1 / 3, betas=(0.0, 0.99))
    for _ in range(2):
        net[0](torch.randn(1, 3, 5, 5)).square().sum().backward()
        optimiser.step()
    shared = torch.arange(6.0)
    state = {
        "net": net.state_dict(),
        "optimiser": optimiser.state_dict(),
        "rng": {
            "torch": torch.get_rng_state(),
            "python": random.getstate(),
            "numpy": np.random.get_state(),
        },
        "views": [shared[:3], shared[3:], shared],
        "none": None,
        "text": "a.b",
        "flags": (True, 1, 2.5, float("inf")),
        "empty": {},
        "same path": {
            "a": {"b": torch.ones(1), 1: torch.zeros(1), "1": torch.ones(1)},
            "a.b": torch.zeros(1),
        },
        "zero": torch.zeros(0, 3),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    state["net"] = dict(state["net"])  # an OrderedDict comes back as a dict
    path = train_state_path(tmp_path, 12)
    save_train_state(path, state, {"config": {"a": 1}})
    back, metadata = load_train_state(path)
    _assert_same(back, state)
    assert metadata["kind"] == "train_state" and metadata["config"] == {"a": 1}
    fresh = torch.optim.Adam(_network().parameters())
    fresh.load_state_dict(back["optimiser"])
    assert fresh.param_groups[0]["lr"] == 0.1 / 3


def test_last_states_are_kept_and_leftovers_go(tmp_path: Path) -> None:
    assert latest_train_state(tmp_path) is None
    (tmp_path / ".state-000000001.tmp-99-ab.safetensors").write_bytes(b"half")
    (tmp_path / "other.safetensors").write_bytes(b"mine")
    for step in (2, 10, 100, 1000):
        save_train_state(train_state_path(tmp_path, step), {"step": step}, keep_last=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "other.safetensors",
        "state-000000100.safetensors",
        "state-000001000.safetensors",
    ]
    latest = latest_train_state(tmp_path)
    assert latest is not None and load_train_state(latest)[0] == {"step": 1000}


def test_a_full_disk_is_noticed_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = train_state_path(tmp_path, 1)
    save_train_state(path, {"w": torch.ones(3)})
    monkeypatch.setattr(
        dnnlib.files.shutil, "disk_usage", lambda _: type("U", (), {"free": 1000})()
    )
    with pytest.raises(UserError, match="free"):
        save_train_state(path, {"w": torch.zeros(3)})
    assert torch.equal(load_train_state(path)[0]["w"], torch.ones(3))


def test_unsupported_values_are_a_programmers_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"a\.b is a set"):
        save_train_state(tmp_path / "x.safetensors", {"a": {"b": {1, 2}}})


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    # 0x80 and "P" begin pickles and archives, and may also be the low byte of the header's length.
    seen = set()
    for n in range(0, 300, 8):
        path = tmp_path / f"{n}.safetensors"
        save_checkpoint(path, {"x": torch.ones(1)}, {"kind": "weights", "note": "n" * n})
        seen.add(path.read_bytes()[0])
        assert load_checkpoint(path).state["x"].item() == 1
    assert 0x80 in seen
