"""Damaged files for every reader of `dnnlib/reading`, in a child process that may die without harm.

    python tests/fuzz_readers.py --count 20000 --seed 0
    python tests/fuzz_readers.py --kinds mat,zip --count 500 --start 137

Each case is a good file with some bytes changed, or cut off; the case's number and the seed decide which. A reader may
accept the file or refuse it with a `UserError`. Everything else is a fault: another exception, a signal, more than
TIMEOUT_S for one file, more than MAX_MIB of memory, a socket, a program started. The command ends with 1 then.

`test_fuzz_readers.py` runs a short version.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import fuzz_samples  # noqa: E402
from fuzz_samples import SIDE  # noqa: E402

TIMEOUT_S = 30.0  # one file; the slowest good one takes a tenth of a second
MAX_MIB = 2048  # of the process, its libraries included
FORBIDDEN = (
    *("socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen"),
    *("os.system", "os.exec", "os.posix_spawn", "os.fork"),
)
HEAD_BYTES = 256  # where half of the changes fall: headers decide what memory is taken


# ---- readers -----------------------------------------------------------------------------------------------------


def _read_picture(path: Path) -> None:
    from dataset.codecs import decode_depth, decode_mask
    from dnnlib.reading.pictures import read_picture

    image = read_picture(path)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    read_picture(path, max_side=32)
    decode_mask(path.read_bytes())
    if path.name == "deep.png":
        decode_depth(path.read_bytes())


def _read_video(path: Path) -> None:
    from tracking.media import VideoReader, VideoWriter

    reader = VideoReader(path, threads=1)
    for frame in reader:
        assert frame.image.dtype == np.uint8 and frame.image.shape[2] == 3
    for _ in reader.frames(start_s=0.08, max_side=32, max_fps=12):
        pass
    if reader.has_audio:
        with VideoWriter(path.with_name("out.mp4"), 25, audio_from=path) as writer:
            for _ in range(2):
                writer.write(np.zeros((SIDE, SIDE, 3), np.uint8))


def _read_checkpoint(path: Path) -> None:
    from pretrained.weights import read_weights
    from torch_utils.checkpoints import load_checkpoint

    if path.suffix == ".safetensors":
        load_checkpoint(path)
    read_weights(path)


def _read_arrays(path: Path) -> None:
    from dataset.preparation.results import measured, read_arrays
    from dnnlib.reading.arrays import open_npy

    if path.suffix == ".npy":
        np.array(open_npy(path))
    else:
        measured(read_arrays(path), path)


def _read_archive(path: Path) -> None:
    from dataset.eg3d import read_eg3d
    from dnnlib.errors import UserError
    from dnnlib.reading.archives import archive_names, copy_member, read_member

    for name in archive_names(path):
        try:
            read_member(path, name)
        except UserError:
            continue
        copy_member(path, name, path.with_name("out"))
    if path.suffix == ".zip":
        data = read_eg3d(path)
        for i in range(len(data)):
            data.image(i)


def _read_dataset(path: Path) -> None:
    from dataset.reader import open_dataset
    from dataset.verify import verify_dataset, verify_part

    folder = path if path.is_dir() else path.parent
    for check in (lambda: verify_part(folder, 0), lambda: verify_dataset(open_dataset(folder))):
        _refused(check)
    data = open_dataset(folder)
    for i in range(len(data)):
        for read in (data.image, data.depth, data.mask, data.camera, data.beta):
            _refused(lambda: read(i))  # noqa: B023  (called at once)


def _refused(call: Callable[[], Any]) -> None:
    from dnnlib.errors import UserError

    with suppress(UserError):
        call()


@dataclass(frozen=True)
class Kind:
    make: Callable[[Path], list[Path]]
    read: Callable[[Path], None]
    share: float  # of all cases


KINDS = {
    "picture": Kind(fuzz_samples.pictures, _read_picture, 0.3),
    "video": Kind(fuzz_samples.videos, _read_video, 0.2),
    "safetensors": Kind(fuzz_samples.checkpoints, _read_checkpoint, 0.1),
    "npy": Kind(fuzz_samples.arrays, _read_arrays, 0.1),
    "mat": Kind(fuzz_samples.matlab, _read_arrays, 0.1),
    "zip": Kind(fuzz_samples.archives, _read_archive, 0.1),
    "dataset": Kind(fuzz_samples.datasets, _read_dataset, 0.1),
}


# ---- one case ----------------------------------------------------------------------------------------------------


def changed(content: bytes, rng: np.random.Generator) -> bytes:
    """One byte mostly, sometimes several or a run, sometimes the file's end cut off."""
    data = bytearray(content)
    way = rng.random()
    if way < 0.05:
        return bytes(data[: int(rng.integers(0, len(data)))])
    for _ in range(1 if way < 0.7 else int(rng.integers(2, 9))):
        end = min(HEAD_BYTES, len(data)) if rng.random() < 0.5 else len(data)
        place = int(rng.integers(0, end))
        if rng.random() < 0.2:  # numbers of two to eight bytes: nothing, all, the largest signed
            value = rng.choice(np.array([0x00, 0xFF, 0x7F], np.uint8))
            for k in range(int(rng.choice([2, 4, 8]))):
                if place + k < len(data):
                    data[place + k] = value
        else:
            data[place] ^= int(rng.integers(1, 256))
    return bytes(data)


