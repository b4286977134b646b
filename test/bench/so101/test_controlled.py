"""One arm behind its controllers: trajectories read by their times, a gripper that goes where it is told."""

import numpy as np
import pytest
from so101_tables import table

from vla_align_ros.bench.so101.controlled import ALL_JOINTS, ARM_JOINTS, GRIPPER_JOINT, ControlledArm
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.joints import HOME_RAD
from vla_align_ros.types import Trajectory

START_NS, MS = 1_000_000_000_000, 1_000_000
ARM = slice(0, 5)


def controlled(**shift) -> ControlledArm:
    return ControlledArm(Embodiment(encoder_noise_rad=0.0, **shift), table(), START_NS, 0, 100 * MS)


def straight_to(arm_rad, after_ms=1000, stamp_ns=0) -> Trajectory:
    return Trajectory(stamp_ns, ARM_JOINTS, np.array([after_ms * MS]), np.asarray(arm_rad, float)[None])


def gripper_to(position_rad) -> Trajectory:
    return Trajectory(0, (GRIPPER_JOINT,), np.array([1]), np.array([[position_rad]]))


def read_after(one: ControlledArm, milliseconds: int) -> np.ndarray:
    one.advance(one.now_ns + milliseconds * MS)
    return one.reading()


def test_an_arm_that_is_told_nothing_stays():
    sign = np.array([1.0, 1.0, -1.0, 1.0, 1.0, 1.0])
    shifted = {"zero_rad": np.full(6, 0.2), "stiffness": 0.5, "sign": sign, "command_scale": np.full(6, 1.2)}
    for shift in ({}, shifted):
        one = controlled(**shift)
        before = one.reading()
        np.testing.assert_allclose(read_after(one, 2000), before, atol=5e-3)


def test_a_trajectory_is_followed_by_its_times_and_its_end_is_held():
    one = controlled()
    goal = HOME_RAD[ARM] + np.array([0.4, 0.0, 0.0, 0.0, 0.4])
    one.follow(straight_to(goal))
    assert read_after(one, 500)[0] == pytest.approx(0.2, abs=0.05)
    assert read_after(one, 800)[0] == pytest.approx(0.4, abs=0.02)
    assert read_after(one, 3000)[0] == pytest.approx(0.4, abs=0.02)
    assert one.reading()[5] == pytest.approx(HOME_RAD[5], abs=0.02)


def test_the_latest_word_wins_from_its_own_start_on():
    one = controlled()
    one.follow(straight_to(HOME_RAD[ARM] + np.array([0.4, 0, 0, 0, 0])))
    back = straight_to(HOME_RAD[ARM] - np.array([0.4, 0, 0, 0, 0]), stamp_ns=START_NS + 400 * MS)
    one.follow(back)
    assert read_after(one, 400)[0] > 0.1
    assert read_after(one, 1400)[0] == pytest.approx(-0.4, abs=0.02)


def test_the_gripper_goes_where_it_is_told_and_the_arm_does_not():
    one = controlled()
    one.follow(gripper_to(1.2))
    after = read_after(one, 1000)
    assert after[5] == pytest.approx(1.2, abs=0.03)
    np.testing.assert_allclose(after[ARM], HOME_RAD[ARM], atol=0.01)


def test_how_often_time_goes_on_changes_nothing():
    whole, parts = controlled(delay_s=0.05), controlled(delay_s=0.05)
    for one in (whole, parts):
        one.follow(straight_to(HOME_RAD[ARM] + 0.3))
        one.follow(gripper_to(0.2))
    whole.advance(START_NS + 700 * MS)
    for k in range(1, 101):
        parts.advance(START_NS + 7 * k * MS)
        parts.advance(START_NS)
    np.testing.assert_array_equal(whole.reading(), parts.reading())


def test_the_latest_word_wins_at_each_controller():
    one = controlled()
    one.follow(gripper_to(1.2))
    one.follow(Trajectory(0, ALL_JOINTS[::-1], np.array([1000 * MS]), np.array([[0.1, *HOME_RAD[ARM][::-1] + 0.2]])))
    one.follow(straight_to(HOME_RAD[ARM] - 0.2))
    np.testing.assert_allclose(read_after(one, 2000), [*HOME_RAD[ARM] - 0.2, 0.1], atol=0.03)


def test_other_joints_are_refused():
    one = controlled()
    for joints in (ARM_JOINTS[1:], (*ARM_JOINTS[1:], GRIPPER_JOINT), (*ARM_JOINTS, "elbow")):
        with pytest.raises(ValueError, match="expected the joints shoulder_pan_joint"):
            one.follow(Trajectory(0, joints, np.array([MS]), np.zeros((1, len(joints)))))
    np.testing.assert_allclose(read_after(one, 500), HOME_RAD, atol=5e-3)
