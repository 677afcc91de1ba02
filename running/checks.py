"""What a run asks before its first step: a batch that divides, and space for its files."""

from __future__ import annotations

from pathlib import Path

from dnnlib import UserError, check_free_space

_BYTES_PER_NUMBER = 4


def check_divisible(name: str, batch: int, world: int, accumulate: int = 1) -> None:
    """Every rank and every pass of gradient accumulation must get the same number of samples.

    Raises:
        UserError: it does not divide.
    """
    if accumulate < 1 or batch < 1:
        raise UserError(f"{name} and train.accumulate must be at least 1")
    if batch % (world * accumulate):
        raise UserError(
            f"{name}={batch} is not divisible by {world} processes x {accumulate} "
            "accumulated passes; change one of them"
        )


def check_disk(
    out: Path,  # run directory
    state: int,  # numbers in a state
    network: int,  # numbers in the file that others use
    keep_last: int,
) -> None:
    """There must be space for the states and networks that a run keeps, and for one more of each being written.

    Raises:
        UserError: the disk has less.
    """
    check_free_space(out, (state + network) * (keep_last + 1) * _BYTES_PER_NUMBER)
