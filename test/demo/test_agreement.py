"""What the demo says where a replayed alignment is not the live one."""

from __future__ import annotations

import pytest

from vla_align_ros.demo.agreement import differences

LIVE = {
    "accepted": True,
    "reason": "kept",
    "first_stamp_ns": 10**18,
    "stamps_ns": [10**18, 10**18 + 400_000_000, 10**18 + 800_000_000],
    "before": {"perception": 0.1},
    "best_known": {"perception": 0.1},
    "after": {"perception": 0.05},
}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, []),
        ({"stamps_ns": LIVE["stamps_ns"][::2]}, ["lacks 1 experiences: those 0.4 s after the first one"]),
        ({"stamps_ns": [10**18 - 10**9, *LIVE["stamps_ns"]]}, ["also has 1 experiences: those -1.0 s after"]),
        ({"accepted": False, "reason": "no_better"}, ["no_better instead of kept"]),
        ({"after": {"perception": 0.05000000000000001}}, ["losses after: {'perception': 0.05000000000000001} instead"]),
        ({"before": {}}, ["losses before: {} instead of {'perception': 0.1}"]),
    ],
)
def test_every_difference_is_said_in_words(changed, words):
    found = differences(LIVE, {**LIVE, **changed})
    assert len(found) == len(words)
    for sentence, expected in zip(found, words, strict=True):
        assert sentence.startswith(expected)
