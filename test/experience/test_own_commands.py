"""Ours, a copy or a part of ours, or somebody else's?"""

from __future__ import annotations

import numpy as np
import pytest

from vla_align_ros.action.groups import group_trajectory
from vla_align_ros.experience.own_commands import columns_of, is_foreign
from vla_align_ros.observation.codecs import encode_joint_state, encode_trajectory
from vla_align_ros.robot.description import ActionField, CommandGroup, Joint, RobotDescription, StateField
from vla_align_ros.types import Trajectory

NAMES = ("left/wrist", "left/elbow", "finger")
GROUPS = (
    CommandGroup("arm", "joint_trajectory", ("left/elbow", "left/wrist"), prefix="left/"),
    CommandGroup("hand", "joint_trajectory", ("finger",)),
)
ROBOT = RobotDescription(
    joints={name: Joint((-1.0, 1.0), 1.0) for name in NAMES},
    state=tuple(StateField(joint=name) for name in NAMES),
    action=tuple(ActionField(joint=name, kind="position") for name in NAMES),
    cameras={"front": "front"},
    control_rate_hz=10.0,
    execute=4,
    command_groups=GROUPS,
)


def trajectory(stamp_ns: int = 10**18, seed: int = 0, names: tuple[str, ...] = NAMES, end_ns: int = 20) -> Trajectory:
    positions = np.random.default_rng(seed).normal(size=(2, len(names)))
    return Trajectory(stamp_ns, names, np.array([10, end_ns], np.int64), positions)


WHOLE = trajectory()


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.topic)
def test_a_copy_and_a_groups_part_are_ours_also_with_the_padding_of_the_wire(group: CommandGroup) -> None:
    ours = columns_of(encode_trajectory(WHOLE))
    assert len(ours) == 3
    for same in (WHOLE, group_trajectory(WHOLE, group)):
        for padding in (b"", b"\0\0"):
            assert not is_foreign(encode_trajectory(same) + padding, ours, ROBOT)


@pytest.mark.parametrize(
    "other",
    [
        trajectory(stamp_ns=10**18 + 1),
        trajectory(seed=1),
        trajectory(end_ns=30),
        group_trajectory(trajectory(seed=1), GROUPS[0]),
        trajectory(names=("elbow",), seed=1),
    ],
)
def test_another_stamp_other_times_and_other_positions_are_somebody_elses(other: Trajectory) -> None:
    assert is_foreign(encode_trajectory(other), columns_of(encode_trajectory(WHOLE)), ROBOT)


def test_without_a_stamp_only_the_whole_is_a_copy() -> None:
    """`go to 0` for one joint is what anybody may say at any time."""
    now = trajectory(stamp_ns=0)
    ours = columns_of(encode_trajectory(now))
    assert not is_foreign(encode_trajectory(now), ours, ROBOT)
    assert is_foreign(encode_trajectory(group_trajectory(now, GROUPS[0])), ours, ROBOT)


def test_other_robots_joints_and_other_messages_are_no_commands_for_this_one() -> None:
    assert not is_foreign(encode_trajectory(trajectory(names=("right/elbow",))), set(), ROBOT)
    assert not is_foreign(encode_joint_state(NAMES, np.zeros(3), 5), set(), ROBOT)
    assert columns_of(b"\0\1\0\0") == frozenset()
