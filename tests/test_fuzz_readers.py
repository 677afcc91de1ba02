"""A short version of `python tests/fuzz_readers.py`: a damaged file is accepted or one sentence, never a crash."""

from __future__ import annotations

import numpy as np
from fuzz_readers import KINDS, changed, run

N_CASES = 260  # about ten seconds, half of which are imports


def test_damaged_files_end_in_a_sentence_or_in_a_result() -> None:
    report = run(N_CASES, seed=1)
    assert report.faults == []
    assert set(report.counts) == set(KINDS)
    for kind, row in report.counts.items():
        assert row["refused"] > 0, kind  # the changes do reach the readers


def test_changes_are_those_of_the_seed() -> None:
    content = bytes(range(256)) * 8
    first, again, other = (changed(content, np.random.default_rng(s)) for s in (3, 3, 4))
    assert first == again != other and first != content
