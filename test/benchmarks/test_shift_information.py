"""What experience tells of shifts, by a network: it finds what is there, and claims nothing of what is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from shift_information import EXPERIENCES, gathered, learned, standardised

from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.policy import load_policy


def test_a_shift_that_shows_is_found_and_one_that_does_not_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shift_information.STEPS", 300)
    generator = torch.Generator().manual_seed(0)
    seen, shifts = {}, {}
    for split, count in {"training": 1024, "validation": 256, "test": 256}.items():
        shifts[split] = torch.randn(count, 2, generator=generator)
        noise = torch.randn(count, 16, 3, generator=generator)
        seen[split] = noise + torch.stack([shifts[split][:, 0], torch.zeros(count), torch.zeros(count)], 1)[:, None]
    errors = learned(seen, shifts, 0).mean(0)
    assert errors[0] < 0.3 < 0.8 < errors[1]


def test_what_never_differs_among_training_arms_is_left_out() -> None:
    parts = {"training": torch.tensor([[[1.0, 5.0], [3.0, 5.0]]]), "test": torch.tensor([[[2.0, 7.0]]])}
    found = standardised(parts)
    assert found["test"].tolist() == [[[0.0]]]


def test_an_arm_is_seen_before_and_after_its_commands() -> None:
    """Places: 6 things with 2 numbers and whether they are in the picture; joints: where they are, and by how much they
    moved."""
    features = load_policy("models/so101").alignment.features
    found = gathered([Embodiment()] * 2, features, np.random.default_rng(0))
    assert set(found) == {"features", "places"}
    assert found["places"].shape == (2, EXPERIENCES, 2 * 6 * 3 + 12)
    inside = found["places"][..., :36].unflatten(-1, (12, 3))[..., 2]
    assert set(inside.unique().tolist()) == {0.0, 1.0}
    assert float(found["places"][..., -6:].abs().max()) > 0.05, "the arm moved"
    assert float((found["features"][..., :256] - found["features"][..., 256:512]).abs().max()) > 0.1
