"""What may differ between the starts of one run, and between its processes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from dnnlib import UserError


@dataclass(frozen=True)
class KeyRules:
    """Dotted keys of a configuration by what a change of them means to a run that exists; all others need leave."""

    free: Collection[str]  # what is written, how fast, how long: not the steps already taken
    sections: Collection[str]  # where a change is allowed when the user asks for it
    for_good: Collection[str]  # but not these: the weights or the order of the data depend on them
    of_a_node: Collection[str]  # may differ between the processes of a run

    def check_changeable(self, key: str) -> str:
        """`key`, when a run can go on with another value of it. Raises UserError when its state would no longer fit."""
        if key.split(".")[0] in self.sections and key not in self.for_good:
            return key
        raise UserError(
            f"--allow-change {key}: a run keeps this for good, as its weights or the order of its data depend on it; "
            "start another run with another --out"
        )