def _case(kind: str, number: int, seed: int, samples: list[Path], folder: Path) -> Path:
    """The file to be read: a changed copy, for data sets a changed copy of the whole folder."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind), number])
    sample = samples[number % len(samples)]
    content = changed(sample.read_bytes(), rng)
    if kind == "dataset":
        root = folder.parent / "good-dataset"
        for path in samples:
            target = folder / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content if path == sample else path.read_bytes())
        return folder
    target = folder / sample.name
    target.write_bytes(content)
    return target


def child(kinds: list[str], counts: list[int], start: int, seed: int, folder: Path) -> None:
    """Reads all cases from `start` on; says each before it is read, and what became of it."""
    from dnnlib.errors import UserError

    watching = False

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event in FORBIDDEN:
            print(json.dumps({"forbidden": f"{event} {arguments!r:.200}"}), flush=True)

    sys.addaudithook(watch)
    number = 0
    for kind, count in zip(kinds, counts, strict=True):
        good = folder / f"good-{kind}"
        if number + count > start:
            fresh = not good.is_dir()
            good.mkdir(exist_ok=True)
            samples = (
                KINDS[kind].make(good)
                if fresh
                else sorted(p for p in good.rglob("*") if p.is_file())
            )
            for sample in samples:  # the good ones must be good; libraries are loaded now
                KINDS[kind].read(good if kind == "dataset" else _copied(sample, folder / "case"))
        for i in range(count):
            if number >= start:
                path = _case(kind, i, seed, samples, folder / "case")
                print(
                    json.dumps({"begin": number, "kind": kind, "file": path.name, "case": i}),
                    flush=True,
                )
                watching = True
                try:
                    KINDS[kind].read(path)
                    outcome = "accepted"
                except UserError as error:
                    outcome = "refused"
                    if "\n" in str(error).strip():
                        outcome = f"fault: two lines: {error}"
                except BaseException:
                    outcome = "fault: " + traceback.format_exc()[-1500:]
                watching = False
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
                print(json.dumps({"end": outcome, "peak": peak}), flush=True)
            number += 1


def _copied(sample: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    target = folder / sample.name
    target.write_bytes(sample.read_bytes())
    return target


# ---- all cases ---------------------------------------------------------------------------------------------------


@dataclass
class Report:
    counts: dict[str, dict[str, int]] = field(default_factory=dict)  # kind -> outcome -> how often
    peak_mib: int = 0
    slowest_s: float = 0.0
    faults: list[str] = field(default_factory=list)

    def add(self, kind: str, outcome: str) -> None:
        row = self.counts.setdefault(kind, {"accepted": 0, "refused": 0, "fault": 0})
        row[outcome] += 1


def run(count: int, seed: int = 0, kinds: list[str] | None = None, start: int = 0) -> Report:
    """Try `count` cases, spread over the kinds; a child that dies is started again behind the case."""
    kinds = kinds or list(KINDS)
    total = sum(KINDS[k].share for k in kinds)
    counts = [max(1, round(count * KINDS[k].share / total)) for k in kinds]
    report = Report()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        (Path(name) / "case").mkdir()
        while start < sum(counts):
            start = _watch(kinds, counts, start, seed, Path(name), report)
    return report


def _watch(
    kinds: list[str], counts: list[int], start: int, seed: int, folder: Path, report: Report
) -> int:
    """Run one child to its end, or to its death; returns the case to go on with."""
    arguments = [",".join(kinds), ",".join(map(str, counts)), str(start), str(seed), str(folder)]
    command = [sys.executable, __file__, "--child", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    with (
        open(folder / "errors", "w+b") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=environment
        ) as process,
    ):
        assert process.stdout is not None
        current: dict[str, Any] | None = None
        began = monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                # Before its first case the child makes good files, which takes longer.
                if not selector.select(TIMEOUT_S if current else 10 * TIMEOUT_S):
                    process.kill()
                    return _died(report, current, f"hangs for {TIMEOUT_S:.0f} s", start)
                line = process.stdout.readline()
                if not line:
                    break
                said = json.loads(line)
                if "begin" in said:
                    current, began = said, monotonic()
                elif "forbidden" in said:
                    report.faults.append(f"{current}: {said['forbidden']}")
                else:
                    assert current is not None
                    outcome = said["end"]
                    report.add(current["kind"], outcome.split(":")[0])
                    if outcome.startswith("fault"):
                        report.faults.append(f"{current}: {outcome}")
                    if report.peak_mib <= MAX_MIB < said["peak"]:
                        report.faults.append(f"{current}: {said['peak']} MiB of memory")
                    report.peak_mib = max(report.peak_mib, said["peak"])
                    report.slowest_s = max(report.slowest_s, monotonic() - began)
                    start, current = current["begin"] + 1, None
        status = process.wait()
        if status == 0:
            return sum(counts)
        errors.seek(0)
        words = errors.read()[-1500:].decode(errors="replace")
        name = signal.Signals(-status).name if status < 0 else f"status {status}"
        if current is None:
            raise RuntimeError(f"the readers do not read good files ({name}):\n{words}")
        return _died(report, current, f"ends by {name}: {words}", start)


def _died(report: Report, current: dict[str, Any] | None, how: str, start: int) -> int:
    if current is None:
        raise RuntimeError(f"no case had begun, but the child {how}")
    report.add(current["kind"], "fault")
    report.faults.append(f"{current}: {how}")
    return int(current["begin"]) + 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=20_000, help="cases in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {','.join(KINDS)}")
    parser.add_argument("--start", type=int, default=0, help="pass over the cases before")
    options = parser.parse_args()
    began = monotonic()
    report = run(options.count, options.seed, options.kinds.split(","), options.start)
    print(f"{'kind':12} {'accepted':>9} {'refused':>9} {'faults':>9}")
    for kind, row in report.counts.items():
        print(f"{kind:12} {row['accepted']:9d} {row['refused']:9d} {row['fault']:9d}")
    print(
        f"peak memory {report.peak_mib} MiB, slowest file {report.slowest_s:.2f} s, "
        f"{monotonic() - began:.0f} s in all, {len(report.faults)} faults"
    )
    for fault in report.faults:
        print(fault)
    sys.exit(1 if report.faults else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        names, numbers, first, seed_text, place = sys.argv[2:]
        child(
            names.split(","),
            [int(n) for n in numbers.split(",")],
            int(first),
            int(seed_text),
            Path(place),
        )
    else:
        main()
