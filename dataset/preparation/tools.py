"""What a worker loads once: tracker, face embedding, matte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dataset.preparation.judge import Quality
from dataset.preparation.options import VideoOptions
from dataset.preparation.results import ImportedResults
from dataset.preparation.rows import encoded_row
from dataset.preparation.sources import Source
from tracking.expression import ExpressionPlugin
from tracking.following import load_embedder
from tracking.matte import Matte
from tracking.plugins import load_plugin
from tracking.tracker import TrackedFrame, Tracker


class Toolbox:
    """The networks of one process.

    Raises UserError when a package or a weight file is missing.
    """

    def __init__(self, options: VideoOptions) -> None:
        torch.set_num_threads(1)  # workers share the cores; sums of several threads vary
        self.options = options
        self._plugin: ExpressionPlugin | None = None
        if options.results:
            self._plugin = ImportedResults(Path(options.results))
        elif options.tracker not in ("mediapipe", "deep3d"):
            self._plugin = load_plugin(options.tracker)
        if options.tracker == "deep3d" and self._plugin is None:
            self.tracker = Tracker("bfm64", options.weights, bfm_model=options.bfm_model or None)
        else:
            self.tracker = Tracker(plugin=self._plugin)
        self.embedder = load_embedder() if options.check_identity else None
        self._matte = Matte() if options.matte else None
        used = (self.tracker.record["hash"], self.tracker.files, self.tracker.landmarker.hash)
        self.fingerprint = options.fingerprint("/".join(digest for digest in used if digest))

    def begin(self, source: Source, first: int, count: int) -> None:
        """A new source of `count` frames (0: not known), whose first is number `first` of its video."""
        if isinstance(self._plugin, ImportedResults):
            self._plugin.expect(source.is_part, first, count)
        if self._plugin is not None:
            self._plugin.begin(source.name)

    def row(self, frame: TrackedFrame, quality: Quality) -> dict[str, Any]:
        """What is stored of a frame."""
        mask = None if self._matte is None else self._matte(frame.crop)
        return encoded_row(frame, quality, self.options, mask)
