"""`--profile`: where the time of a few steps goes, in this process, and what in a step makes the CPU wait for a GPU.

    profile/step-000000005.txt             operators by time, copies, synchronisations with the lines that ask for them
    profile/step-000000005.trace.json.gz   the same steps as a time line, for chrome://tracing or ui.perfetto.dev

Steps in the profiler take longer than others, and those of a process that others wait for hold these up.
"""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dnnlib import atomic_path, atomic_write

FOLDER = "profile"
_WARM, _TIMED = 2, 3  # steps: caches and allocators settle; in the profiler. One more is listed.
STEPS = _WARM + _TIMED + 1
_ROWS = 40
_COPIES = ("aten::copy_", "aten::_to_copy", "aten::clone", "aten::contiguous", "Memcpy", "Memset")
# Operators whose answer the CPU needs before it goes on: a GPU is waited for.
_WAITS = (
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::is_nonzero",
    "aten::_unique2",
    "aten::repeat_interleave",
    "aten::bincount",
)
_ROOT = Path(__file__).resolve().parents[1]


class Waits(TorchDispatchMode):
    """Counts what a GPU would be waited for, by operator and by the line of this project that asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = func.name().partition(".")[0]
        if (
            name in _WAITS
            or (name == "aten::index" and _has_mask(args[1]))
            or _to_cpu(name, args, kwargs or {})
        ):
            self.found[name, _asker()] += 1
        return func(*args, **(kwargs or {}))


def _has_mask(indices: Any) -> bool:
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)


def _to_cpu(name: str, args: tuple[Any, ...], options: Mapping[str, Any]) -> bool:
    if name == "aten::copy_":
        into, source = args[:2]
        blocking = not (args[2] if len(args) > 2 else options.get("non_blocking"))
        return bool(source.is_cuda and not into.is_cuda and blocking)
    wanted = options.get("device")
    if name != "aten::_to_copy" or wanted is None or not args[0].is_cuda:
        return False
    return torch.device(wanted).type == "cpu" and not options.get("non_blocking")


def _asker() -> str:
    """file:line of the innermost frame of this project; the backward pass has none of its own."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(_ROOT) and ".venv" not in path.parts and path != Path(__file__):
            return f"{path.relative_to(_ROOT).as_posix()}:{frame.lineno} in {frame.name}"
    return "?"


class Profiler:
    """Around the steps of the loop: `with profiler.step(): ...`; writes by itself when it has seen enough."""

    def __init__(self, out: Path, device: torch.device, listed: bool = True) -> None:
        self._out, self._device = out / FOLDER, device
        self._listed = (
            listed  # whether a step is run to list what waits; not where graphs are compiled
        )
        self._seen = 0
        self._profile: torch.profiler.profile | None = None
        self._waits = Waits()

    @contextmanager
    def step(self) -> Iterator[None]:
        """A step, timed or listed as its turn is."""
        self._seen += 1
        if self._seen == _WARM + 1:
            self._profile = torch.profiler.profile(record_shapes=True)
            self._profile.start()
        if self._seen == STEPS and self._listed:
            with self._waits:
                yield
        else:
            yield

    def step_done(self, step: int) -> None:
        """After everything that belongs to step number `step`."""
        if self._profile is not None and self._seen == _WARM + _TIMED:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self._profile.stop()
        if self._profile is not None and self._seen == STEPS:
            self._write(step, self._profile)
            self._profile = None

    def close(self) -> None:
        """The run ends; says so when it was too short."""
        if self._seen < STEPS:
            print(
                f"--profile needs {STEPS} steps, this start had {self._seen}: nothing is written",
                file=sys.stderr,
            )

    def _write(self, step: int, profile: torch.profiler.profile) -> None:
        self._out.mkdir(exist_ok=True)
        name = f"step-{step:09d}"
        with atomic_path(self._out / f"{name}.trace.json.gz") as temporary:
            profile.export_chrome_trace(str(temporary))
        with atomic_write(self._out / f"{name}.txt", "w") as file:
            file.write(self._text(profile))
        print(f"profile: {self._out / name}.txt", file=sys.stderr, flush=True)

    def _text(self, profile: torch.profiler.profile) -> str:
        gpu = self._device.type == "cuda"
        averages = profile.key_averages()
        order = "self_device_time_total" if gpu else "self_cpu_time_total"
        parts = [
            f"Operators, {_TIMED} steps\n",
            averages.table(sort_by=order, row_limit=_ROWS),
            f"\nCopies, {_TIMED} steps\n",
            *(
                f"{event.count:8d}  {event.self_cpu_time_total / 1000:10.2f} ms on the CPU  {event.key}\n"
                for event in averages
                if event.key.startswith(_COPIES)
            ),
            "\nSynchronisations of one step: what makes the CPU wait for a GPU\n",
            *(
                f"{count:8d}  {name:28} {line}\n"
                for (name, line), count in self._waits.found.most_common()
            ),
        ]
        if not self._listed:
            parts.append("   (not listed: the step is compiled)\n")
        return "".join(parts)
