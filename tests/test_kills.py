"""The comparison of benchmarks.kills sees what differs, and its stored numbers are those that the docs tell."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks.kills import compare, differing
from torch_utils.train_state import save_train_state, train_state_path

ROOT = Path(__file__).resolve().parents[1]


def state(out: Path, step: int, value: float, lines: int) -> Path:
    out.mkdir(exist_ok=True)
    content = {"step": step, "model": {"w": torch.tensor([1.0, value]), "n": 3}}
    save_train_state(train_state_path(out, step), content, {}, 2)
    text = "".join(json.dumps({"step": i + 1}) + "\n" for i in range(lines))
    (out / "stats.jsonl").write_text(text)
    return out


def test_a_bit_a_line_and_a_damaged_file_are_seen(tmp_path: Path) -> None:
    whole, same = (state(tmp_path / name, 4, 0.5, 4) for name in ("whole", "same"))
    other = state(tmp_path / "other", 4, 0.5 + 2**-24, 3)
    assert compare(same, whole, 4) == {
        "differing": [], "every_step_logged_once": True, "damaged_states": 0,
    }  # fmt: skip
    (other / "state-000000003.damaged").touch()
    assert compare(other, whole, 4) == {
        "differing": [".model.w"], "every_step_logged_once": False, "damaged_states": 1,
    }  # fmt: skip
    assert differing(train_state_path(whole, 4), train_state_path(same, 4)) == []


def test_what_the_page_says_of_kills_is_recorded() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "kills.json").read_text())
    kinds = [kill["kind"] for kill in found["kills"]]
    assert found["identical"] and all(not run["differing"] for run in found["runs"])
    at_random, writing = kinds.count("random"), kinds.count("writing")
    told = f"{at_random} SIGKILLs at random times and {writing} while a state was being written"
    assert told in (ROOT / "docs" / "training.md").read_text().replace("\n", " ")
