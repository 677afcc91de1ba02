"""One source becomes one shard of clips and one record of what was kept and why.

Everything is a stream: a dozen pictures are held at a time, and a clip's first frames until it is long enough.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from conventions.crop import crop_from_parameters
from conventions.landmarks import LANDMARKS_70
from dataset.preparation.frames import Pictures, open_source
from dataset.preparation.judge import Quality, judge
from dataset.preparation.options import VideoOptions
from dataset.preparation.people import Follower, People
from dataset.preparation.shots import ShotDetector
from dataset.preparation.sources import Source
from dataset.preparation.summary import ClipSummary, Thumbnails
from dataset.preparation.tools import Toolbox
from dataset.writer import DatasetSpec, ShardWriter, shard_path
from dnnlib.errors import UserError
from dnnlib.files import atomic_write
from tracking.expression import Measurement
from tracking.following import is_jump
from tracking.media import Frame
from tracking.tracker import TrackedFrame

EMBED_EVERY = 25  # frames between looks at who is seen
_PERSON_STRIDE = (
    10_000_000  # identity numbers of further persons of a video lie above all videos' own
)
_PROGRESS_EVERY = 50  # frames

FramesRead = Callable[[int], None]  # frames read so far


@dataclass(frozen=True)
class Job:
    """A source with its number in the data set."""

    number: int  # of the shard
    source: Source
    identity: int  # number of the person that the source shows


def record_path(dest: Path, number: int, suffix: str = ".json") -> Path:
    """Where the record (or the thumbnails, .jpg) of a source lies."""
    return dest / "videos" / f"{number:05d}{suffix}"


def dataset_spec(options: VideoOptions, toolbox: Toolbox) -> DatasetSpec:
    """What dataset.json of a prepared data set declares."""
    return DatasetSpec(
        resolution=options.resolution,
        expression=toolbox.tracker.space,
        image_codec=options.codec,
        channels=("image", "mask") if options.matte else ("image",),
        extra_labels={
            "gaze": 4,
            "crop": 3,
            "quality": 3,
            **({"landmarks": 2 * len(LANDMARKS_70)} if options.landmarks else {}),
        },
        crop=toolbox.tracker.crop_record,
        tracker=toolbox.tracker.record,
        source={"preparation": "video", "fingerprint": toolbox.fingerprint, **options.record()},
    )


def prepare_video(
    job: Job,
    dest: Path,
    options: VideoOptions,
    toolbox: Toolbox,
    progress: FramesRead | None = None,
) -> dict[str, Any]:
    """Write a source's shard, thumbnails and record; returns the record.

    A source that cannot be used leaves a record with one sentence. The record is written last, so that one which is
    there means finished work; whoever prepares the same source again writes the same bytes.

    Raises:
        OutputError: the data set's folder cannot be written.
    """
    preparation = _Preparation(job, dest, options, toolbox, progress or (lambda n: None))
    try:
        preparation.run()
    except UserError as error:
        if isinstance(error.__cause__, OSError) and "cannot write" in str(error):
            raise OutputError(str(error)) from error
        preparation.problem = str(error)
        preparation.drop_clips()
    record = preparation.record()
    write_record(dest, job.number, record, preparation.thumbnails.jpeg())
    return record


class OutputError(UserError):
    """The data set's own folder cannot be written: nothing of this source is recorded."""


def write_record(dest: Path, number: int, record: dict[str, Any], thumbnails: bytes | None) -> None:
    """Thumbnails first, the record last."""
    try:
        picture = record_path(dest, number, ".jpg")
        if thumbnails is not None:
            with atomic_write(picture) as file:
                file.write(thumbnails)
        else:
            picture.unlink(missing_ok=True)
        with atomic_write(record_path(dest, number), "w") as file:
            json.dump(record, file, indent=1, sort_keys=True)
            file.write("\n")
    except (UserError, OSError) as error:
        raise OutputError(str(error)) from error


@dataclass
class _Seen:
    """What travels beside a frame while it is smoothed."""

    width: int
    height: int
    parameters: np.ndarray  # of the crop, before smoothing
    place: int  # among the frames that were read


