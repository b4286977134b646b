"""How experience is split in time: what is learned from and what judges."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from builders import make_experiences
from hypothesis import given
from hypothesis import strategies as st

from vla_align_ros.alignment.align import split_by_episode
from vla_align_ros.alignment.experience_check import LEAST_TO_JUDGE


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_and_one_have_no_later_part(count: int) -> None:
    learn, judged = split_by_episode(make_experiences(count))
    assert (len(learn), len(judged)) == (count, 0)


@given(st.integers(2, 60), st.data())
def test_what_is_judged_by_is_later_than_what_was_learned_from(count: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, 8))
    episodes = np.sort(data.draw(st.lists(st.integers(0, 5), min_size=count, max_size=count)))
    experiences = [
        dataclasses.replace(
            item,
            episode=int(episodes[index]),
            observation=dataclasses.replace(item.observation, stamp_ns=index * stride),
            next_observation=dataclasses.replace(item.next_observation, stamp_ns=index * stride + 5),
        )
        for index, item in enumerate(make_experiences(count))
    ]
    learn, judged = split_by_episode(experiences)
    assert judged == experiences[-len(judged) :]
    assert 1 <= len(judged) <= count - count // 2
    assert all(item.next_observation.stamp_ns <= judged[0].observation.stamp_ns for item in learn)
    cut = count - len(judged)
    dropped = [item for item in experiences[:cut] if not any(item is kept for kept in learn)]
    assert all(item.next_observation.stamp_ns > judged[0].observation.stamp_ns for item in dropped)
    quarter = max(1, round(count / 4))
    assert len(judged) >= min(quarter, LEAST_TO_JUDGE)
    assert len(judged) >= quarter / 2
    borders = [i for i in range(count // 2, count) if i and episodes[i] != episodes[i - 1]]
    assert cut == count - quarter or cut in borders
    assert cut in borders or all(count - border < max(quarter / 2, LEAST_TO_JUDGE) for border in borders)


def test_without_a_border_the_last_quarter_judges() -> None:
    learn, judged = split_by_episode(make_experiences(40, episodes=1))
    assert (len(learn), len(judged)) == (30, 10)
    learn, judged = split_by_episode(make_experiences(40, episodes=5))
    assert (len(learn), len(judged)) == (32, 8)


@pytest.mark.parametrize(("count", "after_border", "judging"), [(40, 3, 10), (24, 3, 6), (24, 4, 4), (40, 5, 5)])
def test_a_border_that_leaves_too_little_to_judge_by_is_none(count: int, after_border: int, judging: int) -> None:
    experiences = make_experiences(count, episodes=1)
    experiences[-after_border:] = [dataclasses.replace(item, episode=1) for item in experiences[-after_border:]]
    learn, judged = split_by_episode(experiences)
    assert (len(learn), len(judged)) == (count - judging, judging)
