"""The one exception that a user is meant to read."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable


class UserError(Exception):
    """A mistake that the user can mend: one sentence that names the input and the cure.

    The command line prints it as `Error: ...` and exits with status 1, without a traceback. Everything that is
    not a `UserError` counts as a defect of the program and keeps its traceback.

    Names out of files may hold anything: what a terminal would obey (line ends, escape sequences) or could not print
    is written as its code. What is longer than a screen is cut in the middle.
    """

    def __init__(self, sentence: str) -> None:
        text = "".join(c if _is_text(c) else repr(c)[1:-1] for c in cut_short(sentence))
        super().__init__(cut_short(text))


MAX_SENTENCE = 600  # characters
_KEPT_END = 250  # of them, at the end: there stands the cure


def cut_short(text: str) -> str:
    """A text of at most MAX_SENTENCE characters, its middle left out where it is longer."""
    if len(text) <= MAX_SENTENCE:
        return text
    return f"{text[: MAX_SENTENCE - _KEPT_END - 5]} ... {text[-_KEPT_END:]}"


def _is_text(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"  # any width of space


def raise_together(*checks: Callable[[], None]) -> None:
    """Make all checks, and raise one `UserError` for those that refuse: who mends one need not come back for each."""
    refused = []
    for check in checks:
        try:
            check()
        except UserError as error:
            refused.append(str(error))
    if len(refused) == 1:
        raise UserError(refused[0])
    if refused:
        numbered = "; ".join(f"({i}) {sentence}" for i, sentence in enumerate(refused, 1))
        raise UserError(f"{len(refused)} things do not fit: {numbered}")


class SavedError(UserError):
    """The command was asked to stop, all is saved, and the same command goes on: no mistake, exit status 75."""


EXIT_SAVED = 75  # EX_TEMPFAIL of sysexits.h: not done, and trying again will help
