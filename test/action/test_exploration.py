"""Random motion: how long it lasts, how often, and what it is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from robots import a_robot

from vla_align_ros.action.exploration import CLIP_SHARE, JITTER_SHARE, Exploration, exploring_actions, motion
from vla_align_ros.action.limits import ChunkLimits, check_chunk
from vla_align_ros.action.trajectory import positions_of
from vla_align_ros.robot.description import Joint
from vla_align_ros.types import ActionChunk

SPEED = np.array([1.4, 0.7])


@given(horizon=st.integers(1, 12), execute=st.integers(1, 12), seed=st.integers(0, 99))
def test_a_motion_lasts_as_many_chunks_as_a_horizon_needs(horizon: int, execute: int, seed: int) -> None:
    exploration = Exploration(3, horizon, execute, SPEED, np.random.default_rng(seed))
    lasts = -(-horizon // execute)
    chunks = [exploration.chunk(1.0)[0].mean(axis=1) for _ in range(3 * lasts)]
    for start in range(0, len(chunks), lasts):
        spread = np.ptp(np.stack(chunks[start : start + lasts]), axis=0)
        assert (spread < 8 * JITTER_SHARE * SPEED).all()


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_fraction_is_the_share_of_time_and_robots_decide_for_themselves(fraction: float) -> None:
    exploration = Exploration(500, 8, 4, SPEED, np.random.default_rng(0))
    exploring = np.stack([exploration.chunk(fraction)[1] for _ in range(20)])
    assert abs(exploring.mean() - fraction) < 0.03
    assert (exploring[0::2] == exploring[1::2]).all(), "for whole motions"


def test_velocities_are_even_over_each_joints_range_and_inside_it() -> None:
    speed = np.array([1.4, 0.1, 3.0])
    velocities = motion(4000, 8, np.random.default_rng(0), speed) / speed
    assert velocities.shape == (4000, 8, 3)
    assert np.abs(velocities).max() <= CLIP_SHARE * (1 + 1e-12)
    assert np.quantile(velocities.mean(axis=1), 0.95, axis=0) == pytest.approx(0.9, abs=0.1)
    assert velocities.std(axis=1).mean(0) == pytest.approx(JITTER_SHARE, rel=0.15)


@given(
    kinds=st.lists(st.sampled_from(["velocity", "position", "delta_position"]), min_size=2, max_size=2),
    start=st.tuples(st.floats(-1, 1), st.floats(0.02, 0.06)),
    seed=st.integers(0, 99),
)
def test_what_is_explored_stays_inside_each_joints_range(kinds, start, seed) -> None:
    joints = (Joint((-1.0, 1.0), 2.0), Joint((0.02, 0.06), 0.1, unit="m"))
    robot, here = a_robot(kinds, joint=joints), np.array(start)
    velocities = motion(1, 8, np.random.default_rng(seed), robot.velocity_max)[0]
    actions = exploring_actions(velocities, here, robot, ramp_ticks=2).astype(np.float32)
    check_chunk(ActionChunk(actions, here.astype(np.float32), 0, robot.period_ns), ChunkLimits(robot, 0.2, 2), here)


@pytest.mark.parametrize("kind", ["velocity", "position", "delta_position"])
@pytest.mark.parametrize("start", [-1.0, -1.05, 1.0])
def test_a_joint_that_rests_at_an_end_of_its_range_or_beyond_is_explored_away_from_it(kind, start) -> None:
    robot, here = a_robot(kind, ("elbow",), Joint((-1.0, 1.0), 2.0)), np.array([start])
    for sign in (-1.0, 1.0):
        actions = exploring_actions(np.full((4, 1), sign), here, robot, ramp_ticks=2)
        end = positions_of(actions, here, robot.kinds, 0.1)[-1]
        assert end - here == pytest.approx(-0.4 * np.sign(start))
        chunk = ActionChunk(actions.astype(np.float32), here.astype(np.float32), 0, robot.period_ns)
        check_chunk(chunk, ChunkLimits(robot, 0.2, 2), here)