@dataclass
class _Preparation:
    job: Job
    dest: Path
    options: VideoOptions
    toolbox: Toolbox
    progress: FramesRead
    n_read: int = 0
    end_s: float = 0.0  # of the last frame read
    problem: str = ""
    notes: list[str] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    clips: list[ClipSummary] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    fps: float = 0.0
    shots: int = 1

    def __post_init__(self) -> None:
        self.thumbnails = Thumbnails()
        self._seen: dict[int, _Seen] = {}
        self._people = People(self.toolbox.embedder)
        self._n_skipped = 0

    def run(self) -> None:
        options, source = self.options, self.job.source
        with open_source(source, options.max_side, options.max_fps) as pictures:
            self.size, self.fps = (pictures.width, pictures.height), pictures.fps
            if source.box is not None and source.box_size is None and max(source.box) > 1:
                source = replace(source, box_size=self.size)  # pictures may come reduced
            follower = Follower(
                self.toolbox.tracker.landmarker, source.box, source.box_size, self.toolbox.embedder
            )
            self.toolbox.begin(source, pictures.first, pictures.count)
            spec = dataset_spec(options, self.toolbox)
            writer = ShardWriter(self.dest, self.job.number, spec)
            with writer:
                self._clips_of(pictures, follower, writer)
                if not self.clips:
                    writer.abort()
            self._conclude(pictures, follower)

    def _clips_of(self, pictures: Pictures, follower: Follower, writer: ShardWriter) -> None:
        stream = self._measurements(pictures.frames, follower)
        for _, shot in groupby(stream, key=lambda item: item[0]):
            clip = _Clip(self, writer)
            for frame in self.toolbox.tracker.align((m for _, m in shot), self.options.resolution):
                clip = clip.add(frame, self._seen.pop(frame.index, None))
            clip.close()

    def _measurements(
        self, frames: Iterator[Frame], follower: Follower
    ) -> Iterator[tuple[int, Measurement]]:
        """(number of the stretch, measurement); a stretch begins with a face and has no long gap."""
        cuts = ShotDetector()
        stretch, gap = 0, 0
        before: np.ndarray | None = None  # crop parameters of the stretch's last face
        for frame in frames:
            self.n_read += 1
            self.end_s = frame.time_s + frame.duration_s
            if self.n_read % _PROGRESS_EVERY == 0:
                self.progress(self.n_read)
            if cuts.is_cut(frame.image) and follower.restart(frame.image):
                self.shots += 1
                before = None
            source = self.job.source
            follower.move_box(source.box_at(source.start_s + frame.time_s))
            face = follower(frame.image)
            measured = self.toolbox.tracker.measure(frame, face)
            if measured.parameters is None:
                gap += 1
                if gap > self.options.max_gap:
                    before = None
                if before is None:
                    self.reject("no_face", frame.image)
                else:
                    self._remember(frame, before)
                    yield stretch, measured
                continue
            if before is None or is_jump(before, measured.parameters):
                stretch += 1
            gap, before = 0, measured.parameters
            self._remember(frame, before)
            yield stretch, measured

    def _remember(self, frame: Frame, parameters: np.ndarray) -> None:
        height, width = frame.image.shape[:2]
        self._seen[frame.index] = _Seen(width, height, parameters, self.n_read)

    def reject(self, reason: str, picture: np.ndarray) -> None:
        self.rejected[reason] += 1
        self.thumbnails.rejected(reason, picture)

    def is_wanted(self) -> bool:
        """Counts the frames that would be kept; each n-th is."""
        self._n_skipped += 1
        return (self._n_skipped - 1) % self.options.every == 0

    def who(self, crop: np.ndarray) -> int:
        return self._people.who(crop)

    def is_stranger(self, crop: np.ndarray, person: int) -> bool:
        return self._people.is_stranger(crop, person)

    def identity(self, person: int) -> int:
        """Number of a person of this video: the first is whom the source is said to show."""
        return self.job.identity if person == 0 else person * _PERSON_STRIDE + self.job.number

    def _conclude(self, pictures: Pictures, follower: Follower) -> None:
        if self.n_read == 0:
            raise UserError(f"{self.job.source.name} has no frames in this part; mend the times")
        if note := pictures.note_of_missing(self.n_read, self.end_s):
            self.notes.append(note)
        if follower.n_faces > 1:
            self.notes.append(f"{follower.n_faces} faces were seen; the largest was followed")
        if follower.n_others:
            self.notes.append(f"{follower.n_others} frames show only others; they are left out")
        if self.clips:
            return
        if self.rejected["no_face"] == self.n_read:
            self.problem = (
                f"{self.job.source.name} shows no face; give videos of faces from the front"
            )
        else:
            worst = self.rejected.most_common(1)[0][0]
            self.problem = (
                f"{self.job.source.name} gave no clip of {self.options.min_frames} frames (mostly: "
                f"{worst.replace('_', ' ')}); give a longer or better video, or lower the limit"
            )

    def drop_clips(self) -> None:
        """Nothing of a source that failed half-way is kept, nor what an earlier run may have written."""
        self.clips.clear()
        for suffix in (".json", ".zip", ".frames.npy", ".clips.npy"):
            shard_path(self.dest, self.job.number, suffix).unlink(missing_ok=True)

    def record(self) -> dict[str, Any]:
        source = self.job.source
        return {
            "number": self.job.number,
            "name": source.name,
            "identity": source.identity,
            "fingerprint": self.toolbox.fingerprint,
            "status": "kept" if self.clips else "rejected",
            "problem": self.problem,
            "notes": self.notes,
            "width": self.size[0],
            "height": self.size[1],
            "fps": round(self.fps, 4),
            "shots": self.shots,
            "frames": self.n_read,
            "kept": sum(c.n_frames for c in self.clips),
            "rejected": dict(sorted(self.rejected.items())),
            "clips": [c.to_dict(self._people.embedding(c.person)) for c in self.clips],
        }


