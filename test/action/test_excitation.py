"""The wiggle of a robot that stands: inside every limit, and back to where it began."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from robots import a_robot

from vla_align_ros.action.excitation import Excitation, count_excited, wiggle
from vla_align_ros.action.limits import ChunkLimits, check_chunk
from vla_align_ros.action.trajectory import positions_of, to_trajectory
from vla_align_ros.robot.description import Joint
from vla_align_ros.types import Experience, Observation

KINDS = st.sampled_from(["velocity", "position", "delta_position"])


@st.composite
def joints(draw) -> Joint:
    low = draw(st.floats(-6.0, 5.0))
    high = low + draw(st.floats(0.01, 6.0))
    acceleration = draw(st.none() | st.floats(0.05, 50.0))
    return Joint((low, high), draw(st.floats(0.02, 10.0)), acceleration, draw(st.sampled_from(["rad", "m"])))


@given(
    limits=st.lists(st.tuples(KINDS, joints(), st.floats(-0.1, 1.1)), min_size=1, max_size=3),
    rate_hz=st.sampled_from([5.0, 10.0, 50.0]),
    horizon=st.integers(1, 20),
    execute=st.integers(1, 20),
    ramp_ticks=st.integers(1, 8),
    seconds=st.floats(0.1, 20.0),
    size_rad=st.floats(0.01, 0.5),
    seed=st.integers(0, 99),
)
def test_every_chunk_is_inside_each_limit_and_the_last_one_ends_at_rest_where_the_first_began(
    limits, rate_hz, horizon, execute, ramp_ticks, seconds, size_rad, seed
) -> None:
    kinds, made, where = zip(*limits, strict=True)
    names = tuple(f"joint_{number}" for number in range(len(made)))
    robot = a_robot(kinds, names, made, control_rate_hz=rate_hz, execute=execute)
    begin = np.array(
        [low + share * (high - low) for share, (low, high) in zip(where, (j.position for j in made), strict=True)]
    )
    excitation, t_ns, here = Excitation(seconds, size_rad), 0, begin
    excitation.begin(t_ns, begin, robot, horizon, ramp_ticks, np.random.default_rng(seed))
    assert excitation.until_ns <= max(seconds, 2 / rate_hz) * 1e9 + robot.period_ns
    gate = ChunkLimits(robot, 10.0, ramp_ticks)
    while not excitation.over and t_ns < excitation.until_ns:
        chunk = excitation.chunk(t_ns, here)
        check_chunk(chunk, gate, here)
        trajectory = to_trajectory(chunk, robot, ramp_ticks)
        here = trajectory.positions[min(execute, horizon) - 1]
        assert (np.abs(here - begin) <= size_rad * robot.scale_of_rad + 1e-5).all()
        t_ns += min(execute, horizon) * robot.period_ns
    np.testing.assert_allclose(here, begin, atol=1e-5)


@pytest.mark.parametrize("kind", ["velocity", "position", "delta_position"])
def test_it_moves_each_joint_by_its_size_and_no_two_alike(kind) -> None:
    robot = a_robot(kind, ("a", "b", "c"), [Joint((-3.0, 3.0), 2.5)] * 2 + [Joint((0.0, 1.0), 1.0, unit="m")])
    path = wiggle(np.array([0.5, 2.95, 0.5]), 600, 8, robot, 2, 0.1, np.random.default_rng(0))
    assert np.abs(path).max(0) == pytest.approx([0.1, 0.1, 0.025], rel=0.05)
    assert path[:, 1].max() == 0.0, "there is room to one side only"
    ways = path[8::8] - path[:-8:8]
    assert np.abs(np.corrcoef(ways.T) - np.eye(3)).max() < 0.3


def test_a_field_that_an_object_may_block_stays() -> None:
    blocked = Joint((-3.0, 3.0), 2.5, may_be_blocked=True)
    robot = a_robot("position", ("arm", "gripper"), [Joint((-3.0, 3.0), 2.5), blocked])
    excitation = Excitation(2.0, 0.1)
    excitation.begin(0, np.array([0.1, 0.7]), robot, 8, 2, np.random.default_rng(0))
    assert excitation.still == ("gripper",)
    actions = excitation.chunk(robot.period_ns, np.array([0.1, 0.9])).actions
    assert (actions[:, 1] == np.float32(0.7)).all(), "the goal of what it holds, not where the object stops it"
    nothing = Excitation(2.0, 0.1)
    nothing.begin(0, np.zeros(2), a_robot("position", joint=blocked), 8, 2, np.random.default_rng(0))
    assert nothing.over
    assert nothing.problem.startswith("no joint may be moved")


@pytest.mark.parametrize("gain", [-1.0, 0.6, 1.3])
def test_velocities_bring_back_a_joint_whose_gain_or_sign_nobody_knows(gain) -> None:
    robot = a_robot("velocity")
    excitation, here = Excitation(6.0, 0.2), np.array([0.1, -0.2])
    excitation.begin(0, here, robot, 8, 2, np.random.default_rng(3))
    for t_ns in range(0, excitation.until_ns, 4 * robot.period_ns):
        chunk = excitation.chunk(t_ns, here)
        check_chunk(chunk, ChunkLimits(robot, 0.125, 2), here)
        way = positions_of(chunk.actions[:4], np.zeros(2), robot.kinds, 0.1)[-1]
        here = here + gain * way
    np.testing.assert_allclose(here, [0.1, -0.2], atol=1e-6)


def test_experience_of_it_lies_wholly_inside_its_span() -> None:
    def experience(first: int, last: int) -> Experience:
        seen = [Observation({}, np.zeros(2, np.float32), "go", stamp_ns) for stamp_ns in (first, last)]
        return Experience(seen[0], np.zeros((8, 2), np.float32), seen[1], 0)

    some = [experience(first, first + 8) for first in range(0, 40, 4)]
    assert count_excited(some, [(4, 20), (28, 36)]) == 4
    assert count_excited(some, []) == 0
