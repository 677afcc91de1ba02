"""Before the first step all processes agree on what they are about to do, or the run ends in one sentence.

Each process reads its own command line, its own data and its own view of the run directory. A folder on each node's own
disk, a listing that is behind, another learning rate on one node: each would train on, and the average of the gradients
would be of nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from dataset.frames import FrameDataset
from dnnlib import UserError
from dnnlib.typed import flat
from torch_utils import distributed
from training.config import Config
from training.records import git_revision

# A node may read its own copy of the data with as many processes as it has cores.
_OF_A_NODE = frozenset({"data.path", "data.num_workers", "train.threads", "pretrain.threads"})
_ROWS = 4096  # of the index that the fingerprint looks at


def check_same_start(config: Config, dataset: FrameDataset) -> None:
    """Configuration and data are the same in all processes.

    Raises:
        UserError: in every process alike; names the key, and the host that differs from that of rank 0.
    """
    facts = {k: v for k, v in flat(config).items() if k not in _OF_A_NODE}
    facts["the data's fingerprint"] = fingerprint(dataset)
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


def fingerprint(dataset: FrameDataset) -> str:
    """SHA-256 of what a data set says of itself, of all its clips and of rows spread evenly over its index."""
    rows = dataset.frames[:: max(1, len(dataset.frames) // _ROWS)]
    digest = hashlib.sha256(json.dumps(dataset.spec.to_dict(), sort_keys=True).encode())
    digest.update(str(len(dataset.frames)).encode())
    digest.update(np.ascontiguousarray(dataset.clips).tobytes())
    digest.update(np.ascontiguousarray(rows).tobytes())
    return digest.hexdigest()[:16]


def _short(value: Any) -> str:
    return "nothing" if value is None else str(value)