class _Clip:
    """Frames of one person without a break, written once there are enough of them."""

    def __init__(self, video: _Preparation, writer: ShardWriter) -> None:
        self._video, self._writer = video, writer
        self._waiting: list[dict[str, Any]] | None = []  # None: the clip is being written
        self._summary = ClipSummary()
        self._person = -1
        self._n_seen = 0

    def add(self, frame: TrackedFrame, seen: _Seen | None) -> _Clip:
        """Take the next frame in; returns the clip to go on with, another one when the person changes."""
        assert seen is not None
        video = self._video
        quality = judge(frame, seen.width, seen.height, video.options)
        if quality.reason:
            video.reject(quality.reason, frame.crop)
            return self
        self._n_seen += 1
        if self._person < 0:
            self._person = video.who(frame.crop)
        elif self._n_seen % EMBED_EVERY == 0 and video.is_stranger(frame.crop, self._person):
            video.notes.append(f"the person changes at {frame.time_s:.2f} s")
            self.close()
            return _Clip(video, self._writer).add(frame, seen)
        self._summary.add_jitter(
            crop_from_parameters(seen.parameters, frame.transform.size),
            frame.transform,
            seen.place,
        )
        if video.is_wanted():
            self._keep(frame, quality)
        return self

    def _keep(self, frame: TrackedFrame, quality: Quality) -> None:
        self._summary.add(frame, quality)
        row = self._video.toolbox.row(frame, quality)
        if self._waiting is None:
            self._writer.add_frame(**row)
            return
        self._waiting.append(row)
        if len(self._waiting) >= self._video.options.min_frames:
            self._begin()

    def _begin(self) -> None:
        assert self._waiting is not None
        video, source = self._video, self._video.job.source
        number = len(video.clips)
        name = source.name if number == 0 else f"{source.name}#{number}"
        # A second person's split follows from the video's, or one video's pictures would be on both sides.
        split = source.split or video.options.split_of(source.identity)
        identity = video.identity(self._person)
        self._writer.add_clip(name, identity, split, video.fps / video.options.every)
        self._summary.begin(name, self._person, identity, split)
        for row in self._waiting:
            self._writer.add_frame(**row)
        self._waiting = None
        video.clips.append(self._summary)
        video.thumbnails.kept(self._summary.first_crop)

    def close(self) -> None:
        """The clip ends; one that is too short is left out."""
        if self._waiting and self._summary.first_crop is not None:
            self._video.rejected["short_clip"] += len(self._waiting)
            self._video.thumbnails.rejected("short_clip", self._summary.first_crop)
        self._waiting = []
