"""Random motion: how long it lasts, how often, and what it is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_align_ros.action.exploration import CLIP_RAD_S, JITTER_RAD_S, SPEED_MAX_RAD_S, Exploration, motion


@given(horizon=st.integers(1, 12), execute=st.integers(1, 12), seed=st.integers(0, 99))
def test_a_motion_lasts_as_many_chunks_as_a_horizon_needs(horizon: int, execute: int, seed: int) -> None:
    exploration = Exploration(3, horizon, execute, 2, np.random.default_rng(seed))
    lasts = -(-horizon // execute)
    chunks = [exploration.chunk(1.0)[0].mean(axis=1) for _ in range(3 * lasts)]
    for start in range(0, len(chunks), lasts):
        spread = np.ptp(np.stack(chunks[start : start + lasts]), axis=0)
        assert (spread < 8 * JITTER_RAD_S).all()


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_fraction_is_the_share_of_time_and_robots_decide_for_themselves(fraction: float) -> None:
    exploration = Exploration(500, 8, 4, 2, np.random.default_rng(0))
    exploring = np.stack([exploration.chunk(fraction)[1] for _ in range(20)])
    assert abs(exploring.mean() - fraction) < 0.03
    assert (exploring[0::2] == exploring[1::2]).all(), "for whole motions"


def test_velocities_are_even_over_the_range_and_inside_the_limits() -> None:
    velocities = motion(4000, 8, np.random.default_rng(0), num_joints=3)
    assert velocities.shape == (4000, 8, 3)
    assert np.abs(velocities).max() <= CLIP_RAD_S
    assert np.quantile(velocities.mean(axis=1), 0.95) == pytest.approx(0.9 * SPEED_MAX_RAD_S, abs=0.1)
    assert velocities.std(axis=1).mean() == pytest.approx(JITTER_RAD_S, rel=0.15)
