"""The one exception that a user is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """A mistake that the user can mend: one sentence that names the input and the cure.

    The command line prints it as `Error: ...` and exits with status 1, without a traceback. Everything that is
    not a `UserError` counts as a defect of the program and keeps its traceback.
    """


class SavedError(UserError):
    """The command was asked to stop, all is saved, and the same command goes on: no mistake, exit status 75."""


EXIT_SAVED = 75  # EX_TEMPFAIL of sysexits.h: not done, and trying again will help
