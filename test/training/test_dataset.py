"""Training samples look like what a robot at work records."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla_align_ros.bench.reach2.embodiment import training_embodiments
from vla_align_ros.training.dataset import draw_samples, executions
from vla_align_ros.training.probe import linear_r2


def test_half_of_the_time_follows_the_expert_and_half_does_not() -> None:
    actions = np.full((8000, 8, 2), 50.0)  # far from anything random, and clipped when perturbed
    commands = executions(actions, np.random.default_rng(0))
    follows = (np.abs(commands) > 2.2).all(axis=2)
    assert 0.45 < follows.mean() < 0.55


@given(seed=st.integers(0, 99))
def test_there_is_one_seam_at_most(seed: int) -> None:
    commands = executions(np.full((50, 8, 2), 50.0), np.random.default_rng(seed))
    follows = (np.abs(commands) > 2.2).all(axis=2)
    assert (np.diff(follows.astype(int), axis=1) != 0).sum(1).max() == 1


def test_the_unshifted_arm_is_row_0_and_samples_repeat_for_a_seed() -> None:
    arms = training_embodiments(5, seed=3)
    assert np.array_equal(arms.gain[0], [1.0, 1.0])
    rows = np.arange(5)
    first, second = (draw_samples(arms, rows, 8, 32, np.random.default_rng(1)) for _ in range(2))
    assert np.array_equal(first.images, second.images)
    assert np.array_equal(first.commands, second.commands)


def test_linear_r2_is_1_for_a_linear_map_and_about_0_for_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 6, generator=generator)
    y = x @ torch.randn(6, 2, generator=generator)
    assert linear_r2(x, y, ridge=1e-8) > 0.999
    assert linear_r2(x, torch.randn(2000, 2, generator=generator)) < 0.05
