"""Scores while a network trains."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_support import TOY, make_dataset, tiny, trainer

from dnnlib.errors import UserError
from metrics.protocols import build_protocol
from metrics.table import Column
from metrics.watch import ProtocolWatch
from training.checkpoints import read_metadata
from training.generator.model import Export3D


def test_a_watch_notes_scores_and_knows_the_best(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "heads")
    protocol = build_protocol("heads", data, "small", 2, 2, 2, split=None)
    columns = (Column("same", "l1"), Column("cross", "psnr"))
    model = Export3D(tiny(data).model, TOY.dim).eval()
    watch = ProtocolWatch(protocol, data, tmp_path / "watch", columns)
    first = watch(model, TOY, 100)
    assert watch.improved and set(first) == {"l1 same", "psnr cross"}
    assert watch(model, TOY, 200) == first and not watch.improved  # the same network
    with torch.no_grad():  # a network of noise
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    other = watch(model, TOY, 300)
    assert watch.improved == (other["l1 same"] < first["l1 same"])
    lines = [json.loads(s) for s in (tmp_path / "watch" / "watch.jsonl").read_text().splitlines()]
    assert [line["n_images"] for line in lines] == [100, 200, 300]
    # A run that goes on still knows its best.
    again = ProtocolWatch(protocol, data, tmp_path / "watch", columns)
    assert again._best == min(first["l1 same"], other["l1 same"])
    with pytest.raises(UserError, match="no column 'fid same'"):
        ProtocolWatch(protocol, data, tmp_path / "watch", columns, best="fid same")


def test_a_watch_notes_what_failed_and_reads_half_a_line(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "heads")
    drawn = build_protocol("heads", data, "small", 3, 0, 2, split=None)
    pairs = (replace(drawn.pairs[0], driving="nobody"), *drawn.pairs[1:])
    protocol, out = replace(drawn, pairs=pairs), tmp_path / "watch"
    columns = (Column("same", "l1"), Column("same", "akd"))
    out.mkdir()
    file = out / "watch.jsonl"
    noted = {"n_images": 50, "protocol": protocol.sha256, "l1 same": 0.001}
    file.write_text(json.dumps(noted) + '\n{"n_images": 75, "prot')  # killed while it wrote
    watch = ProtocolWatch(protocol, data, out, columns)
    assert watch._best == 0.001
    model = Export3D(tiny(data).model, TOY.dim).eval()
    scores = watch(model, TOY, 100)
    line = json.loads(file.read_text().splitlines()[-1])
    assert line["n_images"] == 100 and line["l1 same"] == scores["l1 same"] and not watch.improved
    assert line["n"] == {"l1 same": 4, "akd same": 0}  # frames; painted heads show no face
    assert line["failed"] == {"l1 same": 0, "akd same": 4}
    failures = "\n".join(line["failures"])
    for part in ("reference of same-0000: ", "frames of same-0000: ", "akd: no face", "nobody"):
        assert part in failures
    # Other data behind the same names: references are made anew.
    frame = out / "ref" / pairs[1].id / "00000.png"
    before = frame.read_bytes()
    shutil.rmtree(data)
    make_dataset(data, frames=5)
    ProtocolWatch(protocol, data, out, columns)(model, TOY, 200)
    assert frame.read_bytes() != before
    assert len(file.read_text().splitlines()) == 4


def test_training_scores_its_protocol_and_keeps_the_best(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "heads")
    build_protocol("heads", data, "small", 2, 0, 2, resolution=32, split=None).save(
        tmp_path / "small.json"
    )
    config = tiny(
        data,
        "train.total_images=8",
        "train.eval_every=1",
        f"train.protocol={tmp_path / 'small.json'}",
    )
    out = tmp_path / "run"
    trainer(config, out).run()
    rows = [json.loads(s) for s in (out / "stats.jsonl").read_text().splitlines()]
    scores = [row["protocol/psnr same"] for row in rows if "protocol/psnr same" in row]
    assert len(scores) == 2 and all(5 < s < 60 for s in scores)
    best = read_metadata(out / "network-best.safetensors", "model")
    assert best["n_images"] == (4 if scores[0] >= scores[1] else 8)
