"""Joints that come in several messages, each by its newest."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vla_align_ros.observation.streams import MOVED, JointStreams

JOINTS = 4
HISTORY = 1000

messages = st.lists(
    st.tuples(
        st.integers(0, 800), st.lists(st.integers(0, JOINTS - 1), min_size=1, unique=True).map(sorted).map(tuple)
    ),
    max_size=40,
    unique_by=lambda message: message[0],
)


def streams(sent: list[tuple[int, tuple[int, ...]]], start: int = 0) -> JointStreams:
    """Joint j says 10 * stamp + j."""
    made = JointStreams(JOINTS, HISTORY)
    for stamp, columns in sent:
        position = np.array([10 * stamp + column for column in columns], np.float32)
        assert made.insert(columns, start + stamp, position, position)
    return made


@given(messages, st.integers(0, 900), st.randoms(use_true_random=False))
def test_each_joint_is_by_its_newest_message_whatever_came_in_which_order(
    sent: list[tuple[int, tuple[int, ...]]], t: int, random: Any
) -> None:
    made = streams(random.sample(sent, len(sent)), start=1)
    for joints, until in ((made.at(1 + t), t), (made.newest(), 900)):
        for joint in range(JOINTS):
            stamps = [stamp for stamp, columns in sent if joint in columns and stamp <= until]
            assert joints.stamps_ns[joint] == (1 + max(stamps) if stamps else 0)
            if stamps:
                assert joints.state[joint] == 10 * max(stamps) + joint


def test_the_same_joints_with_the_same_stamp_are_refused_and_other_joints_are_not() -> None:
    made = streams([(5, (0, 1))])
    assert not made.insert((0, 1), 5, np.zeros(2, np.float32), np.zeros(0, np.float32))
    assert made.insert((2,), 5, np.zeros(1, np.float32), np.zeros(0, np.float32))
    assert made.newest().state.tolist() == [50, 51, 0, 0]


@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_moved_is_when_a_joint_had_last_left_where_it_stood(path: list[float], random: Any) -> None:
    made = JointStreams(1, HISTORY)
    for stamp in random.sample(range(len(path)), len(path)):
        made.insert((0,), stamp + 1, *[np.array([path[stamp]], np.float32)] * 2)
    stood, moved = np.float32(path[0]), 0
    for stamp, position in enumerate(path):
        if abs(np.float32(position) - stood) > MOVED:
            stood, moved = np.float32(position), stamp + 1
        assert made.moved_ns(stamp + 1) == moved
    assert made.moved_ns(0) == 0


def test_a_motion_is_remembered_beyond_the_history_also_for_late_messages() -> None:
    made = JointStreams(1, HISTORY)
    for stamp, position in ((1, 0.0), (2, 1.0), (1500, 1.0), (3000, 1.0), (2500, 1.0)):
        made.insert((0,), stamp, *[np.array([position], np.float32)] * 2)
    assert made.moved_ns(3000) == made.moved_ns(2500) == 2
