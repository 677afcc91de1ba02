"""A run as one page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dnnlib import UserError
from running.report import curves, main, page, read_lines, thin


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "a<b>"
    (folder / "images").mkdir(parents=True)
    for step in (1000, 2000):
        picture = np.zeros((4, 4, 3), np.uint8)
        Image.fromarray(picture).save(folder / "images" / f"{step:09d}.png")
    (folder / "config.yaml").write_text("name: tiny\ntrain: {lr: 1.0e-04}\n")
    lines = [{"step": i, "total": 1 / i, "protocol/psnr": 20 + i} for i in range(1, 1001)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "stats.jsonl").write_text(text + '{"step": 1001, "tot')  # being written
    (folder / "skipped.jsonl").write_text(json.dumps({"step": 7, "not_finite": ["l1"]}) + "\n")
    start = {"time": "now", "step": 0, "host": "node7", "command": ["python", "train.py", "--x"]}
    change = {"key": "train.lr", "was": 2e-4, "is": 1e-4}
    record = {"starts": [start, {**start, "step": 500, "changes": [change]}]}
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def test_the_page_tells_the_run_and_loads_nothing(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    done = CliRunner().invoke(main, [str(run), str(out)])
    assert done.exit_code == 0, done.output
    text = out.read_text()
    for part in ("total: 0.001 at step 1000", "protocol/psnr", "step 2000", "node7", "train.lr: 0.0002 to 0.0001",
                 "lr: 1.0e-04", "<td>7</td><td>l1</td>", "a&lt;b&gt;"):  # fmt: skip
        assert part in text, part
    assert "http" not in text and "<b>" not in text and 'src="data:image/png' in text


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        page(tmp_path)


def test_curves_are_thinned_by_means(run: Path) -> None:
    points = curves(read_lines(run / "stats.jsonl"))["total"]
    assert len(points) == 1000
    few = thin([(float(i), float(i)) for i in range(10)], 5)
    assert few == [(0.5, 0.5), (2.5, 2.5), (4.5, 4.5), (6.5, 6.5), (8.5, 8.5)]
