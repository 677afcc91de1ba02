"""The run directory: configuration, provenance, statistics, pictures.

config.yaml                the whole configuration
record.json                one entry for every start: command line, versions, git, device, data, loss networks
stats.jsonl                one line a logged step
evaluation.json            the newest numbers on unseen clips
skipped.jsonl              one line a step that was left out, with the frames it saw
events.out.tfevents.*      the same for TensorBoard
images/000001000.png       source | driving | raw | final | depth
network-000008000.safetensors, network-latest.safetensors    averaged weights and what is needed to use them
state-000001000.safetensors                                  everything needed to go on
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import threading
import weakref
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dnnlib import UserError, atomic_path, atomic_write, save_yaml, write_json
from dnnlib.config import read_config
from dnnlib.errors import SavedError
from dnnlib.files import open_lock
from dnnlib.places import check_new_file
from dnnlib.reading.files import open_file
from dnnlib.reading.text import parse_json
from dnnlib.typed import flat
from running.keys import KeyRules
from running.provenance import now, provenance, read_starts
from torch_utils.train_state import latest_train_state

_EVENT_THREAD = "_AsyncWriterThread"  # of tensorboard


def differing_keys(old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) wherever two configurations differ."""
    a, b = flat(old), flat(new)
    return [(key, a[key], b[key]) for key in a if a[key] != b[key]]


_PROGRESS = ("n_", "images", "steps", "pairs", "skipped", "unreadable", "replaced")
_SCHEDULE = ("lr", "adversarial_factor", "temperature")


def board_tag(name: str) -> str:
    """A number's name in TensorBoard, where what stands before a slash is a group; in stats.jsonl it has none."""
    if "/" in name:
        return name
    if name in _SCHEDULE:
        return f"schedule/{name}"
    if name.startswith("grad_norm") or name == "plane_residual":
        return f"gradients/{name}"
    if name.endswith("_per_s") or name.startswith(_PROGRESS):
        return f"progress/{name}"
    return f"loss/{name}"


