"""Scores of predictions against references: streamed, clip by clip, shared between processes with the same result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnnlib.errors import UserError
from dnnlib.places import check_new_folder
from metrics.cache import ReferenceCache
from metrics.clips import Failures, FramePair, frame_pairs, list_sources, partners, source_of
from metrics.networks import Networks
from metrics.pairs import Pairs, Side
from metrics.registry import Metric, get_metric
from metrics.result import ClipScores, Result
from torch_utils import distributed

BATCH = 8  # pictures scored at a time; divides the chunks of the cache
BATCH_PIXELS = BATCH * 1024**2  # fewer of larger pictures: memory does not grow with them


@dataclass
class Options:
    """What `calculate` needs besides the clips."""

    networks: Networks = field(default_factory=Networks)
    source: Path | None = None  # folder with a source picture (or clip) per clip
    cache: Path | None = None  # folder for features of the references
    protocol: dict[str, Any] = field(default_factory=dict)  # printed; its "sha256" keys the cache
    clips: Sequence[str] | None = None  # only these; one that is missing is a failure
    after_clip: Callable[[str, ClipScores], None] | None = None  # in the process that scored it


def calculate(
    pred: Path, ref: Path, names: Sequence[str], options: Options | None = None
) -> Result:
    """Score `pred` against `ref` with the metrics `names`.

    Both are a video or a folder of frames, or both a folder that holds one such thing per clip; clips are matched by
    name (without suffix), frames as in `frame_pairs`. What cannot be scored is counted and listed.

    In a process group each process takes every n-th clip; all of them return the same result.

    Raises:
        UserError: an unknown metric, weights or sources that are missing, a cache that is no folder, nothing to
            compare, or no pair at all.
    """
    options = options or Options()
    metrics = [get_metric(name) for name in dict.fromkeys(names)]
    if options.cache is not None:
        check_new_folder(options.cache)
    sources = _sources(metrics, options)
    failures = Failures()
    pairs = paired_clips(pred, ref, options.clips, failures)
    if not pairs:
        raise UserError(
            f"no clip of {pred} has the name of a clip of {ref}; name the folders or videos alike"
        )
    options.networks.load([e for m in metrics for e in m.extractors])
    run = _Run(metrics, options, sources)
    rank, world = _place()
    for name, pred_path, ref_path in pairs[rank::world]:
        run.clip(name, pred_path, ref_path)
        if options.after_clip is not None:
            options.after_clip(name, run.clips[name])
    result = _joined(run, failures, [name for name, _, _ in pairs], pred, ref, options)
    if result.n_pairs == 0:
        # What was tried and failed says more than what has no partner.
        reasons = sorted(result.failures.lines(), key=lambda r: ": no " in r)
        reason = f" ({reasons[0]})" if reasons else ""
        raise UserError(
            f"no frame of {pred} could be compared with {ref}{reason}; give matching clips"
        )
    return result


def _sources(metrics: list[Metric], options: Options) -> dict[str, Path]:
    wanting = [m.name for m in metrics if "source" in m.needs]
    if wanting and options.source is None:
        raise UserError(
            f"the metric {wanting[0]} compares with the source pictures; give --source FOLDER"
        )
    return {} if options.source is None else list_sources(options.source)


def paired_clips(
    pred: Path, ref: Path, wanted: Sequence[str] | None, failures: Failures
) -> list[tuple[str, Path, Path]]:
    """(name, prediction, reference) of the clips that can be scored, of those `wanted` (None: all)."""
    pairs = partners(pred, ref, failures)
    return pairs if wanted is None else _only(pairs, wanted, failures)


def _only(
    pairs: list[tuple[str, Path, Path]], wanted: Sequence[str], failures: Failures
) -> list[tuple[str, Path, Path]]:
    found = {name: (name, a, b) for name, a, b in pairs}
    for name in wanted:
        if name not in found and f"{name}: no prediction" not in failures.counts:
            failures.add(f"{name}: no prediction")
    failures.counts = {
        reason: count
        for reason, count in failures.counts.items()
        if reason.rpartition(":")[0] in set(wanted)
    }
    return [found[name] for name in wanted if name in found]


def _place() -> tuple[int, int]:
    return distributed.rank(), distributed.world_size()


class _Stopwatch:
    """Adds the seconds between laps up by name."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds, self._last = seconds, time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
        self._last = now


