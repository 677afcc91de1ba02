"""What may be written where: files that are whole or absent, inputs that stay, signals that leave nothing behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import dnnlib.cli
from dnnlib import UserError, atomic_folder, atomic_path, atomic_paths, atomic_write, write_json
from dnnlib.effects import refuse_unused
from dnnlib.params import (
    InputFile,
    InputFolder,
    InputPath,
    NamedNumber,
    Numbers,
    NumbersOr,
    Option,
    OutputFile,
    OutputFolder,
)
from dnnlib.places import check_apart, check_new_file, check_new_folder
from dnnlib.signals import AGAIN_S, ENDING, Stopped, orderly_exit, signals_held

ROOT = Path(__file__).resolve().parents[1]


# ---- several files, folders ---------------------------------------------------------------------------------------


def test_files_that_belong_together_appear_together(tmp_path: Path) -> None:
    names = [tmp_path / n for n in ("a", "b", "marker")]
    for name in names:
        name.write_text("old")
    with (
        pytest.raises(UserError, match="disk is full"),
        atomic_paths(*names, marker=True) as places,
    ):
        for place in places[:2]:
            place.write_text("new")
        raise OSError(errno.ENOSPC, "full", str(places[1]))
    assert [n.read_text() for n in names] == ["old"] * 3 and len(os.listdir(tmp_path)) == 3
    with atomic_paths(*names, marker=True) as places:
        for place in places:
            place.write_text("new")
        assert [n.read_text() for n in names] == ["old"] * 3
    assert [n.read_text() for n in names] == ["new"] * 3 and len(os.listdir(tmp_path)) == 3


def test_a_file_that_was_not_made_costs_none_of_its_set(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises((UserError, FileNotFoundError)):
        with atomic_paths(tmp_path / "a", tmp_path / "b") as (a, _):
            a.write_text("new")
    assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_is_whole_or_absent(tmp_path: Path, there: bool) -> None:
    target = tmp_path / "d"
    if there:
        target.mkdir()  # empty: as a disk that was mounted
    with pytest.raises(UserError, match="disk is full"), atomic_folder(target, "done") as folder:
        (folder / "part").write_text("half")
        raise OSError(errno.ENOSPC, "full", str(folder / "part"))
    assert os.listdir(tmp_path) == (["d"] if there else [])
    with atomic_folder(target, "done") as folder:
        (folder / "done").write_text("")
        (folder / "part").mkdir()
        assert not (target / "done").exists()
    assert sorted(os.listdir(target)) == ["done", "part"] and os.listdir(tmp_path) == ["d"]
    with pytest.raises(UserError, match="exists already"), atomic_folder(target, "done"):
        pass


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "/dev/null", "/dev/full"])
def test_only_regular_files_are_replaced(kind: str, tmp_path: Path) -> None:
    place = Path(kind) if kind.startswith("/") else tmp_path / "x.json"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind in ("link", "dangling"):
        (tmp_path / "target").write_text("mine")
        place.symlink_to(tmp_path / ("target" if kind == "link" else "nothing"))
    before = place.lstat()
    with pytest.raises(UserError, match="is a link|device, a pipe or a socket"):
        write_json(place, {})
    assert os.path.samestat(place.lstat(), before)
    assert kind != "link" or (tmp_path / "target").read_text() == "mine"


# ---- inputs and outputs -------------------------------------------------------------------------------------------


def _call(folder: Path, *words: str) -> Result:
    """A command that reads a file, any path and a folder, and writes a file and a folder; it tells that it ran."""

    @dnnlib.cli.command()
    @click.option("--file", type=InputFile("a file of numbers"))
    @click.option("--path", type=InputPath(), multiple=True)
    @click.option("--folder", type=InputFolder("a folder of files"))
    @click.option("--out", type=OutputFile(".json"))
    @click.option("--into", type=OutputFolder("made-*", "fixed"))
    def run(**given: Any) -> None:
        click.echo("ran")

    here = os.getcwd()
    os.chdir(folder)
    try:
        return CliRunner().invoke(run, list(words))
    finally:
        os.chdir(here)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "deep" / "n.json").write_text("1")
    (tmp_path / "in.json").write_text("2")
    (tmp_path / "link.json").symlink_to("in.json")
    os.link(tmp_path / "in.json", tmp_path / "twin.json")
    os.link(tmp_path / "data" / "deep" / "n.json", tmp_path / "outside.json")
    (tmp_path / "free.json").write_text("3")
    (tmp_path / "data" / "pointer").symlink_to(tmp_path / "free.json")
    (tmp_path / "door").symlink_to("data")
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / "made-1").write_text("4")
    (tmp_path / "into" / "kept").write_text("5")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--file in.json --out in.json", "in.json is also an input and would be replaced"),
        ("--file link.json --out in.json", "is also an input"),
        ("--file in.json --out link.json", "is also an input"),
        ("--file in.json --out twin.json", "is also an input"),
        ("--path free.json --path in.json --out ./in.json", "is also an input"),
        ("--folder data --out data/deep/n.json", "lies in the input data"),
        ("--folder data --out data/new.json", "lies in the input data"),
        ("--folder data --out door/new.json", "lies in the input data"),
        ("--folder door --out data/new/new.json", "lies in the input door"),
        ("--folder data --out outside.json", "is the file data/deep/n.json of an input"),
        ("--folder data --out free.json", "is the file data/pointer of an input"),
        ("--folder data --into data", "is also an input"),
        ("--folder data --into door", "is also an input"),
        ("--folder data --into data/deep", "lies in the input data"),
        ("--file into/made-1 --into into", "into/made-1 is also an input"),
        ("--folder nothing", "nothing does not exist; give a folder of files"),
        ("--file data", "data is a folder; give a file of numbers"),
        ("--folder in.json", "in.json is a file; give a folder of files"),
        ("--path /dev/zero", "a device, a pipe or a socket"),
        ("--out free.txt", "--out free.txt must end in .json"),
        ("--out in.json/x.json", "in.json is a file, not a folder"),
        ("--into in.json/deep/x", "cannot be made"),
        (f"--out {'x' * 300}.json", "cannot be used (File name too long)"),
    ],
)
def test_an_output_is_no_input(place: Path, words: str, says: str) -> None:
    result = _call(place, *words.split())
    assert result.exit_code == 1 and says in result.output, result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        "--file in.json --out free.json",
        "--folder data --out new/below/x.json",
        "--file into/kept --into into",  # beside what the command makes
        "--folder into --out in.json",
        "--folder data --into other",
        "--out a:b.json",
    ],
)
def test_what_costs_nothing_is_allowed(place: Path, words: str) -> None:
    before = sorted(p.name for p in place.iterdir())
    result = _call(place, *words.split())
    assert result.output == "ran\n", result.output
    assert sorted(p.name for p in place.iterdir()) == before  # the checks make nothing


def test_a_write_protected_file_is_not_replaced(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write everything, so the refusal is played."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "free.json")
    assert "is write-protected" in _call(place, "--out", "free.json").output


def test_circles_of_links_end(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data")
    (tmp_path / "out").write_text("")
    check_apart(tmp_path / "out", tmp_path / "data")


@pytest.mark.parametrize(
    "address", ["http://host/x.json", "tcp:1.2.3.4:5", "rtmp://h/x", "file:x.json"]
)
def test_addresses_are_no_paths(place: Path, address: str) -> None:
    for option in ("--file", "--path", "--out", "--into"):
        result = _call(place, option, address)
        assert result.exit_code == 2 and "is an address; give a path" in result.output


# ---- options ------------------------------------------------------------------------------------------------------


def test_an_option_without_effect_is_refused() -> None:
    @dnnlib.cli.command()
    @click.option("--mode", default="a", type=click.Choice(["a", "b"]))
    @click.option("--data", type=InputPath())
    @click.option("--size", default=1, cls=Option, only_with={"mode": ("b",), "gone": ("x",)})
    @click.option("--people", default=1, cls=Option, only_with={"data": (None,)})
    @click.option("--later", default=1)
    def run(**given: Any) -> None:
        refuse_unused("later", given["mode"] == "b", "with these files")

    def call(*words: str) -> str:
        return CliRunner().invoke(run, list(words)).output

    assert call() == call("--mode", "b", "--size", "1") == call("--people", "1") == ""
    assert call("--size", "1") == "Error: --size has no effect with --mode a; leave it out\n"
    said = call("--data", "/", "--people", "2")
    assert said == "Error: --people has no effect with --data /; leave it out\n"
    assert call("--later", "1") == "Error: --later has no effect with these files; leave it out\n"


def test_lists_of_numbers_are_finite_and_short() -> None:
    assert Numbers(-1, 1, 3).convert("-1, 0.5,1", None, None) == (-1.0, 0.5, 1.0)
    for wrong in ("nan", "1,inf", "2", "0,0,0,0", "1,,1", "x"):
        with pytest.raises(click.UsageError):
            Numbers(-1, 1, 3).convert(wrong, None, None)
    words = NumbersOr(("still",), -1, 1, 2)
    assert words.convert("still", None, None) == "still"
    assert words.convert("1,-1", None, None) == (1.0, -1.0)
    for wrong in ("0.5", "0,0,0", "2,0", "moving", ""):
        with pytest.raises(click.UsageError):
            words.convert(wrong, None, None)


def test_named_numbers_are_finite_and_bounded() -> None:
    assert NamedNumber(-1, 1).convert("jaw=Open=0.5", None, None) == ("jaw=Open", 0.5)
    for wrong in ("jawOpen", "=1", "jawOpen=", "jawOpen=nan", "jawOpen=inf", "jawOpen=2"):
        with pytest.raises(click.UsageError):
            NamedNumber(-1, 1).convert(wrong, None, None)


# ---- signals ------------------------------------------------------------------------------------------------------

SLOW = """
import sys, time
from pathlib import Path
import click
import dnnlib.cli
from dnnlib import atomic_folder, atomic_write
@dnnlib.cli.command()
def main():
    with atomic_folder("folder", "x") as folder, atomic_write("file.json") as file:
        (folder / "x").write_text("half")
        file.write(b"half")
        file.flush()
        print("ready", flush=True)
        time.sleep(60)