class RunDirectory:
    """The folder of one run; only the main process makes one."""

    def __init__(
        self,
        path: Path,
        config: Any,  # a dataclass, see dnnlib.config
        rules: KeyRules,
        allowed: Collection[
            str
        ] = (),  # further keys of the configuration that may change from here on
    ) -> None:
        """Make or reopen the folder.

        Raises:
            UserError: it holds a run of another configuration, or another process trains in it at this moment.
        """
        self.path = path
        self.changes = self.check(path, config, rules, allowed)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = open_lock(path / ".lock")
        except OSError as error:
            raise UserError(
                f"the run directory {path} cannot be written ({error.strerror}); choose another --out"
            ) from error
        _take_lock(self._lock, path)
        save_yaml(config, path / "config.yaml")
        self._stats: IO[str] | None = None
        self._board: Any = None
        self._untold: set[str] = set()

    @staticmethod
    def check(
        path: Path, config: Any, rules: KeyRules, allowed: Collection[str] = ()
    ) -> list[tuple[str, Any, Any]]:
        """Refuse a folder whose run has another configuration; touches nothing. (key, old, new) of what changes.

        Raises:
            UserError: names the first differing key.
        """
        if path.exists() and not path.is_dir():
            raise UserError(f"--out {path} is a file; give a folder")
        if not (path / "config.yaml").is_file():
            if latest_train_state(path) is not None:
                raise UserError(
                    f"{path} holds training states but no config.yaml; choose another --out"
                )
            return []
        changes = differing_keys(read_config(type(config), path / "config.yaml"), config)
        differing = [d for d in changes if d[0] not in rules.free and d[0] not in allowed]
        # without a state nothing was computed that could be mixed up
        if not differing or latest_train_state(path) is None:
            return changes
        key, was, now = differing[0]
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise UserError(
            f"{path} holds a run with {key}={was!r} but this command asks for {now!r}{more}; "
            f"choose another --out, repeat the command of that run, or say --allow-change {key}={now}"
        )

    def record_start(self, facts: Mapping[str, Any]) -> None:
        """Append an entry to record.json: this start's command line, versions and `facts`."""
        path = self.path / "record.json"
        starts = read_starts(path)
        changes = [{"key": key, "was": was, "is": now} for key, was, now in self.changes]
        starts.append({**provenance(), **({"changes": changes} if changes else {}), **facts})
        write_json(path, {"starts": starts})

    def record_end(self, how: str) -> None:
        """Note in the newest entry of record.json how this start ended."""
        path = self.path / "record.json"
        starts = read_starts(path)
        starts[-1]["ended"] = {"time": now(), "how": how}
        with self._full_disk_told("the end"):
            write_json(path, {"starts": starts})

    def begin(self, step: int) -> None:
        """Open the statistics; what a killed process wrote about later steps is dropped."""
        from torch.utils.tensorboard import SummaryWriter  # here: slow to import

        path = self.path / "stats.jsonl"
        check_new_file(path)
        if path.is_file():
            with open_file(path, "move it away", may_be_empty=True) as file:
                kept = [line for line in file if _step_of(line) <= step]
            with atomic_write(path, "wb") as out:
                out.writelines(kept)
        self._stats = open(path, "a", encoding="utf-8")  # noqa: SIM115
        _hush_events()
        self._board = SummaryWriter(str(self.path), purge_step=step + 1 if step else None)

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """One line of stats.jsonl; numbers go to TensorBoard too."""
        assert self._stats is not None, "begin() first"
        with self._full_disk_told("statistics"):
            self._stats.write(json.dumps({"step": step, **values}) + "\n")
            self._stats.flush()
        with self._board_open(step) as board:
            for name, value in values.items():
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    board.add_scalar(board_tag(name), value, step)

    def skipped(self, values: Mapping[str, Any]) -> None:
        """One line of skipped.jsonl: a step that was left out, and the frames it saw."""
        with (
            self._full_disk_told("skipped steps"),
            open(self.path / "skipped.jsonl", "a", encoding="utf-8") as file,
        ):
            file.write(json.dumps(values) + "\n")

    def image(self, step: int, name: str, grid: npt.NDArray[np.uint8]) -> None:
        """A picture [H, W, 3]: images/<step>.png and TensorBoard."""
        with self._full_disk_told("pictures"):
            with atomic_path(self.path / "images" / f"{step:09d}.png") as temporary:
                Image.fromarray(grid).save(temporary)
        with self._board_open(step) as board:
            board.add_image(name, grid, step, dataformats="HWC")

    @contextmanager
    def _board_open(self, step: int) -> Iterator[Any]:
        """TensorBoard's writer; its thread dies of a full disk, so that another one follows it."""
        from torch.utils.tensorboard import SummaryWriter  # here: slow to import

        with self._full_disk_told("events of TensorBoard"):
            try:
                self._board = self._board or SummaryWriter(str(self.path), purge_step=step)
                yield self._board
            except OSError:
                self._board = None
                raise

    def evaluation(self, values: Mapping[str, Any]) -> None:
        """evaluation.json: the newest numbers on unseen clips."""
        with self._full_disk_told("evaluations"):
            write_json(self.path / "evaluation.json", values)

    @contextmanager
    def _full_disk_told(self, what: str) -> Iterator[None]:
        """What only tells of the training does not end it: a line when it cannot be written, once for each kind."""
        try:
            yield
        except (OSError, UserError) as error:
            if what not in self._untold:
                print(
                    f"{what} of {self.path} are not written ({error}); training goes on",
                    file=sys.stderr,
                )
            self._untold.add(what)

    def publish(self, path: Path, latest: str) -> None:
        """Make the file called `latest` the same as `path`."""
        with atomic_path(path.with_name(latest)) as temporary:
            try:
                os.link(path, temporary)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, temporary)

    def prune(self, prefix: str, keep_last: int, keep_every: int = 0) -> None:
        """Delete all but the newest `keep_last` files <prefix>-<number>.safetensors, and what kills left over.

        keep_every: numbers that are multiples of it stay; 0: none.
        """
        for old in sorted(self.path.glob(f"{prefix}-[0-9]*.safetensors"))[:-keep_last]:
            number = int(old.stem.removeprefix(f"{prefix}-"))
            if not (keep_every and number % keep_every == 0):
                old.unlink(missing_ok=True)
        for leftover in self.path.glob(f".{prefix}-*.tmp-*"):
            leftover.unlink(missing_ok=True)

    def close(self) -> None:
        if self._stats is not None:
            with self._full_disk_told("statistics"):
                self._stats.close()
            with self._full_disk_told("events of TensorBoard"):
                if self._board is not None:
                    self._board.close()
        self._lock.close()


@contextmanager
def ending_noted(run: RunDirectory | None) -> Iterator[None]:
    """record.json says how the block ended: done, saved, or the sentence of what went wrong."""
    try:
        yield
    except Exception as error:
        if run is not None:
            run.record_end("saved" if isinstance(error, SavedError) else f"failed: {error}"[:500])
        raise
    if run is not None:
        run.record_end("done")


def _take_lock(lock: IO[str], path: Path) -> None:
    """Hold `lock` as long as this process lives.

    Raises:
        UserError: another process has it. A file system without locks is told of, and trained on.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"another process is training in {path}; wait for it or choose another --out"
        ) from error
    except OSError as error:
        print(
            f"{path} is on a file system without locks ({error.strerror}): see that no other process trains in it",
            file=sys.stderr,
        )
    # A child shares the lock: a loader process that outlives its killed owner would keep the run closed.
    descriptor = weakref.ref(lock)

    def let_go() -> None:
        if (file := descriptor()) is not None and not file.closed:
            file.close()

    os.register_at_fork(after_in_child=let_go)


@cache
def _hush_events() -> None:
    """The thread of TensorBoard that meets a full disk prints nothing: whoever writes next gets the exception."""
    before = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        full = isinstance(failed.exc_value, OSError)
        if not (full and type(failed.thread).__name__ == _EVENT_THREAD):
            before(failed)

    threading.excepthook = hook


def _step_of(line: bytes) -> float:
    try:
        return float(parse_json(line, "a line", finite=False)["step"])
    except (UserError, ValueError, KeyError, TypeError):
        return float("inf")  # a line cut short by a kill