class _Run:
    """The state of one process while clips stream by."""

    def __init__(self, metrics: list[Metric], options: Options, sources: dict[str, Path]) -> None:
        self.metrics, self.options, self.sources = metrics, options, sources
        self.networks = options.networks
        self.clips: dict[str, ClipScores] = {}
        self.sets = {
            m.name: m.scorer(self.networks) for m in metrics if m.kind == "set" and m.scorer
        }

    def clip(self, name: str, pred: Path, ref: Path) -> None:
        """Score one clip; what goes wrong with it is its failure."""
        scores = self.clips[name] = ClipScores()
        metrics, source, missing = self.metrics, None, ""
        if any("source" in m.needs for m in metrics):
            try:
                source = Side([source_of(self.sources, name)], self.networks)
            except UserError as error:  # the others can still be measured
                metrics = [m for m in metrics if "source" not in m.needs]
                missing = str(error)
        try:
            self._stream(name, scores, pred, ref, source, metrics)
        except UserError as error:
            scores.failures.add(f"{name}: {error}")
        for metric in self.metrics:
            if metric not in metrics:
                scores.add(metric.name, 0.0, 0, scores.n_pairs)
                reason = f"{name}: {metric.name}: {missing}"
                scores.failures.add(reason, times=max(1, scores.n_pairs))

    def _stream(
        self,
        name: str,
        scores: ClipScores,
        pred: Path,
        ref: Path,
        source: Side | None,
        metrics: list[Metric],
    ) -> None:
        videos = {
            m.name: m.scorer(self.networks) for m in metrics if m.kind == "video" and m.scorer
        }
        cache = None
        if self.options.cache is not None:
            digest = str(self.options.protocol.get("sha256", ""))
            cache = ReferenceCache(self.options.cache, ref, self.networks.key, digest)
        watch = _Stopwatch(scores.seconds)
        for places, pairs in frame_batches(name, pred, ref, self.networks, scores.failures, source):
            watch.lap("reading")
            if cache is not None:
                cache.fill(pairs.ref, places)
                watch.lap("cache")
            scores.n_pairs += len(pairs)
            scores.sizes.add(pairs.ref.size)
            for metric in metrics:
                self._score(metric, name, scores, pairs, videos)
                watch.lap(metric.name)
            if cache is not None:
                cache.keep(pairs.ref, places)
                watch.lap("cache")
        if cache is not None:
            cache.close()
            scores.cached = cache.hits
        for key, scorer in videos.items():
            total, count = scorer.result()
            scores.add(key, total, count, scorer.failed)
            if scorer.failed:
                scores.failures.add(f"{name}: {key} could not be measured", times=scorer.failed)

    def _score(
        self,
        metric: Metric,
        name: str,
        scores: ClipScores,
        pairs: Pairs,
        videos: dict[str, Any],
    ) -> None:
        if metric.frame is None:
            scorer = self.sets.get(metric.name) or videos[metric.name]
            before = scorer.failed
            scorer.update(pairs)
            if metric.kind == "set" and scorer.failed > before:
                lost = scorer.failed - before
                scores.failures.add(f"{name}: {metric.name} could not be measured", times=lost)
                scores.add(metric.name, 0.0, 0, lost)
            return
        try:
            values = metric.frame(pairs).double().cpu().numpy()
        except ValueError as error:  # for example pictures below the metric's window
            values = np.full(len(pairs), np.nan)
            scores.failures.add(f"{name}: {error}", times=len(pairs))
        good = ~np.isnan(values)
        scores.add(metric.name, float(values[good].sum()), int(good.sum()), int((~good).sum()))
        if not good.all() and metric.extractors:
            self._explain(metric, name, scores, pairs, good)

    def _explain(
        self, metric: Metric, name: str, scores: ClipScores, pairs: Pairs, good: np.ndarray
    ) -> None:
        """Say once per frame on which side the face is missing."""
        for at in np.flatnonzero(~good):
            where = str(pairs.indices[at])
            if "source" in metric.needs:
                sides = {"source": pairs.source.faces[0], "prediction": pairs.pred.faces[at]}
            else:
                sides = {"prediction": pairs.pred.faces[at], "reference": pairs.ref.faces[at]}
            lost = [side for side, face in sides.items() if face is None]
            reason = f"no face in the {' and the '.join(lost)}" if lost else "not measurable"
            scores.failures.add(f"{name}: {metric.name}: {reason}", where)


def frame_batches(
    name: str,
    pred: Path,
    ref: Path,
    networks: Networks,
    failures: Failures,
    source: Side | None = None,
) -> Iterator[tuple[Sequence[int], Pairs]]:
    """Batches of neighbouring pairs of equal size of the clip `name`, each with its frames' places in the cache."""
    batch: list[FramePair] = []

    def made() -> tuple[Sequence[int], Pairs]:
        places, numbers, preds, refs = zip(*batch, strict=True)
        return places, Pairs(Side(preds, networks), Side(refs, networks), numbers, source)

    for item in frame_pairs(pred, ref, failures, name):
        # Chunks of the cache begin with a batch, whatever frames are missing.
        new_chunk = batch and item.place // BATCH != batch[0].place // BATCH
        is_full = (len(batch) + 1) * item.pred[..., 0].size > BATCH_PIXELS
        if batch and (new_chunk or is_full or batch[0].pred.shape != item.pred.shape):
            yield made()
            batch = []
        batch.append(item)
    if batch:
        yield made()


def _joined(
    run: _Run,
    failures: Failures,
    order: list[str],
    pred: Path,
    ref: Path,
    options: Options,
) -> Result:
    """The result over all processes, in the order of the clips whoever scored them."""
    clips, states = [run.clips], [{name: s.state() for name, s in run.sets.items()}]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gathered: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, (run.clips, states[0]))
        clips, states = [g[0] for g in gathered], [g[1] for g in gathered]
    merged = {name: scores for part in clips for name, scores in part.items()}
    values = {}
    for metric in run.metrics:
        if metric.kind == "set" and metric.scorer is not None:
            scorer = metric.scorer(run.networks)
            for state in states:
                scorer.add(state[metric.name])
            values[metric.name] = scorer.value()
    ordered = {name: merged[name] for name in order if name in merged}
    for scores in ordered.values():
        for reason, (count, frame) in scores.failures.counts.items():
            failures.add(reason, frame, count)
    records = {
        m.name: "; ".join(run.networks.record(e) for e in m.extractors) or "none"
        for m in run.metrics
    }
    return Result(
        run.metrics, ordered, values, failures, pred, ref, records, dict(options.protocol)
    )
