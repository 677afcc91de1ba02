"""Who is blamed for a run that hangs: those who do something else than wait, and those of whom nothing is heard."""

from __future__ import annotations

import json
from typing import Any

import pytest

from running import heartbeat
from running.heartbeat import DATA, WAITING, Heartbeat


class Store:
    """What the ranks share."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def say(self, rank: int, phase: str, beat: int) -> None:
        said = {"host": f"node{rank}", "phase": phase, "step": 7, "beat": beat}
        self.values[f"beat/{rank}"] = json.dumps(said)

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)

    def get(self, key: str) -> str:
        return self.values[key]


@pytest.fixture
def heart(monkeypatch: pytest.MonkeyPatch) -> Heartbeat:
    monkeypatch.setattr(heartbeat.distributed, "world_size", lambda: 4)
    return Heartbeat(100.0)


def blamed(heart: Heartbeat, *later: tuple[int, str, int]) -> list[str]:
    """Ranks 1 to 3 said all the same thing once; then some say more."""
    store: Any = Store()
    for rank in (1, 2, 3):
        store.say(rank, WAITING, 5)
    before = heart._beats(store)
    for word in later:
        store.say(*word)
    return heart._of_others(store, before)


def test_a_rank_that_works_and_one_that_is_silent_are_named(heart: Heartbeat) -> None:
    found = blamed(heart, (1, WAITING, 7), (3, DATA, 7))
    assert found == ["rank 2 on node2 is silent since step 7", f"rank 3 on node3 is {DATA}"]


def test_clocks_that_differ_blame_nobody(heart: Heartbeat) -> None:
    found = blamed(heart, *((rank, WAITING, 6) for rank in (1, 2, 3)))
    assert found == ["all processes wait: a connection between them is broken"]
