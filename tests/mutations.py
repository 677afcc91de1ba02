"""Wrong inputs for every command: each is refused in one sentence, or what comes of it is right.

    python tests/mutations.py --count 1000 --seed 0
    python tests/mutations.py --count 50 --kinds options,states --seed 3 --verbose
    python tests/mutations.py --only 137

A case is a command of `guard_support.CALLS` with one thing wrong (`mutation_kinds.py`); number and seed decide which.
It runs in a forked process of its own, under the guard of `test_guard.py`. Faults are a traceback, more or less than
one sentence on failure, words that are the program's own, a file left over, a file changed, a socket, a program
started, a hang (TIMEOUT_S of a processor, or WAITING_S), more than MAX_MIB of memory, a signal, a process that outlives
the command, and an input that no command may accept. The command prints what became of each kind, and ends with 1 where
there are faults; --json stores it.

`test_mutations.py` runs a short version.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import json
import os
import pickle
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np  # noqa: E402
from click.testing import CliRunner  # noqa: E402
from guard_stand_ins import STAND_INS  # noqa: E402
from guard_support import Guard, commands, signature  # noqa: E402
from mutation_bench import Bench, Call, make_bench  # noqa: E402
from mutation_judge import judged, left_over, names_in, unsound  # noqa: E402
from mutation_kinds import KINDS  # noqa: E402
from rights_support import drop_rights  # noqa: E402

TIMEOUT_S = 60.0  # of a processor, for one case: other work on the machine does not count
WAITING_S = 300.0  # of the clock, for one that waits for something
MAX_MIB = 2048  # beyond what the process held before
ADDRESS_MIB = 6 * 1024  # of address space: an allocation of more fails at once


@dataclass
class Outcome:
    """What became of one case."""

    kind: str = ""
    command: str = ""
    what: str = ""  # was wrong
    note: str = ""  # why it may be accepted
    status: int = 0
    said: str = ""  # the sentence
    faults: list[str] = field(default_factory=list)
    peak_mib: int = 0
    seconds: float = 0.0

    @property
    def result(self) -> str:
        return "fault" if self.faults else "refused" if self.status else "accepted"


# ---- one case, in a process of its own ---------------------------------------------------------------------------


def _case(bench: Bench, guard: Guard, number: int, seed: int, kinds: list[str]) -> Outcome:
    kind = kinds[number % len(kinds)]
    rng = np.random.default_rng([seed, list(KINDS).index(kind), number])
    place = bench.root / f"case-{number}"
    here = place / "alone" / "here"
    here.mkdir(parents=True)
    (place / "tmp").mkdir()
    (place / "in").mkdir()
    os.chdir(here)
    call = KINDS[kind].make(bench, place, rng)
    outcome = Outcome(kind, call.command, call.what, call.note)
    print(f"{call.command}: {call.what}", flush=True)  # should it hang
    faulthandler.dump_traceback_later(WAITING_S - 5, file=2)
    names = names_in(here)
    before = signature(place, [here, place / "tmp", *call.in_place])
    _limit_memory()
    held = _memory_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    if call.without_rights:
        drop_rights()
    result = _invoke(call, guard, place)
    outcome.peak_mib = _memory_mib("VmHWM") - held
    outcome.status = result.exit_code
    from dnnlib import files

    files._remove_what_is_left()  # a program does at its end, which a forked process skips
    outcome.said, outcome.faults = judged(result, call)
    outcome.faults += [f"forbidden: {s}" for s in guard.seen]
    is_same = signature(place, [here, place / "tmp", *call.in_place]) == before
    if not is_same and not call.without_rights:  # then not all can be looked at
        outcome.faults.append("an input was changed")
    left = left_over(call.command, outcome.said, here, names) if result.exit_code else set()
    left |= {n for n in names_in(here) if ".tmp-" in n or n.endswith(".part")}
    left |= {f"tmp/{n}" for n in names_in(place / "tmp")}
    if left:
        outcome.faults.append(f"left over: {', '.join(sorted(left)[:5])}")
    if outcome.peak_mib > MAX_MIB:
        outcome.faults.append(f"took {outcome.peak_mib} MiB")
    if not result.exit_code:
        outcome.faults += unsound(here)
    return outcome


def _invoke(call: Call, guard: Guard, place: Path) -> Any:
    import torch_utils.ops.library as library
    from dataset.synthesis.basis import cache_folder

    patches = [mock.patch(t, new) for t, new in STAND_INS.get(call.command, {}).items()]
    free = [Path.cwd(), *call.in_place]  # what is left there is looked at afterwards
    main = importlib.import_module(call.command.split()[0]).main
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        stack.enter_context(
            guard.watching(place, [], [library.cache_folder(), cache_folder(), *free])
        )
        return CliRunner().invoke(main, [*call.command.split()[1:], *call.words])


def _memory_mib(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) // 1024 if found else 0


def _limit_memory() -> None:
    limit = (_memory_mib("VmSize") + ADDRESS_MIB) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


# ---- all cases ---------------------------------------------------------------------------------------------------


def _forked(act: Callable[[], Any], log: Path) -> tuple[int, int]:
    """(process, descriptor of a pipe with what `act` returned, pickled). The child leads a group of its own."""
    reads, writes = os.pipe()
    process = os.fork()
    if process:
        os.close(writes)
        return process, reads
    status = 1
    try:
        os.setsid()
        os.close(reads)
        with open(log, "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.stdout = os.fdopen(1, "w", errors="backslashreplace", closefd=False)
            faulthandler.enable(file)
        answer = pickle.dumps(act())
        with open(writes, "wb") as pipe:
            pipe.write(answer)
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _import_all() -> None:
    """What the cases need, once, instead of in every process."""
    commands()
    for name in ("torch._dynamo", "torchmetrics", "torchvision", "onnx", "scipy.io", "skimage.data",
                 "torch.utils.tensorboard", "ai_edge_litert.interpreter"):  # fmt: skip
        importlib.import_module(name)


@dataclass
class Report:
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        return [f"{describe(o)}: {f}" for o in self.outcomes for f in o.faults]

    def record(self) -> dict[str, Any]:
        """Numbers by kind, and of all cases."""
        kinds = {}
        for kind in dict.fromkeys(o.kind for o in self.outcomes):
            mine = [o for o in self.outcomes if o.kind == kind]
            counts = {r: sum(o.result == r for o in mine) for r in ("refused", "accepted", "fault")}
            kinds[kind] = {**counts, "accepted because": KINDS[kind].accepted}
        return {
            "kinds": kinds,
            "cases": len(self.outcomes),
            "with faults": sum(bool(o.faults) for o in self.outcomes),
            "peak MiB": max(o.peak_mib for o in self.outcomes),
            "slowest, seconds": round(max(o.seconds for o in self.outcomes), 1),
            "faults": self.faults,
        }

    def table(self) -> Iterator[str]:
        record = self.record()
        yield f"{'kind':14} {'refused':>8} {'accepted':>9} {'faults':>7}  accepted because"
        for kind, row in record["kinds"].items():
            yield "{:14} {refused:8d} {accepted:9d} {fault:7d}  {accepted because}".format(
                kind, **row
            )
        yield (
            f"{record['cases']} cases, peak {record['peak MiB']} MiB, slowest {record['slowest, seconds']} s, "
            f"{record['with faults']} with faults"
        )


def describe(outcome: Outcome) -> str:
    return f"[{outcome.kind}] {outcome.command}: {outcome.what}"


def run(
    count: int,
    seed: int = 0,
    kinds: list[str] | None = None,
    jobs: int = 2,
    numbers: list[int] | None = None,
    told: Callable[[int, Outcome], None] = lambda number, outcome: None,
) -> Report:
    """Try the cases, `jobs` at a time, in the order of their numbers."""
    kinds = kinds or list(KINDS)
    _import_all()
    guard = Guard()
    with tempfile.TemporaryDirectory(prefix="mutations-") as name:
        root = Path(name).resolve()
        bench: Bench = _answer(*_forked(lambda: make_bench(root), root / "log"), root / "log")
        waiting = list(numbers if numbers is not None else range(count))
        found: dict[int, Outcome] = {}
        running: dict[int, tuple[int, int, float]] = {}  # descriptor -> number, process, start
        while waiting or running:
            while waiting and len(running) < jobs:
                number = waiting.pop(0)
                process, reads = _forked(
                    lambda number=number: _case(bench, guard, number, seed, kinds),  # type: ignore[misc]
                    root / f"log-{number}",
                )
                running[reads] = (number, process, monotonic())
            ready, _, _ = select.select(list(running), [], [], 0.5)
            late = [r for r, (_, process, began) in running.items() if _is_late(process, began)]
            for reads in {*ready, *late}:
                number, process, began = running.pop(reads)
                outcome = _ended(process, reads, root / f"log-{number}", reads in late)
                outcome.kind = outcome.kind or kinds[number % len(kinds)]
                outcome.seconds = monotonic() - began
                found[number] = outcome
                told(number, outcome)
                _remove(root / f"case-{number}")
    return Report([found[n] for n in sorted(found)])


def _is_late(process: int, began: float) -> bool:
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    worked_s = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return worked_s > TIMEOUT_S or monotonic() - began > WAITING_S


def _ended(process: int, reads: int, log: Path, is_late: bool) -> Outcome:
    if is_late:
        words = log.read_text(errors="replace")
        outcome = Outcome(faults=[f"hangs: {words[:200]} {words[-1500:]}"])
        os.killpg(process, signal.SIGKILL)
        os.close(reads)
        os.waitpid(process, 0)
        return outcome
    try:
        outcome = _answer(process, reads, log)
    except RuntimeError as error:
        return Outcome(faults=[str(error)])
    try:
        os.killpg(process, signal.SIGKILL)
        outcome.faults.append("a process outlives the command")
    except ProcessLookupError:
        pass
    return outcome


def _answer(process: int, reads: int, log: Path) -> Any:
    with open(reads, "rb") as pipe:
        answer = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status or not answer:
        words = log.read_bytes()[-1800:].decode(errors="replace")
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        raise RuntimeError(f"ends by {how}: {words}")
    return pickle.loads(answer)  # of our own child


def _remove(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")] if folder.is_dir() else []:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000, help="cases in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {','.join(KINDS)}")
    parser.add_argument("--only", default="", help="numbers of cases, separated by commas")
    parser.add_argument("--jobs", type=int, default=2, help="at a time")
    parser.add_argument("--json", type=Path, help="store the table here")
    parser.add_argument("--verbose", action="store_true", help="print every case")
    options = parser.parse_args()
    numbers = [int(n) for n in options.only.split(",")] if options.only else None

    def told(number: int, outcome: Outcome) -> None:
        if options.verbose or numbers:
            print(f"{number} {outcome.result} {describe(outcome)} -> {outcome.said}", flush=True)
            for fault in outcome.faults:
                print(f"    {fault}", flush=True)

    report = run(options.count, options.seed, options.kinds.split(","), options.jobs, numbers, told)
    for line in report.table():
        print(line)
    if options.json is not None:
        record = {"count": options.count, "seed": options.seed, **report.record()}
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    for fault in report.faults:
        print(fault)
    sys.exit(1 if report.faults else 0)


if __name__ == "__main__":
    main()
