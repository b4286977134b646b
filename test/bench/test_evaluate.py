"""The Wilson interval against scipy's and at its ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from vla_align_ros.bench.evaluate import wilson_interval


@given(st.integers(1, 500).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_interval_is_scipys(trials):
    expected = binomtest(*trials).proportion_ci(0.95, method="wilson")
    assert wilson_interval(*trials) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("trials", [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(trials):
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(*trials)
