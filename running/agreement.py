"""Before the first step all processes agree on what they are about to do, or the run ends in one sentence.

Each process reads its own command line, its own data and its own view of the run directory. A folder on each node's own
disk, a listing that is behind, another learning rate on one node: each would train on, and the average of the gradients
would be of nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dnnlib import UserError
from dnnlib.typed import flat
from running.keys import KeyRules
from running.provenance import git_revision
from torch_utils import distributed


def check_same_start(config: Any, rules: KeyRules, data: str) -> None:
    """Configuration and data, of which `data` is the fingerprint, are the same in all processes.

    Raises:
        UserError: in every process alike; names the key, and the host that differs from that of rank 0.
    """
    facts = {k: v for k, v in flat(config).items() if k not in rules.of_a_node}
    facts["the data's fingerprint"] = data
    facts["the code's revision"] = git_revision()
    facts["the number of processes"] = distributed.world_size()
    check_same(facts, "give every node the same command, code and data")


def check_same(facts: Mapping[str, Any], cure: str) -> None:
    """`facts` (JSON) are the same in all processes. Raises UserError in all of them, naming a host that differs."""
    everyone = distributed.gather_json({"host": distributed.host(), "facts": dict(facts)})
    first = everyone[0]
    for rank, other in enumerate(everyone):
        for key in {**first["facts"], **other["facts"]}:
            theirs, ours = other["facts"].get(key), first["facts"].get(key)
            if theirs != ours:
                raise UserError(
                    f"rank {rank} on {other['host']} has {key}={_short(theirs)} but rank 0 on {first['host']} has "
                    f"{_short(ours)}; {cure}"
                )


def _short(value: Any) -> str:
    return "nothing" if value is None else str(value)
