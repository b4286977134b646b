"""Joint positions in the numbers that people use."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_align_ros.bench.so101.joints import JOINT_MAX_RAD, JOINT_MIN_RAD, JointUnit, from_rad, to_rad


@pytest.mark.parametrize("unit", JointUnit)
@given(share=st.lists(st.floats(-0.2, 1.2), min_size=6, max_size=6))
def test_units_there_and_back(unit, share):
    angle_rad = JOINT_MIN_RAD + np.array(share) * (JOINT_MAX_RAD - JOINT_MIN_RAD)
    np.testing.assert_allclose(to_rad(from_rad(angle_rad, unit), unit), angle_rad, atol=1e-12)


def test_lerobots_numbers():
    low, high = (from_rad(limit, JointUnit.RANGE) for limit in (JOINT_MIN_RAD, JOINT_MAX_RAD))
    np.testing.assert_allclose(low, [-100] * 5 + [0], atol=1e-9)
    np.testing.assert_allclose(high, [100] * 6, atol=1e-9)
    degrees = from_rad(JOINT_MAX_RAD, JointUnit.DEGREES)
    np.testing.assert_allclose(degrees[:5], np.rad2deg(JOINT_MAX_RAD - JOINT_MIN_RAD)[:5] / 2)
    assert degrees[5] == pytest.approx(100)
