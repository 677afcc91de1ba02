"""Runs a command whose run directory lies on a disk of a few megabytes: unshare -rm python small_disk.py ...

    small_disk.py DISK KILOBYTES INODES KEEP [--fill FREE_KB] COMMAND...

DISK is an empty folder, on which a tmpfs is mounted that nobody else sees. With --fill a file takes all but FREE_KB
as soon as the first state is there, and goes away when the command says that a save failed; KEEP/full.json lists what
the disk holds at that moment. At the end it is copied to KEEP/disk.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from torch_utils.train_state import load_train_state, train_states


def main(words: list[str]) -> int:
    disk, kilobytes, inodes, keep, *command = words
    place, kept = Path(disk), Path(keep)
    size = f"size={kilobytes}k,nr_inodes={inodes}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", disk], check=True)
    free_kb = 0
    if command[0] == "--fill":
        free_kb = int(command[1])
        command = command[2:]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    if free_kb:
        threading.Thread(target=fill, args=(process, place, free_kb), daemon=True).start()
    for line in process.stderr:
        sys.stderr.write(line)
        sys.stderr.flush()
        if "is not saved" in line and (place / "filler").exists():
            note(place, kept / "full.json")
            (place / "filler").unlink()
    code = process.wait()
    shutil.copytree(place, kept / "disk")
    return code


def fill(process: subprocess.Popen[str], place: Path, free_kb: int) -> None:
    """Leave so many kilobytes as soon as the first state and its network are there."""
    run = place / "run"
    while process.poll() is None and not train_states(run):
        time.sleep(0.01)
    left = shutil.disk_usage(place).free - 1024 * free_kb
    (place / "filler").write_bytes(bytes(max(0, left)))


def note(place: Path, path: Path) -> None:
    """What a full disk holds: its files, and the step of the newest state, which is whole."""
    newest = train_states(place / "run")[-1]
    names = sorted(p.name for p in (place / "run").iterdir())
    path.write_text(json.dumps({"names": names, "step": load_train_state(newest)[0]["step"]}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
