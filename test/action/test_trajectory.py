from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from robots import a_robot

from vla_align_ros.action.trajectory import hold_trajectory, to_trajectory
from vla_align_ros.robot.description import ActionKind, RobotDescription
from vla_align_ros.types import NOT_SAID, ActionChunk, Trajectory, TrajectoryError

KINDS: tuple[ActionKind, ...] = ("velocity", "position", "delta_position")
PERIOD_NS = 100_000_000
NAMES = ("shoulder", "elbow")
radians = st.floats(-7, 7, width=32)


@st.composite
def chunks(draw: st.DrawFn) -> ActionChunk:
    horizon, joints = draw(st.integers(1, 10)), draw(st.integers(1, 7))
    return ActionChunk(
        actions=draw(hnp.arrays(np.float32, (horizon, joints), elements=radians)),
        start=draw(hnp.arrays(np.float32, (joints,), elements=radians)),
        stamp_ns=draw(st.integers(0, 2**62)),
        period_ns=draw(st.integers(1_000_000, 1_000_000_000)),
    )


def robot_of(chunk: ActionChunk, kind: ActionKind) -> RobotDescription:
    return a_robot(kind, [f"joint{index}" for index in range(chunk.actions.shape[1])])


def chunk_of(actions: list[list[float]], state: list[float]) -> ActionChunk:
    return ActionChunk(np.array(actions, np.float32), np.array(state, np.float32), 10 * PERIOD_NS, PERIOD_NS)


@given(chunks(), st.sampled_from(KINDS), st.integers(1, 6))
def test_every_trajectory_is_one_that_the_controller_takes(chunk: ActionChunk, kind: ActionKind, ramp: int) -> None:
    trajectory = to_trajectory(chunk, robot_of(chunk, kind), ramp)
    assert (trajectory.velocities[-1] == 0).all()
    assert trajectory.times_ns[0] > 0
    assert (np.diff(trajectory.times_ns) > 0).all()
    assert trajectory.stamp_ns == chunk.stamp_ns


@given(chunks(), st.sampled_from(KINDS), st.integers(1, 6))
def test_positions_are_the_integral_of_the_velocities(chunk: ActionChunk, kind: ActionKind, ramp: int) -> None:
    trajectory = to_trajectory(chunk, robot_of(chunk, kind), ramp)
    steps = np.diff(trajectory.positions, axis=0, prepend=np.float64(chunk.start)[None])
    np.testing.assert_allclose(steps, trajectory.velocities * chunk.period_ns * 1e-9, atol=1e-9)


@given(chunks(), st.integers(1, 6))
def test_the_ramp_slows_down_linearly(chunk: ActionChunk, ramp: int) -> None:
    trajectory = to_trajectory(chunk, robot_of(chunk, "velocity"), ramp)
    tail = trajectory.velocities[len(chunk.actions) - 1 :]
    np.testing.assert_allclose(
        np.diff(tail, axis=0), np.broadcast_to(-tail[0] / ramp, (ramp, tail.shape[1])), atol=1e-9
    )


def test_velocity_points_by_hand() -> None:
    trajectory = to_trajectory(chunk_of([[1, 0], [2, -1]], [0.5, 0]), a_robot(), ramp_ticks=2)
    assert trajectory.times_ns.tolist() == [100_000_000, 200_000_000, 300_000_000, 400_000_000]
    assert trajectory.times_ns.dtype == np.int64
    np.testing.assert_allclose(trajectory.velocities, [[1, 0], [2, -1], [1, -0.5], [0, 0]])
    np.testing.assert_allclose(trajectory.positions, [[0.6, 0], [0.8, -0.1], [0.9, -0.15], [0.9, -0.15]])


def test_position_points_by_hand() -> None:
    trajectory = to_trajectory(chunk_of([[1.1], [1.3]], [1.0]), a_robot("position", ["j"]), ramp_ticks=1)
    np.testing.assert_allclose(trajectory.positions, [[1.1], [1.3], [1.3]], rtol=1e-6)
    np.testing.assert_allclose(trajectory.velocities, [[1], [2], [0]], rtol=1e-6)


def test_delta_position_counts_from_the_observed_state_not_from_the_action_before() -> None:
    trajectory = to_trajectory(chunk_of([[0.1], [0.3]], [1.0]), a_robot("delta_position", ["j"]), ramp_ticks=1)
    np.testing.assert_allclose(trajectory.positions, [[1.1], [1.3], [1.3]], rtol=1e-6)


