from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_align_ros.experience.buffer import ExperienceBuffer
from vla_align_ros.types import Experience, Observation


def experience(number: int) -> Experience:
    observation = Observation({}, np.zeros(1, np.float32), "red", number)
    return Experience(observation, np.zeros((1, 1), np.float32), observation, 0)


@given(st.integers(1, 8), st.lists(st.integers(0, 5), max_size=8))
def test_it_holds_the_newest_and_counts_all(capacity: int, batches: list[int]) -> None:
    buffer, added = ExperienceBuffer(capacity), []
    for size in batches:
        batch = [experience(len(added) + index) for index in range(size)]
        buffer.add(*batch)
        added += batch
    assert buffer.snapshot() == tuple(added[-capacity:])
    assert len(buffer) == min(capacity, len(added))
    assert buffer.total_added == len(added)


@given(st.integers(1, 8), st.integers(0, 10), st.integers(0, 10))
def test_what_was_made_before_a_stamp_is_forgotten(capacity: int, count: int, stamp_ns: int) -> None:
    buffer = ExperienceBuffer(capacity)
    buffer.add(*map(experience, range(count)))
    held = buffer.snapshot()
    buffer.forget_before(stamp_ns)
    assert buffer.snapshot() == tuple(item for item in held if item.observation.stamp_ns >= stamp_ns)
    assert (buffer.capacity, buffer.total_added) == (capacity, count)


def test_a_snapshot_outlives_a_clear_and_the_total_goes_on() -> None:
    buffer = ExperienceBuffer(3)
    buffer.add(experience(0))
    held = buffer.snapshot()
    buffer.clear()
    assert len(buffer) == 0
    assert len(held) == 1
    buffer.add(experience(1))
    assert buffer.total_added == 2


def test_a_capacity_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity must be at least 1, got 0"):
        ExperienceBuffer(0)


def test_threads_lose_nothing() -> None:
    buffer = ExperienceBuffer(100)

    def fill() -> None:
        for number in range(500):
            buffer.add(experience(number))
            assert len(buffer.snapshot()) <= 100

    threads = [threading.Thread(target=fill) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert buffer.total_added == 2000
    assert len(buffer) == 100
