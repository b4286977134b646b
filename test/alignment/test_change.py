"""Where a new token begins to gain: found where there is such a point, and hardly ever where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla_align_ros.alignment.change import find_rise

values = arrays(np.float64, st.integers(2, 40), elements=st.integers(-9, 9).map(float))


@given(values)
def test_the_rise_is_the_largest_rank_sum_of_pairs(gains: np.ndarray) -> None:
    count = len(gains)
    higher = np.sign(gains[None] - gains[:, None])  # (earlier, later)
    sums = {row: higher[:row, row:].sum() for row in range(1, count)}
    found = find_rise(gains)
    assert sums[found.row] == max(sums.values())
    assert found.rise == pytest.approx(sums[found.row] / ((count**3 + count**2) / 6) ** 0.5)


@given(values, st.floats(0.1, 1.0))
def test_only_the_order_of_gains_counts(gains: np.ndarray, scale: float) -> None:
    assert find_rise(gains) == find_rise(np.exp(gains * scale))


def test_a_step_is_found_within_its_noise_and_a_fall_is_no_rise() -> None:
    rng = np.random.default_rng(0)
    for at in (64, 128, 192):
        noise = rng.exponential(1.0, 256)
        found = find_rise(noise + (np.arange(256) >= at))
        assert abs(found.row - at) <= 12
        assert found.rise > 2.0
        assert find_rise(noise - (np.arange(256) >= at)).rise < 1.0


def test_independent_gains_rise_by_more_than_one_as_seldom_as_pettitt_says() -> None:
    rng = np.random.default_rng(0)
    rises = np.array([find_rise(rng.exponential(1.0, 128)).rise for _ in range(2000)])
    assert (rises > 1.0).mean() < np.exp(-1)
    assert (rises > 2.0).mean() < np.exp(-4)


@pytest.mark.parametrize("count", [0, 1, 128])
def test_nothing_one_and_what_is_always_the_same_do_not_change(count: int) -> None:
    assert find_rise(np.zeros(count)).rise == 0.0
