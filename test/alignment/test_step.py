"""Gradient steps, and where they start. (The proposal as a whole: test_align_flow.py.)"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from builders import make_losses
from torch import Tensor

from vla_align_ros.alignment import step
from vla_align_ros.alignment.step import ROWS_AT_ONCE, descend, gradient, propose, within_bank
from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy
from vla_align_ros.seeds import Part, seed_of

ROWS = torch.arange(10)


def test_descending_brings_the_learned_losses_down(policy: Policy, token: Tensor) -> None:
    losses = make_losses(policy, 32)
    rows = torch.arange(32)
    params = AlignParams(align_steps=25, align_learning_rate=0.05, align_batch_size=32)
    shadow, curve = descend(policy, losses, rows, token, params, 0)
    assert not shadow.requires_grad
    assert not torch.equal(shadow, token)
    before, after = (float(losses.weighted(losses(e, rows, 4, 99)).mean()) for e in (token, shadow))
    assert after < before
    rates = [taken.learning_rate for taken in curve]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(rates[0] / 25)


def test_the_first_step_is_the_share_of_the_banks_spread_against_the_gradient(policy: Policy) -> None:
    losses, params = make_losses(policy), AlignParams(align_learning_rate=0.01, align_steps=1)
    order = torch.randperm(len(ROWS), generator=torch.Generator().manual_seed(0))[: params.align_batch_size]
    slope, means = gradient(losses, policy.e_0, order, params.align_draws, seed_of(0, Part.GRADIENT, 0))
    shadow, (curve,) = descend(policy, losses, ROWS, policy.e_0, params, 0)
    rate = 0.01 * float(policy.alignment.bank.std(correction=0))
    torch.testing.assert_close(shadow - policy.e_0, -rate * slope.sign(), rtol=1e-3, atol=1e-6)
    assert curve.learning_rate == pytest.approx(rate)
    assert curve.losses == means


def test_a_gradient_in_parts_is_the_gradient_of_the_whole() -> None:
    class Squares:
        """(sum(token) - row) squared."""

        def __call__(self, token: Tensor, rows: Tensor, draws: int, seed: int) -> dict[str, Tensor]:
            seeds.append(seed)
            return {"dynamics": (token.sum() - rows).square()}

        def weighted(self, losses: dict[str, Tensor]) -> Tensor:
            return 3.0 * losses["dynamics"]

    seeds = list[int]()
    losses: Any = Squares()
    rows = torch.arange(2 * ROWS_AT_ONCE + 5)
    slope, means = gradient(losses, torch.ones(2, 3), rows, 1, 0)
    torch.testing.assert_close(slope, torch.full((2, 3), 3.0 * 2 * (6.0 - float(rows.float().mean()))))
    assert means["dynamics"] == pytest.approx(float((6.0 - rows).square().mean()))
    assert len(set(seeds)) == len(seeds) == 3


def test_descending_stops_at_the_first_loss_that_is_not_finite(policy: Policy, token: Tensor) -> None:
    with pytest.raises(FloatingPointError, match="a loss or gradient is not finite at step 0"):
        descend(policy, make_losses(policy), ROWS, token * torch.nan, AlignParams(align_steps=5), 0)


def test_descending_stops_at_a_gradient_that_is_not_finite(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    slope = torch.zeros_like(policy.e_0)
    slope[0, 0] = torch.inf
    monkeypatch.setattr(step, "gradient", lambda *_: (slope, {}))
    with pytest.raises(FloatingPointError, match="a loss or gradient is not finite at step 0"):
        descend(policy, make_losses(policy), ROWS, policy.e_0, AlignParams(align_steps=5), 0)


def test_a_token_that_leaves_the_region_of_the_bank_comes_back_to_its_edge(policy: Policy) -> None:
    farthest = float(policy.alignment.bank.flatten(1).norm(dim=1).max())
    inside = policy.e_0 + 0.9 * policy.alignment.bank[0]
    torch.testing.assert_close(within_bank(policy, inside), inside)
    far = within_bank(policy, policy.e_0 + 100.0)
    assert float((far - policy.e_0).norm()) == pytest.approx(farthest)
    assert (far > policy.e_0).all()


@pytest.mark.parametrize(
    ("which", "name"), [(None, "running token"), (-1, "E_0"), (0, "bank token 0"), (3, "bank token 3")]
)
def test_the_gradient_starts_at_the_best_known_token(
    policy: Policy, token: Tensor, which: int | None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = token if which is None else policy.e_0 if which < 0 else policy.e_0 + policy.alignment.bank[which]
    running = token + 0.5 * torch.ones_like(token) if which is not None else token

    def nearest(losses, rows, candidates, seed):
        row = int((candidates - wanted).flatten(1).norm(dim=1).argmin())
        return row, candidates[row]

    monkeypatch.setattr(step, "pick", nearest)
    found = propose(policy, make_losses(policy), ROWS, running, AlignParams(align_learning_rate=0.0), 0)
    assert found.best_known_name == name
    assert torch.equal(found.best_known, wanted)
    torch.testing.assert_close(found.token, within_bank(policy, wanted))
