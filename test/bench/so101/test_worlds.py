"""Physics of one arm: what a shift does to it, and what it leaves alone."""

import numpy as np
import pytest
from so101_tables import table

from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.joints import HOME_RAD
from vla_align_ros.bench.so101.worlds import STEP_S, World

LIFT, GRIPPER = 1, 5


def world(**shift) -> World:
    return World(Embodiment(**shift), table(), np.random.default_rng(0))


def angles(one: World) -> np.ndarray:
    return one.state().angle_rad[0]


def settled(command_rad, seconds: float = 2.0, **shift) -> np.ndarray:
    """True angles (6,) some time after one command."""
    one = world(**shift)
    one.command(np.asarray(command_rad, float))
    one.advance(round(seconds / STEP_S))
    return angles(one)


def test_an_arm_that_is_not_commanded_rests_where_it_starts():
    one = world()
    one.advance(500)
    np.testing.assert_allclose(angles(one), HOME_RAD, atol=2e-3)
    np.testing.assert_allclose(one.state().cube_m[0, :, 2], 0.015, atol=5e-4)


def test_gravity_pulls_a_soft_or_loaded_arm_further_down():
    nominal, soft, loaded = settled(HOME_RAD), settled(HOME_RAD, stiffness=0.5), settled(HOME_RAD, payload_kg=0.2)
    sag = [angle[LIFT] - HOME_RAD[LIFT] for angle in (nominal, soft, loaded)]
    assert sag[0] > 0.01  # forwards and down
    assert sag[1] > 1.5 * sag[0]
    assert sag[2] > 1.2 * sag[0]


def test_zeros_scales_and_signs_mean_the_same_for_readings_and_commands():
    zero, sign = np.array([0.1, -0.05, 0.08, 0.1, -0.2, 0.05]), np.array([1.0, 1.0, 1.0, -1.0, -1.0, 1.0])
    arm = Embodiment(zero_rad=zero, sign=sign, scale=np.full(6, 1.1), encoder_noise_rad=0.0)
    moved = HOME_RAD + np.array([0.3, 0.0, 0.1, -0.1, 0.4, 0.2])
    one = World(arm, table(), np.random.default_rng(0))
    one.command(arm.command_for(moved))
    one.advance(500)
    np.testing.assert_allclose(angles(one), settled(moved), atol=1e-6)  # gets where the nominal arm gets
    np.testing.assert_allclose(one.reading(), sign * 1.1 * angles(one) + zero)
    wrong = World(arm, table(), np.random.default_rng(0))
    wrong.command(moved)  # who takes it for the nominal one sends it elsewhere
    wrong.advance(500)
    assert np.abs(angles(wrong) - angles(one)).max() > 0.5


def test_command_scale_moves_further_than_commanded_and_readings_tell():
    arm = Embodiment(command_scale=np.array([1.2, 1, 1, 1, 1, 1]), encoder_noise_rad=0.0)
    one = World(arm, table(), np.random.default_rng(0))
    one.command(HOME_RAD + np.array([0.5, 0, 0, 0, 0, 0]))
    one.advance(500)
    assert one.reading()[0] == pytest.approx(0.6, abs=0.01)


def test_a_command_acts_after_the_delay_and_not_before():
    late, prompt = world(delay_s=0.1), world()
    for one in (late, prompt):
        one.command(HOME_RAD + 0.2)
    late.advance(25)
    np.testing.assert_allclose(angles(late), HOME_RAD, atol=1e-3)
    late.advance(20)
    prompt.advance(20)
    np.testing.assert_allclose(angles(late), angles(prompt), atol=2e-3)


def test_commands_that_overtake_the_delay_keep_their_order():
    late, prompt = world(delay_s=0.22), world()
    for tick in range(20):
        command = HOME_RAD + 0.02 * tick
        late.command(command)
        prompt.command(command)
        for one in (late, prompt):
            one.advance(25)
    late.advance(55)
    np.testing.assert_allclose(angles(late), angles(prompt), atol=3e-3)


def test_within_its_play_a_joint_does_not_follow():
    from_above, from_below = (World(Embodiment(backlash_rad=0.04), table(), np.random.default_rng(0)) for _ in range(2))
    for one, side in ((from_above, 1), (from_below, -1)):
        one.command(HOME_RAD + np.array([side * 0.2, 0, 0, 0, 0, 0]))
        one.advance(300)
        one.command(HOME_RAD)
        one.advance(300)
    assert angles(from_above)[0] - angles(from_below)[0] == pytest.approx(0.04, abs=0.01)


def test_encoder_noise_is_as_wide_as_it_says():
    one = world(encoder_noise_rad=0.004)
    readings = np.stack([one.reading() for _ in range(400)])
    np.testing.assert_allclose(readings.std(axis=0), 0.004, rtol=0.2)


def test_how_often_physics_is_asked_for_changes_nothing():
    whole, parts = world(delay_s=0.03), world(delay_s=0.03)
    for one in (whole, parts):
        one.command(HOME_RAD + 0.3)
    whole.advance(60)
    for _ in range(12):
        parts.advance(5)
    np.testing.assert_array_equal(angles(whole), angles(parts))


def test_an_arm_that_becomes_another_stays_where_it_is():
    one = world()
    one.advance(10)
    before = angles(one)
    one.become(Embodiment(zero_rad=np.full(6, 0.2), encoder_noise_rad=0.0))
    np.testing.assert_array_equal(angles(one), before)
    np.testing.assert_allclose(one.reading(), before + 0.2)


def test_a_command_that_a_faster_arm_gets_earlier_is_the_last_word():
    one = world(delay_s=0.2)
    one.command(HOME_RAD - 0.2)
    one.become(Embodiment())
    one.command(HOME_RAD + 0.2)
    one.advance(500)
    np.testing.assert_allclose(angles(one), HOME_RAD + 0.2, atol=0.05)
