"""Recordings one after the other, and an alignment that learns from all of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vla_align_ros.alignment.split import split_rows
from vla_align_ros.experience.later import PAUSE_NS, later
from vla_align_ros.types import Experience, Observation

STEP_NS = 500_000_000


def recording(count: int, first_ns: int = 0, episodes: int = 1) -> list[Experience]:
    def seen(index: int) -> Observation:
        return Observation({}, np.zeros(1, np.float32), "", first_ns + index * STEP_NS)

    rows = range(count)
    return [Experience(seen(row), np.zeros((2, 1), np.float32), seen(row + 1), row * episodes // count) for row in rows]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 10**12), st.integers(1, 3)), min_size=1, max_size=4))
def test_time_and_episodes_go_on(parts: list[tuple[int, int, int]]) -> None:
    found: list[Experience] = []
    for count, first_ns, episodes in parts:
        found += later(recording(count, first_ns, episodes), found[-1] if found else None)
    borders = set(np.cumsum([count for count, _, _ in parts]).tolist())
    for row, (item, after) in enumerate(pairwise(found), 1):
        assert after.observation.stamp_ns >= item.next_observation.stamp_ns
        assert after.episode >= item.episode + (row in borders)
    assert all(item.next_observation.stamp_ns - item.observation.stamp_ns == STEP_NS for item in found)


def test_stamps_stay_where_they_are_in_order_already() -> None:
    (monday,), tuesday = recording(1), recording(3, first_ns=10**12)
    assert [item.observation.stamp_ns for item in later(tuesday, monday)] == [
        item.observation.stamp_ns for item in tuesday
    ]
    (first, *_) = later(recording(3), replace(monday, episode=4))
    assert first.observation.stamp_ns == monday.next_observation.stamp_ns + PAUSE_NS
    assert first.episode == 5


def test_of_two_recordings_whose_stamps_begin_at_0_both_are_learned_from() -> None:
    """What datasets and simulated clocks do."""
    monday = recording(40, episodes=4)
    both = [*monday, *later(recording(10), monday[-1])]
    learn, judged = split_rows(both)
    assert len(learn) == 40
    assert len(judged) == 10
