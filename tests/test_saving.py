"""The thread that writes files: what fails is tried again, and nothing that is missing at the end is passed over."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from dnnlib import UserError
from running.saving import Saver


class Disk:
    """Full as long as somebody says so."""

    def __init__(self) -> None:
        self.full, self.files = False, dict[str, int]()

    def writer(self, name: str, content: int) -> Callable[[], None]:
        def write() -> None:
            if self.full:
                raise UserError(f"cannot write {name}: the disk is full")
            self.files[name] = content

        return write


@pytest.fixture
def saver() -> Saver:
    return Saver(retry_after=2)


def settled(saver: Saver, step: int) -> bool:
    """What is on its way has ended; whether to save again."""
    while any(not save.future.done() for save in saver._on_the_way):
        time.sleep(0.001)
    return saver.is_due_again(step)


def test_a_save_that_failed_is_due_again_after_some_steps(
    saver: Saver, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = Disk()
    disk.full = True
    saver.submit(10, disk.writer("state", 10))
    assert [settled(saver, step) for step in (10, 11, 12, 13)] == [False, False, True, False]
    assert "step 10 is not saved" in capsys.readouterr().err


def test_what_no_newer_save_makes_up_for_is_tried_again_as_it_is(saver: Saver) -> None:
    disk = Disk()
    disk.full = True
    saver.submit(10, disk.writer("best", 10), only="best")
    assert not settled(saver, 10)
    disk.full = False
    assert settled(saver, 12)
    saver.finish()
    assert disk.files == {"best": 10}


def test_a_newer_one_of_the_same_name_takes_its_place(saver: Saver) -> None:
    disk = Disk()
    disk.full = True
    saver.submit(10, disk.writer("best", 10), only="best")
    settled(saver, 10)
    disk.full = False
    saver.submit(11, disk.writer("best", 11), only="best")
    settled(saver, 12)
    saver.finish()
    assert disk.files == {"best": 11}


def test_the_end_is_an_error_when_one_of_the_last_files_is_missing(saver: Saver) -> None:
    disk, full = Disk(), Disk()
    full.full = True
    saver.submit(20, full.writer("network", 20))
    saver.submit(20, disk.writer("state", 20))  # succeeds, and must not hide the other
    with pytest.raises(UserError, match="cannot write network"):
        saver.finish()
    saver.submit(20, full.writer("state", 20))
    saver.submit(21, disk.writer("state", 21))
    saver.finish()  # a newer one is there