def test_fields_of_several_kinds_in_one_action_and_where_each_comes_to_rest() -> None:
    robot = a_robot(["position", "velocity", "delta_position"], ["gripper", "wrist", "arm"])
    chunk = chunk_of([[1.0, 1.0, 0.1], [1.1, 1.0, 0.3]], [0.9, 0.0, 2.0])
    sent = to_trajectory(chunk, robot, ramp_ticks=2)
    expected = [[1.0, 0.1, 2.1], [1.1, 0.2, 2.3], [1.1, 0.25, 2.3], [1.1, 0.25, 2.3]]
    np.testing.assert_allclose(sent.positions, expected, rtol=1e-6)
    np.testing.assert_allclose(sent.velocities[2], [0, 0.5, 0], atol=1e-6)
    assert sent.is_steps(PERIOD_NS)
    np.testing.assert_allclose(sent.start_position, chunk.start, atol=1e-6)


def test_a_hold_is_one_point_at_the_measured_position() -> None:
    hold = hold_trajectory([0.25, -1], 7, PERIOD_NS, NAMES)
    assert hold.times_ns.tolist() == [PERIOD_NS]
    assert hold.positions.tolist() == [[0.25, -1]]
    assert hold.velocities.tolist() == [[0, 0]]


def test_a_stamp_of_0_is_the_arrival() -> None:
    assert hold_trajectory([0.0, 0.0], 7, PERIOD_NS, NAMES).start_ns(arrival_ns=9) == 7
    assert hold_trajectory([0.0, 0.0], 0, PERIOD_NS, NAMES).start_ns(arrival_ns=9) == 9


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        ({}, True),
        ({"times_ns": np.array([2, 3, 4]) * PERIOD_NS}, False),  # the way to the first point is no step like the others
        ({"times_ns": np.array([0, 1, 2]) * PERIOD_NS}, False),  # it says where it starts already
        ({"times_ns": np.array([2, 4, 6]) * PERIOD_NS}, False),  # nobody commands in steps that long
        ({"positions": np.array([[1.0], [1.02], [1.02]])}, False),
        ({"velocities": np.array([[0.0], [0.1], [0.0]])}, True),
        ({"positions": np.ones((3, 1)), "velocities": np.zeros((3, 1))}, False),  # "go there and stay"
        ({"velocities": NOT_SAID}, False),
        ({"accelerations": np.zeros((3, 1))}, False),
    ],
)
def test_steps_are_told_from_points_on_a_curve(change: dict[str, np.ndarray], steps: bool) -> None:
    times_ns = np.array([1, 2, 3]) * PERIOD_NS
    trajectory = Trajectory(0, ("j",), times_ns, np.array([[1.0], [1.01], [1.01]]), np.array([[0.5], [0.1], [0.0]]))
    assert dataclasses.replace(trajectory, **change).is_steps(PERIOD_NS) is steps


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times_ns": np.array([1, 1])}, "strictly increasing"),
        ({"times_ns": np.array([-1, 1])}, "at least 0"),
        ({"times_ns": np.array([], np.int64)}, "at least one point"),
        ({"positions": np.zeros((2, 1))}, "positions must be"),
        ({"positions": np.full((2, 2), np.nan)}, "positions must be finite"),
        ({"velocities": np.full((2, 2), np.inf)}, "velocities must be finite"),
        ({"velocities": np.ones((2, 2))}, "last point must have velocity 0"),
        ({"velocities": np.zeros((2, 1))}, "velocities must be"),
        ({"velocities": NOT_SAID, "accelerations": np.zeros((2, 2))}, "accelerations without velocities"),
        ({"joint_names": ("a", "a")}, "every joint once"),
    ],
)
def test_a_trajectory_that_the_controller_would_refuse_cannot_be_made(change: dict[str, object], message: str) -> None:
    fields = {
        "joint_names": NAMES,
        "times_ns": np.array([1, 2]),
        "positions": np.zeros((2, 2)),
        "velocities": np.zeros((2, 2)),
    }
    with pytest.raises(TrajectoryError, match=message):
        Trajectory(stamp_ns=0, **{**fields, **change})  # type: ignore[arg-type]


def test_a_step_without_duration_cannot_be_made() -> None:
    with pytest.raises(TrajectoryError, match="the last one above 0"):
        Trajectory(0, ("j",), np.array([0]), np.zeros((1, 1)))


def test_wrong_arguments_are_named() -> None:
    chunk = chunk_of([[1, 0]], [0, 0])
    with pytest.raises(TrajectoryError, match="ramp_ticks must be at least 1"):
        to_trajectory(chunk, a_robot(), ramp_ticks=0)
    with pytest.raises(TrajectoryError, match=r"actions \(H, 2\) and start \(2,\)"):
        to_trajectory(chunk_of([[1, 0]], [0]), a_robot(), ramp_ticks=1)
