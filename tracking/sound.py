"""The sound of a file beside the video that is written of it, each moment at its own time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from dnnlib.errors import UserError
from dnnlib.reading.containers import BROKEN_MEDIA, open_container

_RATES = (44100, 48000, 32000, 24000, 22050, 16000)  # that AAC is written at; others become 48000
_JITTER_S = 0.02  # time stamps of recorders are that exact; beyond it, sound is missing or doubled
_PACKETS_TRIED = 64  # of a track, until one can be decoded


class Sound:
    """The sound of a file encoded anew, as far as it can be decoded.

    It begins with the picture at `start_s`; gaps are silent, what overlaps is left out, rate and channels may change.
    """

    def __init__(self, source: Any, stream: Any, target: Any, start_s: float, codec: str) -> None:
        self._source, self._target = source, target
        self._rate = stream.rate if stream.rate in _RATES and codec == "aac" else 48000
        self._layout = "mono" if stream.channels == 1 else "stereo"
        self._out = target.add_stream(codec, rate=self._rate, layout=self._layout)
        self._start_s = start_s
        self._written = 0  # samples
        self._pieces = self._placed(stream)
        self._piece: np.ndarray | None = None  # what the next samples are taken from
        self._silent = 0  # samples before it
        self.is_damaged = False

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        target: Any,  # container that is written
        start_s: float,  # time of the first picture in the file's own clock
        codec: str = "aac",  # or libopus, which is always written at 48000
    ) -> tuple[Sound | None, list[str]]:
        """The sound, None where there is none or none that can be decoded; and notes that say what was passed over."""
        try:
            source = open_container(path, what="sound")
        except UserError as error:
            return None, [f"written without sound: {error}"]
        tracks = sorted(source.streams.audio, key=lambda s: not s.disposition & Disposition.default)
        for number, stream in enumerate(tracks):
            if _is_decodable(path, stream):
                missed = [
                    f"the sound of {path} is its track {stream.index}; those before cannot be decoded"
                ]
                return cls(source, stream, target, start_s, codec), missed if number else []
        source.close()
        if not tracks:
            return None, []
        return None, [f"the sound of {path} cannot be decoded; the video is written without it"]

    def _decoded(self, stream: Any) -> Iterator[Any]:
        packets = self._source.demux(stream)
        while True:
            packet = None
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                frames = packet.decode()
            except av.error.EOFError:
                return
            except BROKEN_MEDIA:
                # Some decoders want no empty packet, which is the stream's end.
                self.is_damaged |= packet is None or packet.size > 0
                continue  # what follows has its own time; a file that itself breaks off gives no more packets
            yield from frames

    def _placed(self, stream: Any) -> Iterator[tuple[int, np.ndarray]]:
        """(sample from the first picture on, float32 [channels, n]) in order, as it is in the file."""
        kind, resampler = None, None
        heard_s: float | None = None  # time of the next sample, if nothing is missing
        at = 0
        for frame in self._decoded(stream):
            time_s = frame.time if frame.time is not None else heard_s
            time_s = self._start_s if time_s is None else float(time_s)
            now = (frame.format.name, frame.layout.name, frame.sample_rate)
            moved = heard_s is None or abs(time_s - heard_s) > _JITTER_S
            if kind != now or moved:  # a resampler takes one kind of sound without a gap
                for piece in _resampled(resampler, None):
                    yield at, piece
                    at += piece.shape[1]
                kind = now
                resampler = av.AudioResampler("fltp", self._layout, self._rate)
            if moved:
                at, heard_s = round((time_s - self._start_s) * self._rate), time_s
            assert heard_s is not None
            heard_s += frame.samples / frame.sample_rate
            try:
                pieces = _resampled(resampler, frame)
            except BROKEN_MEDIA:
                self.is_damaged, kind = True, None
                continue
            for piece in pieces:
                yield at, piece
                at += piece.shape[1]
        for piece in _resampled(resampler, None):
            yield at, piece
            at += piece.shape[1]

    def write_until(self, time_s: float) -> None:
        """Bring the sound up to `time_s` from the first picture on, or to its end."""
        end = round(time_s * self._rate)
        while self._written < end:
            if self._piece is None or not self._piece.shape[1]:
                placed = next(self._pieces, None)
                if placed is None:
                    return
                at, piece = placed
                self._piece = piece[:, max(0, self._written - at) :]
                self._silent = max(0, at - self._written)
            if self._silent:
                n = min(self._silent, end - self._written, self._rate)
                self._silent -= n
                self._encode(np.zeros((len(self._piece), n), np.float32))
            else:
                n = min(self._piece.shape[1], end - self._written)
                self._encode(self._piece[:, :n])
                self._piece = self._piece[:, n:]

    def _encode(self, samples: np.ndarray) -> None:
        if not samples.shape[1]:
            return
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", self._layout)
        frame.sample_rate, frame.pts = self._rate, self._written
        frame.time_base = Fraction(1, self._rate)
        self._written += samples.shape[1]
        for packet in self._out.encode(frame):
            self._target.mux(packet)

    def finish(self) -> None:
        """Write what the encoder holds back."""
        if not self._written:  # a stream without a packet makes a file that some players refuse
            self._encode(np.zeros((1 if self._layout == "mono" else 2, 1024), np.float32))
        for packet in self._out.encode(None):
            self._target.mux(packet)

    def close(self) -> None:
        """Close the file that the sound is read from."""
        self._source.close()


def _resampled(resampler: Any, frame: Any) -> list[np.ndarray]:
    return [] if resampler is None else [f.to_ndarray() for f in resampler.resample(frame)]


def _is_decodable(path: str | os.PathLike[str], stream: Any) -> bool:
    """Whether one of the track's first packets becomes sound."""
    if not getattr(stream, "rate", None):  # no decoder here (a phone's spatial sound)
        return False
    try:
        with open_container(path, what="sound") as container:
            track = container.streams[stream.index]
            for number, packet in enumerate(container.demux(track)):
                try:
                    if any(frame.samples for frame in packet.decode()):
                        return True
                except BROKEN_MEDIA:
                    pass
                if number >= _PACKETS_TRIED:
                    return False
    except (UserError, *BROKEN_MEDIA):
        return False
    return False
