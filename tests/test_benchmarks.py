"""The benchmarks run on the smallest sizes and write what the page is made of. No test asserts seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from preparation_support import moving, write_video
from training_support import make_dataset, tiny, trainer

from benchmarks import data, endurance, frame, measure, render, report, train_step
from torch_utils.ops import library


def test_render_writes_the_ratios(tmp_path: Path) -> None:
    if not library.use_library("cpu"):
        pytest.skip(f"no CPU operators: {library.load('cpu').cause}")
    path = tmp_path / "render.json"
    arguments = ["--side", "4", "--repeats", "1", "--no-scaling", "--json", str(path)]
    done = CliRunner().invoke(render.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    record = json.loads(path.read_text())
    assert record["speedup_forward"] > 0 and record["speedup_forward_backward"] > 0
    assert record["largest_difference_of_features"] < 1e-4
    text = report.page({"render": record})
    assert "4^2 rays, 48 + 48 samples" in text and "| forward + backward |" in text


def test_frame_compares_cached_with_uncached() -> None:
    network = frame.random_network("tiny")
    result = frame.compare_with_reference(network, repeats=1)
    assert set(result["seconds"]) == {"expression_camera", "camera_only", "reference"}
    assert result["speedup_camera_only"] > 0


def test_operations_of_a_frame_by_hand() -> None:
    network = frame.random_network("tiny")
    g, side = network.model.config.generator, network.resolution // 16
    tokens, hidden = side**2, int(g.width * g.ffn_ratio)
    one_block = 2 * tokens * g.width * (4 * g.width + 2 * hidden)  # qkv, out, two linear layers
    one_block += 4 * tokens**2 * g.width + 2 * 9 * tokens * hidden  # attention, depth-wise 3x3
    dim = network.model.expression.out_dim
    one_block += 2 * dim * 2 * g.width * 2  # EAdaLN twice
    assert frame.gigaflop(network)["vit"] * 1e9 == g.depth * one_block


def test_trainings_in_lock_step_agree(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    runs = {
        impl: trainer(
            tiny(dataset, f"model.render.impl={'auto' if impl == 'auto' else 'ref'}"),
            tmp_path / impl,
        )
        for impl in train_step.IMPLS
    }
    result = train_step.lock_step(runs, steps=3)
    assert sum(result["shares"].values()) == pytest.approx(1)
    assert result["shares"]["convolutions"] > 0
    # same weights, batches and random numbers; float32 rounding grows over three steps of Adam
    assert result["largest_relative_gap"] < 1e-2
    assert len(result["losses"]["ref"]) == 3
    assert "lock step" in report.page(
        {"train_step": {"preset": "tiny", "steps": 3, "machine": measure.machine(), **result}}
    )


def test_peak_of_memory_sees_an_array() -> None:
    size = 64 << 20
    seen = measure.peak_bytes(lambda: torch.ones(size // 4).sum())
    if seen == 0:
        pytest.skip("this system does not tell the peak of a process")
    assert size * 0.9 < seen < size * 1.5  # pages of other things come and go


def test_a_gpu_that_is_not_used_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_asked(*_: object) -> None:
        pytest.fail("asked the GPU")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("memory_allocated", "max_memory_allocated", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, not_asked)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    measure.peak_bytes(lambda: None)
    assert measure.machine()["device"] == measure.machine("cpu")["device"] == "cpu"
    assert measure.machine("cuda")["device"] == "a GPU"


def test_a_compiled_frame_is_timed_without_compiling_it_again() -> None:
    graphs: list[object] = []

    def counting(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    network = frame.random_network("tiny")
    model = network.model
    torch._dynamo.reset()
    for part in (model.vit, model.plane_head, model.superresolution):
        part.compile(backend=counting, dynamic=False)
    seconds = frame.time_frame(network, 2, with_parts=False)
    assert set(seconds) == {"source_once", "frame", "frame_camera_only"}
    assert len(graphs) == 3
    assert set(frame.PARTS) < set(frame.time_frame(frame.random_network("tiny"), 1))


def test_profile_of_the_preparation_tells_every_step(tmp_path: Path) -> None:
    write_video(tmp_path / "in" / "v.mp4", moving(8))
    path = tmp_path / "profile.json"
    arguments = ["profile", str(tmp_path / "in"), "--resolution", "64", "--json", str(path)]
    done = CliRunner().invoke(data.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    record = json.loads(path.read_text())["profile"]
    assert record["frames"] == 8 and record["videos"] == ["160 x 160"]
    steps = {name: step["wall_ms"] for name, step in record["per_frame"].items()}
    assert set(steps) == {*data._STEPS, "decode", "rest"}
    assert all(ms > 0 for ms in steps.values())  # each was called; the rest is what remains
    assert sum(steps.values()) == pytest.approx(1e3 / record["frames_per_wall_s"])


def test_order_alternates() -> None:
    calls: list[str] = []
    measure.alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2, False)
    assert calls == ["a", "b", "b", "a"]


def test_the_performance_page_is_made_of_the_stored_records(repo_root: Path) -> None:
    records = {name: found for name in report.SECTIONS if (found := report.read(name)) is not None}
    docs = repo_root / "docs"
    assert report.page(records) == (docs / "performance.md").read_text(encoding="utf-8")
    drawn = (docs / "images" / "performance.svg").read_text(encoding="utf-8")
    assert report.draw(records["render"]) == drawn


def test_the_cost_of_a_save_is_what_the_steps_stand_still_and_what_the_next_one_is_longer() -> None:
    plain = {"timing/seconds_per_step": 1.0}
    save = {
        "timing/seconds_per_step": 1.5,
        "timing/saving": 0.5 / 1.5,
    }  # stands still for half a second
    after = {"timing/seconds_per_step": 1.25}  # a thread writes beside it
    found = endurance.of_saves([plain, plain, save, after, plain, save, after, plain], 100)
    assert found["saves"] == 2 and found["seconds_a_step"] == 1.0
    assert found["seconds_in_all"] == pytest.approx(0.75)
    assert found["share"] == pytest.approx(0.75 / 100.75)


def test_the_table_of_a_long_run_is_the_measured_one() -> None:
    root = Path(__file__).resolve().parents[1]
    figures = json.loads((root / "benchmarks" / "results" / "endurance.json").read_text())
    assert endurance.table(figures) in (root / "docs" / "training.md").read_text()
    assert figures["saves"]["saves"] >= 5 and figures["saves"]["share"] < 0.02
    assert figures["saves"]["data_wait"] < 0.05
    # what the allocator keeps of blocks of many sizes; a leak of one batch a step would be 30 MiB
    assert figures["memory"]["grown_share"] < 0.05
