"""Who is in which split. People are drawn, never clips or frames, so that nobody is in two."""

from __future__ import annotations

from dnnlib.errors import UserError


def check_shares(val: float, test: float, names: str = "val and test") -> None:
    """Raises UserError unless the shares leave some people for training."""
    if val < 0 or test < 0 or not val + test < 1:
        raise UserError(f"{names} must not be negative and sum to less than 1")


def split_at(draw: float, val: float, test: float) -> str:
    """The split of who drew a number from [0, 1): test first, so that a larger val moves nobody out of test."""
    if draw < test:
        return "test"
    return "val" if draw < test + val else "train"
