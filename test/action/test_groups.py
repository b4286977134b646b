"""A trajectory over all commanded joints -> what each controller gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from robots import a_robot

from vla_align_ros.action.groups import PositionStream, group_trajectory
from vla_align_ros.action.trajectory import hold_trajectory, to_trajectory
from vla_align_ros.robot.description import CommandGroup, Joint, load_description
from vla_align_ros.types import ActionChunk, Trajectory

PERIOD_NS = 100_000_000
START_NS = 10**18
NAMES = ("left/waist", "left/elbow", "left/finger")
ARM = CommandGroup("arm/joint_trajectory", "joint_trajectory", ("left/elbow", "left/waist"), prefix="left/")
FINGER = CommandGroup("finger/commands", "position_stream", ("left/finger",), prefix="left/", stream_rate_hz=50.0)
TAIL_NS = 20_000_000


def steps(velocities: np.ndarray, stamp_ns: int = START_NS, start: np.ndarray | None = None) -> Trajectory:
    """As a chunk is written, with these velocities (H, 3) and one ramp point."""
    velocities = np.concatenate([velocities, np.zeros((1, 3))])
    positions = (np.zeros(3) if start is None else start) + np.cumsum(velocities, axis=0) * PERIOD_NS * 1e-9
    times_ns = np.arange(1, len(velocities) + 1, dtype=np.int64) * PERIOD_NS
    return Trajectory(stamp_ns, NAMES, times_ns, positions, velocities)


def test_a_group_gets_its_joints_in_its_order_by_its_names_with_the_wholes_stamp() -> None:
    whole = steps(np.arange(12.0).reshape(4, 3))
    part = group_trajectory(whole, ARM)
    assert part.joint_names == ("elbow", "waist")
    assert part.stamp_ns == whole.stamp_ns
    np.testing.assert_array_equal(part.times_ns, whole.times_ns)
    np.testing.assert_array_equal(part.positions, whole.positions[:, [1, 0]])
    np.testing.assert_array_equal(part.velocities, whole.velocities[:, [1, 0]])


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "config" / "robots").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_groups_of_each_shipped_robot_share_out_every_column_once(path: Path) -> None:
    robot = load_description(path)
    count = len(robot.action_joints)
    rows = np.concatenate([np.arange(count) + np.zeros((3, 1)), np.zeros((1, count))])
    whole = Trajectory(1, robot.action_joints, np.arange(1, 5), rows, rows)
    parts = [group_trajectory(whole, group) for group in robot.command_groups]
    assert sorted(np.concatenate([part.positions[0] for part in parts])) == list(range(count))
    for group, part in zip(robot.command_groups, parts, strict=True):
        assert not any("/" in name for name in part.joint_names), "the prefix stays at home"
        assert [robot.action_joints.index(name) for name in group.joints] == part.positions[0].tolist()


def test_a_stream_follows_the_chunk_between_its_points_and_ends_with_its_last_position() -> None:
    stream = PositionStream(FINGER, PERIOD_NS)
    assert stream.due(START_NS) is None, "nothing was said yet"
    stream.put(steps(np.array([[0, 0, 0.1], [0, 0, 0.3]])))
    sent = {ms: stream.due(START_NS + ms * 1_000_000) for ms in (0, 50, 100, 150, 200, 299, 300, 319, 320, 10_000)}
    expected = {0: 0, 50: 0.005, 100: 0.01, 150: 0.025, 200: 0.04, 299: 0.04, 300: 0.04, 319: 0.04}
    assert {ms: position is None for ms, position in sent.items()} == {ms: ms not in expected for ms in sent}
    for ms, position in expected.items():
        np.testing.assert_allclose(sent[ms], [position], atol=1e-12)


def test_a_chunk_in_which_the_group_stands_keeps_it_where_it_is() -> None:
    stream = PositionStream(FINGER, PERIOD_NS)
    stream.put(steps(np.array([[1.0, 0, 0], [1.0, 0, 0]]), start=np.array([0, 0, 0.04])))
    for ms in (0, 130, 300):
        np.testing.assert_array_equal(stream.due(START_NS + ms * 1_000_000), [0.04])


def test_the_next_chunk_takes_over_at_once_and_one_that_does_not_come_leaves_the_old_one_to_its_end() -> None:
    stream = PositionStream(FINGER, PERIOD_NS)
    stream.put(steps(np.full((4, 3), 0.1)))
    np.testing.assert_allclose(stream.due(START_NS + 200_000_000), [0.02])
    stream.put(steps(np.full((2, 3), -0.1), START_NS + 100_000_000, np.full(3, 0.01)))
    np.testing.assert_allclose(stream.due(START_NS + 210_000_000), [-0.001], atol=1e-12)
    np.testing.assert_allclose(stream.due(START_NS + 410_000_000), [-0.01])
    assert stream.due(START_NS + 410_000_000 + TAIL_NS) is None, "the first one would still run"


def test_a_hold_is_where_the_arm_was_measured_and_after_a_stop_nothing_is_due() -> None:
    stream = PositionStream(FINGER, PERIOD_NS)
    stream.put(steps(np.full((4, 3), 0.1)))
    stream.put(hold_trajectory([1.0, 2.0, 0.03], START_NS + 250_000_000, PERIOD_NS, NAMES))
    np.testing.assert_array_equal(stream.due(START_NS + 250_000_000), [0.03])
    stream.stop()
    assert stream.due(START_NS + 260_000_000) is None


def test_a_clock_that_falls_back_repeats_nothing() -> None:
    stream = PositionStream(FINGER, PERIOD_NS)
    stream.put(steps(np.full((4, 3), 0.1)))
    reached = stream.due(START_NS + 300_000_000)
    assert stream.due(START_NS + 50_000_000) == reached, "it waits"
    assert stream.due(START_NS - 1) is None
    assert stream.due(START_NS + 300_000_000) is None, "what was said for another time does not come to life"
    stream.put(steps(np.full((4, 3), 0.2), START_NS - 5 * PERIOD_NS))
    np.testing.assert_allclose(stream.due(START_NS - 4 * PERIOD_NS), [0.02])


@given(
    st.lists(st.floats(-2.0, 2.0), min_size=1, max_size=8),
    st.lists(st.integers(-300, 1500), min_size=1, max_size=40),
)
def test_a_stream_never_goes_faster_than_the_chunk_nor_leaves_its_positions(
    speeds: list[float], asked_ms: list[int]
) -> None:
    """Whatever the clock does in between."""
    stream, whole = PositionStream(FINGER, PERIOD_NS), steps(np.outer(speeds, [0, 0, 1.0]))
    stream.put(whole)
    low, high = min(0.0, whole.positions[:, 2].min()), max(0.0, whole.positions[:, 2].max())
    last_ms, last = 0, 0.0
    for ms in asked_ms:
        sent = stream.due(START_NS + ms * 1_000_000)
        if sent is None:
            continue
        assert low - 1e-9 <= sent[0] <= high + 1e-9
        assert abs(sent[0] - last) <= 2.0 * max(0, ms - last_ms) * 1e-3 + 1e-9
        last_ms, last = max(ms, last_ms), sent[0]


def test_a_gripper_that_holds_something_is_not_told_to_let_go_where_a_chunk_begins() -> None:
    finger = Joint((0.0, 0.04), 0.1, unit="m", may_be_blocked=True)
    robot = a_robot(["delta_position", "position"], ["wrist", "finger"], [Joint((-3.0, 3.0), 2.0), finger])
    chunk = ActionChunk(np.array([[0.1, 0.0]] * 3, np.float32), np.array([0.0, 0.02], np.float32), START_NS, PERIOD_NS)
    stream = PositionStream(CommandGroup("finger", "position_stream", ("finger",)), PERIOD_NS)
    sent = to_trajectory(chunk, robot, 2)
    stream.put(sent)
    assert [stream.due(START_NS + ms * 1_000_000) for ms in (0, 30, 100, 130)] == [[0.0]] * 4
    np.testing.assert_allclose(sent.start_position, [0.0, 0.0], atol=1e-9)
    assert sent.is_steps(PERIOD_NS)
