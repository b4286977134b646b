"""Kinematics, and what gains, signs, stops and delay do to a commanded velocity."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_align_ros.bench.reach2.arm import (
    JOINT_MAX_RAD,
    JOINT_MIN_RAD,
    PERIOD_S,
    encoder_reading,
    forward_kinematics,
    inverse_kinematics,
    move,
    move_chunk,
)
from vla_align_ros.bench.reach2.embodiment import LINK_M, sample_embodiments, unshifted

ARM = unshifted()
MIDDLE = np.array([[0.0, 1.4]])
seeds = st.integers(1, 10**6)
poses = st.tuples(*(st.floats(low, high) for low, high in zip(JOINT_MIN_RAD, JOINT_MAX_RAD, strict=True)))
velocities = st.tuples(st.floats(-2, 2), st.floats(-2, 2))


def row(values: tuple[float, float]) -> np.ndarray:
    return np.array([values])


def test_tip_of_the_stretched_and_of_the_bent_arm():
    elbow, tip = forward_kinematics(ARM.link_m, np.array([[0.0, 0.0], [np.pi / 2, -np.pi / 2]])[:1])
    assert np.allclose(elbow, [[LINK_M, 0]])
    assert np.allclose(tip, [[2 * LINK_M, 0]])
    _, tip = forward_kinematics(ARM.link_m, np.array([[np.pi / 2, -np.pi / 2]]))
    assert np.allclose(tip, [[LINK_M, LINK_M]])


@given(poses, seeds)
def test_inverse_kinematics_gives_back_the_angles_of_any_arm(pose, seed):
    arm = sample_embodiments(1, seed)
    _, tip = forward_kinematics(arm.link_m, row(pose))
    angles = inverse_kinematics(arm.link_m, tip)
    assert np.allclose(np.cos(angles - row(pose)), 1, atol=1e-6)


@given(seeds)
def test_out_of_reach_gives_the_stretched_arm_in_that_direction(seed):
    direction = np.random.default_rng(seed).uniform(-np.pi, np.pi)
    far = 5 * np.array([[np.cos(direction), np.sin(direction)]])
    _, tip = forward_kinematics(ARM.link_m, inverse_kinematics(ARM.link_m, far))
    assert np.allclose(tip, far / 5 * 2 * LINK_M)


@given(poses, velocities, velocities, seeds)
def test_arm_stays_between_its_stops(pose, command, last, seed):
    after = move(sample_embodiments(1, seed, scale=2.0), row(pose), 50 * row(command), 50 * row(last))
    assert (after >= JOINT_MIN_RAD).all()
    assert (after <= JOINT_MAX_RAD).all()


def test_gain_scales_and_a_negative_one_turns_round():
    arm = replace(ARM, gain=np.array([[0.5, -1.0]]))
    after = move(arm, MIDDLE, row((1.0, 1.0)), np.zeros((1, 2)))
    assert np.allclose(after - MIDDLE, [[0.05, -0.1]])


@pytest.mark.parametrize("delay_s", [0.0, 0.03, 0.1])
def test_last_command_still_acts_for_the_time_of_the_delay(delay_s):
    arm = replace(ARM, delay_s=np.array([delay_s]))
    after = move(arm, MIDDLE, row((1.0, 0.0)), row((0.0, 1.0)))
    assert np.allclose(after - MIDDLE, [[PERIOD_S - delay_s, delay_s]])


def test_chunk_is_its_ticks_one_after_the_other():
    arm = sample_embodiments(1, 3)
    commands = np.random.default_rng(0).uniform(-1, 1, (1, 8, 2))
    angle, last = MIDDLE, np.zeros((1, 2))
    for tick in range(8):
        angle, last = move(arm, angle, commands[:, tick], last), commands[:, tick]
    assert np.array_equal(angle, move_chunk(arm, MIDDLE, commands, np.zeros((1, 2))))


def test_encoders_are_off_by_the_offset():
    arm = replace(ARM, offset_rad=np.array([[0.3, -0.2]]))
    assert np.allclose(encoder_reading(arm, MIDDLE), MIDDLE + arm.offset_rad)


def test_unshifted_arm_has_no_shift_and_seeds_give_the_same_arm_again():
    assert (ARM.gain == 1).all()
    assert (ARM.offset_rad == 0).all()
    assert (ARM.delay_s == 0).all()
    assert np.array_equal(sample_embodiments(3, 5).gain, sample_embodiments(3, 5).gain)
    assert not np.array_equal(sample_embodiments(3, 5).gain, sample_embodiments(3, 6).gain)
