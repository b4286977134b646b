"""The demo's rival: commands wrapped by what commands and joint states alone say."""

import numpy as np
from robots import a_robot

from vla_align_ros.alignment.diagnosis import FieldDiagnosis
from vla_align_ros.demo.calibrated import calibrated

WANTED = np.array([[[0.2, -0.4], [0.3, 0.1]]])


def diagnosis(gain: float | None, offset: float | None = None) -> FieldDiagnosis:
    return FieldDiagnosis("joint", "rad", 20, gain=gain, offset=offset)


def test_a_joint_does_what_was_wanted_behind_its_line():
    found = [diagnosis(-0.5, 0.2), diagnosis(0.8, -0.1)]
    sent = calibrated(lambda going, rows: WANTED, found, a_robot("position"))(None, np.arange(1))
    np.testing.assert_allclose(sent * [-0.5, 0.8] + [0.2, -0.1], WANTED)
    sent = calibrated(lambda going, rows: WANTED, found, a_robot("velocity"))(None, np.arange(1))
    np.testing.assert_allclose(sent * [-0.5, 0.8], WANTED)


def test_what_is_not_known_stays_and_a_joint_that_hardly_moves_is_not_thrown():
    found = [diagnosis(None), diagnosis(-0.001)]
    sent = calibrated(lambda going, rows: WANTED, found, a_robot("velocity"))(None, np.arange(1))
    np.testing.assert_allclose(sent, WANTED * [1.0, -10.0])
