"""Scores of a protocol while a network trains: made, measured, noted, and whether they are the best so far.

    watch = ProtocolWatch(load_protocol("small.json"), Path("data/heads"), out / "protocol")
    scores = watch(average, space, n_images)      # in every process: clips are shared between them
    if watch.improved: ...                        # keep this network

`watch.jsonl` has one line per call: the scores, of how many values each is the mean ("n"), how many frames could not be
measured ("failed"), and every failure. A continued run reads it and goes on comparing with its best.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnnlib.errors import UserError
from dnnlib.reading.files import read_bytes
from dnnlib.reading.text import read_json_lines
from inference.network import Network
from metrics.calc import Options, calculate
from metrics.footage import open_footage
from metrics.generate import Method, discard_stale, generate, source_folder
from metrics.networks import Networks
from metrics.protocols import Protocol
from metrics.registry import get_metric
from metrics.table import Column
from torch_utils import distributed

if TYPE_CHECKING:
    from conventions.spaces import ExpressionSpace
    from training.generator.model import Export3D

COLUMNS = (Column("same", "psnr"), Column("same", "aed"), Column("cross", "csim_source"))


class ProtocolWatch:
    """Scores a network on a protocol again and again; references are made and looked at once.

    Raises:
        UserError: the protocol has no pairs for the columns, or its data is missing.
    """

    def __init__(
        self,
        protocol: Protocol,
        data: Path,
        out: Path,  # folder for references, frames, features and watch.jsonl
        columns: tuple[Column, ...] = COLUMNS,  # modes without pairs are left out
        best: str = "",  # title of the column that decides, "" the first
        networks: Networks | None = None,
    ) -> None:
        self.columns = [c for c in columns if protocol.ids(c.mode)]
        if not self.columns:
            raise UserError(f"the protocol {protocol.name} has no pairs for these columns")
        titles = [c.title for c in self.columns]
        self.best_title = best or titles[0]
        if self.best_title not in titles:
            raise UserError(f"there is no column {best!r}; use one of {', '.join(titles)}")
        self.protocol, self.out = protocol, out
        self.networks = networks or Networks()
        self.footage = open_footage(protocol, data, protocol.resolution)
        self.improved = False
        self._best = self._best_of_file()

    @property
    def _file(self) -> Path:
        return self.out / "watch.jsonl"

    def __call__(self, model: Export3D, space: ExpressionSpace, n_images: int) -> dict[str, float]:
        """Scores by column title, the same in every process; NaN where nothing could be measured.

        `model` is used in evaluation mode and its parameters' gradients are switched off: give the averaged copy.
        """
        device = str(next(model.parameters()).device.type)
        network = Network(model, space, name=f"the network at {n_images} images", device=device)
        frames, ref = self.out / "frames", self.out / "ref"
        if distributed.is_main():
            shutil.rmtree(frames, ignore_errors=True)
            discard_stale(self.protocol, self.footage, ref, self.out / "source")
        distributed.barrier()
        made = Method("network", network, str(n_images))
        truth = generate(Method("truth"), self.protocol, self.footage, ref)
        lost = generate(made, self.protocol, self.footage, frames)
        failures = [f"reference of {f}" for f in truth] + [f"frames of {f}" for f in lost]
        source = None
        if any("source" in get_metric(c.metric).needs for c in self.columns):
            source = source_folder(self.protocol, self.footage, self.out / "source")
        scores: dict[str, float] = {}
        counts: dict[str, dict[str, int]] = {"n": {}, "failed": {}}
        for mode in dict.fromkeys(c.mode for c in self.columns):
            names = [c.metric for c in self.columns if c.mode == mode]
            options = Options(
                networks=self.networks,
                source=source,
                cache=self.out / "cache",
                protocol=self.protocol.record(),
                clips=self.protocol.ids(mode),
            )
            result = calculate(frames, ref, names, options)
            for name in names:
                title = Column(mode, name).title
                scores[title] = result.mean(name)
                counts["n"][title] = result.n_pairs if name in result.values else result.count(name)
                counts["failed"][title] = result.failed(name)
            failures += result.failures.lines()
        self._note(scores, n_images, {**counts, "failures": failures})
        return scores

    def _note(self, scores: dict[str, float], n_images: int, details: dict[str, Any]) -> None:
        value = scores[self.best_title]
        self.improved = not math.isnan(value) and self._better(value)
        if self.improved:
            self._best = value
        if distributed.is_main():
            entry = {k: None if math.isnan(v) else v for k, v in scores.items()}
            line = {"n_images": n_images, "protocol": self.protocol.sha256, **entry, **details}
            # A run that was killed while it wrote has left half a line without an end.
            there = self._file.is_file() and self._file.stat().st_size > 0
            begun = there and not read_bytes(self._file, "move it away").endswith(b"\n")
            with self._file.open("a", encoding="utf-8") as file:
                file.write("\n" * begun + json.dumps(line) + "\n")

    def _better(self, value: float) -> bool:
        if self._best is None:
            return True
        higher = next(c for c in self.columns if c.title == self.best_title).higher_is_better
        return value > self._best if higher else value < self._best

    def _best_of_file(self) -> float | None:
        found = [entry.get(self.best_title) for entry in self._entries()]
        values = [float(value) for value in found if value is not None]
        higher = next(c for c in self.columns if c.title == self.best_title).higher_is_better
        return None if not values else max(values) if higher else min(values)

    def _entries(self) -> Iterator[dict[str, Any]]:
        """What was noted with this protocol; a line that was not finished is skipped."""
        if not self._file.is_file():
            return
        for entry in read_json_lines(self._file, finite=False):
            if entry.get("protocol") == self.protocol.sha256:
                yield entry
