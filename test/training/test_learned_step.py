"""The learned step: what it takes from examples, and how it says what they are worth."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vla_align_ros.training.learned_step import DIRECTIONS, RIDGE, fit

ARMS, SIZE = 60, 24
SPREAD = torch.linspace(2.0, 0.05, SIZE)


def examples(noise: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A bank, and gradients that tell what is missing through an unknown map, but for their noise."""
    generator = torch.Generator().manual_seed(seed)

    def normal(rows: int) -> Tensor:
        return torch.randn(rows, SIZE, generator=generator)

    bank, missing = normal(ARMS) * SPREAD, 0.5 * normal(ARMS) * SPREAD
    return bank, -missing / SPREAD.square() + noise * normal(ARMS) / SPREAD, missing


def move(step: Tensor, gradients: Tensor) -> Tensor:
    return -(gradients @ step[0].T) @ step[1]


def along(bank: Tensor, vectors: Tensor) -> Tensor:
    """In the bank's largest directions."""
    _, _, axes = torch.linalg.svd(bank - bank.mean(0), full_matrices=False)
    return vectors @ axes[:DIRECTIONS].T


def test_gradients_that_tell_the_way_lead_to_the_own_token() -> None:
    bank, gradients, missing = examples(noise=0.0)
    step, r2 = fit(bank, gradients, missing)
    assert step.shape == (2, DIRECTIONS, SIZE)
    assert r2 > 0.8
    left = along(bank, missing - move(step, gradients))
    assert float(left.norm()) < 0.4 * float(along(bank, missing).norm())


def test_the_step_keeps_to_the_banks_largest_directions() -> None:
    bank, gradients, missing = examples(noise=0.5)
    moved = move(fit(bank, gradients, missing)[0], gradients)
    torch.testing.assert_close(along(bank, moved).norm(), moved.norm(), rtol=1e-4, atol=0.0)


def test_gradients_that_tell_nothing_lead_nearly_nowhere() -> None:
    bank, gradients, missing = examples(noise=0.0)
    others = gradients[torch.randperm(ARMS, generator=torch.Generator().manual_seed(1))]
    told, r2 = fit(bank, gradients, missing)
    guessed, chance = fit(bank, others, missing)
    assert chance < 0 < r2
    assert float(move(guessed, others).norm()) < 0.5 * float(move(told, gradients).norm())


def test_tokens_that_are_all_the_same_teach_no_step() -> None:
    _, gradients, missing = examples(noise=0.0)
    step, r2 = fit(torch.ones(ARMS, SIZE), gradients, missing)
    assert step.count_nonzero() == 0
    assert r2 == 0.0


def test_what_is_said_of_left_out_arms_is_what_leaving_them_out_gives() -> None:
    bank, gradients, missing = examples(noise=1.0)
    spread = along(bank, bank - bank.mean(0)).square().mean(0).sqrt()
    wanted = along(bank, missing) / spread
    inputs = along(bank, gradients) * spread
    inputs = inputs / inputs.std(correction=0)
    errors = []
    for arm in range(ARMS):
        others = torch.arange(ARMS) != arm
        known = inputs[others]
        mapping = torch.linalg.solve(known.T @ known + RIDGE * torch.eye(DIRECTIONS), known.T @ wanted[others])
        errors.append(wanted[arm] - inputs[arm] @ mapping)
    by_hand = 1.0 - float(torch.stack(errors).square().sum() / wanted.square().sum())
    assert fit(bank, gradients, missing)[1] == pytest.approx(by_hand, abs=1e-4)


def test_fewer_arms_than_directions() -> None:
    bank, gradients, missing = (part[:4] for part in examples(noise=0.5))
    step, _ = fit(bank, gradients, missing)
    assert step.shape == (2, 3, SIZE)
    assert bool(torch.isfinite(step).all())
