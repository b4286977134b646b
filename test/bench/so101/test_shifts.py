"""Embodiments drawn by seed, family by family."""

from dataclasses import fields

import numpy as np
import pytest

from vla_align_ros.bench.so101.embodiment import Embodiment, vector_names
from vla_align_ros.bench.so101.shifts import RANGES, Family, Split, draw_embodiment, shifted_fields

NAMES = np.array([name.partition("[")[0] for name in vector_names()])


def test_the_same_seed_is_the_same_arm_and_no_other_is():
    again = [draw_embodiment(seed, split).vector() for split in Split for seed in (0, 1, 0)]
    assert len({tuple(vector) for vector in again}) == 2 * len(Split)


@pytest.mark.parametrize("family", Family)
def test_a_family_shifts_its_own_parameters_and_is_the_same_in_company(family):
    alone = [draw_embodiment(seed, Split.TRAINING, [family]).vector() for seed in range(24)]
    together = [draw_embodiment(seed, Split.TRAINING).vector() for seed in range(24)]
    mine = np.isin(NAMES, list(shifted_fields(family)))
    np.testing.assert_array_equal(np.array(alone)[:, ~mine], np.tile(Embodiment().vector()[~mine], (24, 1)))
    np.testing.assert_array_equal(np.array(alone)[:, mine], np.array(together)[:, mine])
    assert (np.std(alone, axis=0)[mine] > 0).sum() >= mine.sum() - (family is Family.SIGNS)  # the gripper's never


def test_every_parameter_belongs_to_one_family():
    names = [name for family in Family for name in RANGES[family]]
    assert sorted(names) == sorted(field.name for field in fields(Embodiment))


def test_beyond_is_a_quarter_wider_and_test_is_as_wide_as_training():
    widest = {
        split: np.max([np.abs(draw_embodiment(seed, split).front_position_m) for seed in range(200)])
        for split in (Split.TRAINING, Split.TEST, Split.BEYOND)
    }
    assert 0.055 < widest[Split.TRAINING] <= 0.06
    assert 0.055 < widest[Split.TEST] <= 0.06
    assert 0.065 < widest[Split.BEYOND] <= 0.075


def test_a_wrist_camera_is_mounted_at_any_roll():
    rolls = [draw_embodiment(seed, Split.TRAINING, [Family.WRIST_ROLL]).wrist_roll_rad for seed in range(64)]
    assert {int(np.floor(roll / (np.pi / 4))) for roll in rolls} == set(range(-4, 4))


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed of 0 or more"):
        draw_embodiment(-1, Split.TEST)


def test_commands_and_readings_are_inverse_to_what_they_mean():
    arm = draw_embodiment(3, Split.TEST)
    angle = np.array([0.3, -0.5, 0.8, 1.0, -0.7, 0.4])
    np.testing.assert_allclose(arm.angle_of_reading(arm.reading(angle)), angle)
    np.testing.assert_allclose(arm.target(arm.command_for(angle)), angle)
