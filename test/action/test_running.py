"""Trajectories read by their times. SciPy's polynomials stand for joint_trajectory_controller's, which are the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from robots import a_robot
from scipy.interpolate import BPoly

from vla_align_ros.action.running import RunningTrajectory, begin, says_start
from vla_align_ros.action.trajectory import hold_trajectory, to_trajectory
from vla_align_ros.robot.description import ActionKind
from vla_align_ros.types import ActionChunk, Trajectory

MS = 1_000_000
PERIOD_NS = 100 * MS
T0 = 17 * 10**17
numbers = st.floats(-3, 3)


def one_joint(times_ms: list[int], *rows: list[float]) -> Trajectory:
    """rows: positions, velocities, accelerations."""
    columns = [np.array(row, np.float64)[:, None] for row in rows]
    return Trajectory(0, ("j",), np.array(times_ms, np.int64) * MS, *columns)


def ways(running: RunningTrajectory, times_ms: list[float]) -> list[float]:
    return [float(running.position_at(T0 + round(t_ms * MS))[0]) for t_ms in times_ms]


def test_positions_alone_are_joined_by_straight_lines_from_where_the_arm_was() -> None:
    running = begin(one_joint([200, 300], [1.0, 2.0]), T0, PERIOD_NS, (T0, [0.5]))
    assert ways(running, [-50, 0, 50, 100, 200, 250, 300, 900]) == pytest.approx([0.5, 0.5, 0.625, 0.75, 1, 1.5, 2, 2])
    assert running.end_ns == T0 + 300 * MS


def test_one_point_is_a_way_to_go_not_a_place_to_be() -> None:
    for rows in ([[1.0]], [[1.0], [0.0]]):
        running = begin(one_joint([1000], *rows), T0, PERIOD_NS, (T0, [0.0]))
        assert ways(running, [0, 500, 1000]) == pytest.approx([0, 0.5, 1])


def test_a_point_at_time_0_is_where_it_starts() -> None:
    trajectory = one_joint([0, 100], [0.2, 0.4])
    assert says_start(trajectory, PERIOD_NS)
    running = begin(trajectory, T0, PERIOD_NS, (T0, [9.0]))
    assert ways(running, [0, 50, 100]) == pytest.approx([0.2, 0.3, 0.4])


def test_it_goes_on_from_where_the_arm_is_when_it_arrives_late() -> None:
    trajectory = one_joint([100, 200], [1.0, 2.0])
    running = begin(trajectory, T0, PERIOD_NS, (T0 + 50 * MS, [0.8]))
    assert ways(running, [50, 75, 100]) == pytest.approx([0.8, 0.9, 1.0])
    running = begin(trajectory, T0, PERIOD_NS, (T0 + 150 * MS, [9.0]))
    assert ways(running, [150, 175, 200]) == pytest.approx([1.5, 1.75, 2.0]), "the points before are in the past"


def test_without_the_place_where_the_arm_was_it_cannot_begin() -> None:
    with pytest.raises(ValueError, match="where the arm was"):
        begin(one_joint([100], [1.0]), T0, PERIOD_NS)


@given(
    hnp.arrays(np.float64, (3, 4), elements=numbers),
    st.lists(st.integers(1, 900), min_size=3, max_size=3),
    st.integers(1, 3),
    st.floats(0, 1),
)
def test_between_points_it_is_the_polynomial_of_what_they_say(
    values: np.ndarray, gaps_ms: list[int], said: int, share: float
) -> None:
    """values: positions, velocities, accelerations of a start at rest and three points; the last velocity is 0."""
    values[1:, 0] = values[1, 3] = 0
    times_ms = np.cumsum(gaps_ms).tolist()
    trajectory = one_joint(times_ms, *values[:said, 1:].tolist())
    running = begin(trajectory, T0, 1, (T0, [values[0, 0]]))
    expected = BPoly.from_derivatives(np.array([0, *times_ms]) * 1e-3, values[:said].T)
    t_ms = share * times_ms[-1]
    assert ways(running, [t_ms]) == pytest.approx([float(expected(round(t_ms * MS) * 1e-9))], abs=1e-7)


@st.composite
def chunks(draw: st.DrawFn) -> ActionChunk:
    shape = draw(st.tuples(st.integers(1, 10), st.integers(1, 7)))
    return ActionChunk(
        actions=draw(hnp.arrays(np.float32, shape, elements=st.floats(-7, 7, width=32))),
        start=draw(hnp.arrays(np.float32, shape[1:], elements=st.floats(-7, 7, width=32))),
        stamp_ns=T0,
        period_ns=draw(st.integers(MS, 1000 * MS)),
    )


@given(chunks(), st.sampled_from(["velocity", "position", "delta_position"]), st.integers(1, 6))
def test_a_chunk_leads_where_its_actions_say(chunk: ActionChunk, kind: ActionKind, ramp_ticks: int) -> None:
    robot = a_robot(kind, [f"joint{index}" for index in range(chunk.actions.shape[1])])
    trajectory = to_trajectory(chunk, robot, ramp_ticks)
    running = begin(trajectory, T0, chunk.period_ns, (T0, chunk.start))
    at = [running.position_at(T0 + tick * chunk.period_ns) for tick in range(len(chunk.actions) + 1)]
    actions = {
        "velocity": np.diff(at, axis=0) / (chunk.period_ns * 1e-9),
        "position": at[1:],
        "delta_position": np.array(at[1:]) - chunk.start,
    }[kind]
    np.testing.assert_allclose(actions, chunk.actions, rtol=1e-6, atol=1e-6 if kind == "velocity" else 1e-9)


def test_a_chunk_is_exact_wherever_the_arm_was_measured() -> None:
    """The joint state at the chunk's stamp may be newer than the one that the policy saw."""
    actions = np.array([[0.5], [0.1]], np.float32)
    chunk = ActionChunk(actions, np.array([1], np.float32), T0, PERIOD_NS)
    trajectory = to_trajectory(chunk, a_robot(names=["j"]), 1)
    running = begin(trajectory, T0, PERIOD_NS, (T0, [1.02]))
    assert ways(running, [0, 50, 100, 150, 200]) == pytest.approx([1, 1.025, 1.05, 1.055, 1.06]), "constant velocity"


def test_a_hold_goes_back_to_where_the_arm_was_measured() -> None:
    hold = hold_trajectory([0.25], T0, PERIOD_NS, ("j",))
    assert ways(begin(hold, T0, PERIOD_NS, (T0, [0.26])), [0, 100, 900]) == pytest.approx([0.26, 0.25, 0.25])
