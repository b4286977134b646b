"""What the probe says of features and motion."""

import torch

from vla_align_ros.training.probe import linear_r2


def test_linear_r2_is_1_for_a_linear_map_and_about_0_for_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 6, generator=generator)
    y = x @ torch.randn(6, 2, generator=generator)
    assert linear_r2(x, y, ridge=1e-8) > 0.999
    assert linear_r2(x, torch.randn(2000, 2, generator=generator)) < 0.05