main()
"""


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)],
    ids=lambda n: getattr(n, "name", None),
)
def test_signals_leave_no_temporary_file(tmp_path: Path, number: int, code: int) -> None:
    (tmp_path / "file.json").write_text("old")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: [signal.signal(n, signal.SIG_DFL) for n in ENDING],  # whoever runs us
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    assert len(os.listdir(tmp_path)) == 3
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in said, said
    assert os.listdir(tmp_path) == ["file.json"] and (tmp_path / "file.json").read_text() == "old"


def test_what_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    program = SLOW.replace(
        "time.sleep(60)", "import os, signal; os.kill(os.getpid(), signal.SIGHUP)"
    )
    done = subprocess.run(
        ["sh", "-c", 'trap "" HUP; exec "$0" -c "$1"', sys.executable, program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0 and sorted(os.listdir(tmp_path)) == ["file.json", "folder"]


class _Lost:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)


def test_an_end_that_gets_lost_is_asked_for_again(capfd: pytest.CaptureFixture[str]) -> None:
    """The program would work on as if nobody had said anything."""
    with pytest.raises(Stopped) as caught, orderly_exit():
        lost = _Lost()
        del lost  # where it comes up nobody can take it
        time.sleep(60)
        pytest.fail("it worked on")
    assert caught.value.name == "SIGTERM" and "Traceback" not in capfd.readouterr().err
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    assert signal.setitimer(signal.ITIMER_REAL, 0) == (0.0, 0.0)


def test_an_end_that_is_on_its_way_is_not_asked_for_again() -> None:
    """Cleaning up takes as long as it takes: in a `finally`, in another exception's block, and where somebody has
    caught it to end in good order."""
    done = []
    with pytest.raises(Stopped), orderly_exit():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            time.sleep(2.5 * AGAIN_S)
            with suppress(KeyError):
                try:
                    raise KeyError
                finally:
                    time.sleep(1.5 * AGAIN_S)
            done.append("cleaned")
    with pytest.raises(Stopped), orderly_exit():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except Stopped as asked:
            asked.taken, stopped = True, asked
        time.sleep(2.5 * AGAIN_S)
        done.append("ended")
        raise stopped
    assert done == ["cleaned", "ended"]


def test_a_signal_waits_for_the_end_of_a_held_block() -> None:
    steps = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        with signals_held():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)  # the handler runs here
            steps.append("whole")
        steps.append("not reached")
    assert steps == ["whole"]
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def test_what_a_killed_program_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".a.tmp-1-00.json").write_text("left by a program that was killed")
    with atomic_write(tmp_path / "a.json", "w") as file:
        file.write("new")
    assert (tmp_path / "a.json").read_text() == "new"
    with atomic_path(tmp_path / ("x" * 240 + ".json")) as path:  # room for the temporary name
        path.write_text("1")


@pytest.mark.parametrize("how", ["file", "folder"])
def test_a_way_up_from_what_is_not_there_is_refused(tmp_path: Path, how: str) -> None:
    """new/../file shows that it is an input only once `new` has been made."""
    (tmp_path / "file.mp4").write_text("kept")
    place = tmp_path / "new" / ".." / "file.mp4"
    check = check_new_file if how == "file" else check_new_folder
    with pytest.raises(
        UserError, match=r"goes up from .*new, which does not exist; write it without"
    ):
        check(place)
    (tmp_path / "new").mkdir()
    if how == "file":
        check(tmp_path / "new" / ".." / "other.mp4")  # a way that is there may be gone
    assert (tmp_path / "file.mp4").read_text() == "kept"


@pytest.mark.parametrize("target", ["a.json", "nowhere"])
def test_a_link_that_leads_nowhere_is_no_input(target: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.json").symlink_to(target)
    (tmp_path / "in.json").write_text("{}")
    check_apart(tmp_path / "out", tmp_path / "in.json", ("*.json",))


def test_a_folder_of_a_name_that_no_disk_takes_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be used"):
        check_new_folder(Path("y/" * 3000 + "x"))
