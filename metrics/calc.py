"""Scores of predictions against references: pairs of frame folders or videos, one clip or a folder of clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnnlib.errors import UserError
from inference.pictures import IMAGE_SUFFIXES, VIDEO_SUFFIXES, natural_key, open_pictures
from metrics.registry import Metric, get_metric

BATCH = 8  # pictures scored at a time


@dataclass
class Result:
    """Scores and what has to be said beside them."""

    metrics: list[Metric]
    sums: dict[str, float]  # float64, over all pairs
    n_pairs: int
    clips: dict[str, int]  # clip -> pairs
    failures: list[str]  # clip: reason; never dropped in silence
    pred: Path
    ref: Path
    sizes: set[tuple[int, int]] = field(default_factory=set)  # (width, height) of the references

    def mean(self, name: str) -> float:
        """Mean over all pairs."""
        return self.sums[name] / self.n_pairs

    def to_dict(self) -> dict[str, Any]:
        """Scores and protocol, as JSON can hold them."""
        return {
            "protocol": {
                "pred": str(self.pred),
                "ref": str(self.ref),
                "pairs": self.n_pairs,
                "clips": self.clips,
                "sizes": [f"{w}x{h}" for w, h in sorted(self.sizes)],
                "mean": "over all pairs of frames, float64",
            },
            "failures": self.failures,
            "scores": {
                m.name: {
                    "value": self.mean(m.name),
                    "direction": m.direction,
                    "range": m.range,
                    "formula": m.formula,
                    "extractor": m.extractor(),
                }
                for m in self.metrics
            },
        }

    def lines(self) -> list[str]:
        """For a terminal: the protocol first, then the scores."""
        sizes = ", ".join(f"{w} x {h}" for w, h in sorted(self.sizes))
        lines = [
            f"prediction  {self.pred}",
            f"reference   {self.ref}",
            f"pairs       {self.n_pairs} frames of {len(self.clips)} clips, {sizes} px, mean over frames",
            f"failures    {len(self.failures)}",
            *(f"            {failure}" for failure in self.failures),
        ]
        for m in self.metrics:
            score = f"{m.name:<11} {self.mean(m.name):.4f}  ({m.direction} is better, {m.range})"
            extractor = m.extractor()
            lines += [score, f"            {m.formula}"]
            lines += [] if extractor == "none" else [f"            {extractor}"]
        return lines


def calculate(pred: Path, ref: Path, names: Sequence[str]) -> Result:
    """Score `pred` against `ref` with the metrics `names`.

    Both are a video or a folder of frames, or both a folder that holds one such thing per clip; clips are matched by
    name (without suffix), frames by order. A clip with a missing partner, a frame without a partner and pictures of
    different sizes count as failures and are listed.

    Raises:
        UserError: an unknown metric, nothing to compare, or no pair at all.
    """
    metrics = [get_metric(name) for name in names]
    result = Result(metrics, dict.fromkeys(names, 0.0), 0, {}, [], pred, ref)
    preds, refs = list_clips(pred), list_clips(ref)
    if len(preds) == len(refs) == 1:  # two single clips are partners whatever their names
        pairs = [(name, next(iter(preds.values())), path) for name, path in refs.items()]
    else:
        result.failures += [f"{n}: no prediction" for n in refs if n not in preds]
        result.failures += [f"{n}: no reference" for n in preds if n not in refs]
        pairs = [(name, preds[name], refs[name]) for name in refs if name in preds]
    for name, pred_path, ref_path in pairs:
        try:
            _score_clip(result, name, pred_path, ref_path)
        except (UserError, ValueError) as error:
            result.failures.append(f"{name}: {error}")
    if result.n_pairs == 0:
        reason = f" ({result.failures[0]})" if result.failures else ""
        raise UserError(
            f"no frame of {pred} could be compared with {ref}{reason}; give matching clips"
        )
    return result


def list_clips(path: Path) -> dict[str, Path]:
    """Name -> path of the clips at `path`: itself, or the videos and frame folders inside."""
    if not path.is_dir():
        return {path.stem: path}
    entries = sorted(path.iterdir(), key=natural_key)
    if any(e.suffix.lower() in IMAGE_SUFFIXES for e in entries):
        return {path.name: path}
    clips = {e.stem: e for e in entries if e.is_dir() or e.suffix.lower() in VIDEO_SUFFIXES}
    if not clips:
        raise UserError(
            f"{path} holds neither frames nor clips; give a folder of frames, of clips, or a video"
        )
    return clips


def _score_clip(result: Result, name: str, pred: Path, ref: Path) -> None:
    for preds, refs in _batches(result, name, pred, ref):
        for metric in result.metrics:
            scores = metric.function(preds, refs)
            result.sums[metric.name] += float(scores.double().sum())
        result.n_pairs += len(preds)
        result.clips[name] = result.clips.get(name, 0) + len(preds)


def _batches(
    result: Result, name: str, pred: Path, ref: Path
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of pairs of equal size, float32 [N, 3, H, W] in [0, 1]; what has no partner becomes a failure."""
    batch: list[tuple[np.ndarray, np.ndarray]] = []
    unmatched = 0
    for i, (a, b) in enumerate(
        zip_longest(open_pictures(pred).frames(), open_pictures(ref).frames())
    ):
        if a is None or b is None:
            unmatched += 1
            continue
        if a.shape != b.shape:
            result.failures.append(
                f"{name} frame {i}: {a.shape[1]} x {a.shape[0]} px against {b.shape[1]} x {b.shape[0]} px"
            )
            continue
        result.sizes.add((b.shape[1], b.shape[0]))
        if batch and batch[0][0].shape != a.shape:
            yield _stack(batch)
            batch = []
        batch.append((a, b))
        if len(batch) == BATCH:
            yield _stack(batch)
            batch = []
    if unmatched:
        result.failures.append(f"{name}: {unmatched} frames have no partner")
    if batch:
        yield _stack(batch)


def _stack(batch: list[tuple[np.ndarray, np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor]:
    preds, refs = (
        torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2).float() / 255
        for side in zip(*batch, strict=True)
    )
    return preds, refs
