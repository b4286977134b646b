"""Gradient steps, and where they start. (The proposal as a whole: test_align_flow.py.)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from builders import make_losses, replace_parts
from torch import Tensor

from vla_align_ros.alignment import step
from vla_align_ros.alignment.step import descend, propose, within_bank
from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy
from vla_align_ros.seeds import Part, seed_of
from vla_align_ros.training.bank import TokenBank

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
    slope, means = losses.gradient(policy.e_0, order, params.align_draws, seed_of(0, Part.GRADIENT, 0))
    shadow, (curve,) = descend(policy, losses, ROWS, policy.e_0, params, 0)
    rate = 0.01 * float(policy.alignment.bank.std(correction=0))
    torch.testing.assert_close(shadow - policy.e_0, -rate * slope.sign(), rtol=1e-3, atol=1e-6)
    assert curve.learning_rate == pytest.approx(rate)
    assert curve.losses == means


def test_descending_stops_at_the_first_loss_that_is_not_finite(policy: Policy, token: Tensor) -> None:
    with pytest.raises(FloatingPointError, match="a loss or gradient is not finite at step 0"):
        descend(policy, make_losses(policy), ROWS, token * torch.nan, AlignParams(align_steps=5), 0)


def test_descending_stops_at_a_gradient_that_is_not_finite(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    slope = torch.zeros_like(policy.e_0)
    slope[0, 0] = torch.inf
    losses = make_losses(policy)
    monkeypatch.setattr(losses, "gradient", lambda *_: (slope, {}))
    with pytest.raises(FloatingPointError, match="a loss or gradient is not finite at step 0"):
        descend(policy, losses, ROWS, policy.e_0, AlignParams(align_steps=5), 0)


def test_a_token_that_leaves_the_region_of_the_bank_comes_back_to_its_edge(policy: Policy) -> None:
    farthest = float(policy.alignment.bank.flatten(1).norm(dim=1).max())
    inside = policy.e_0 + 0.9 * policy.alignment.bank[0]
    torch.testing.assert_close(within_bank(policy, inside), inside)
    far = within_bank(policy, policy.e_0 + 100.0)
    assert float((far - policy.e_0).norm()) == pytest.approx(farthest)
    assert (far > policy.e_0).all()


def made_policy(policy: Policy) -> TokenBank:
    """Give it a bank of 6 robots that is made of two numbers each, the first robot's being 0."""
    torch.manual_seed(0)
    numbers = np.array([[0, 0], [1, 1], [-1, 1], [2, -1], [0, 2], [-2, -3]], np.float32)
    bank = TokenBank(len(numbers), *policy.e_0.shape, numbers)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.mul_(3.0)
    replace_parts(policy, bank=bank.offsets().detach(), made=bank.made)
    return bank


class Flat:
    """As much for each row as `of` says of the token."""

    def __init__(self, of: Callable[[Tensor], Tensor] = lambda token: 0.0 * token.sum()) -> None:
        self._of = of

    def gradient(self, token: Tensor, rows: Tensor, draws: int, seed: int) -> tuple[Tensor, dict[str, float]]:
        leaf = token.detach().requires_grad_(True)
        loss = self._of(leaf)
        return torch.autograd.grad(loss, leaf)[0], {"perception": float(loss.detach())}


def test_a_token_that_is_made_of_shifts_stays_one_that_is_made_of_them(policy: Policy) -> None:
    made = made_policy(policy).made
    assert made is not None
    own = policy.e_0 + made.offsets(0.5 * (made.shifts[1] + made.shifts[3])[None])[0].detach()
    odd = own + 0.1 * torch.randn(own.shape, generator=torch.Generator().manual_seed(1))  # no robot's
    losses: Any = Flat(lambda token: 100.0 * (token - odd).square().sum())
    params = AlignParams(align_steps=200, align_learning_rate=0.1)
    found, curve = descend(policy, losses, ROWS, policy.e_0 + policy.alignment.bank[3] + 0.001, params, 0)
    assert float((found - own).norm()) < 0.5 * float((odd - own).norm())
    half = (made.shifts.max(0).values - made.shifts.min(0).values) / 2
    assert curve[0].learning_rate == pytest.approx(0.1 * float(half.mean()))
    replace_parts(policy, made=None)
    moved, _ = descend(policy, losses, ROWS, policy.e_0 + policy.alignment.bank[3], params, 0)
    assert float((moved - own).norm()) > 0.8 * float((odd - own).norm()), "a token that moves freely goes anywhere"


def test_shifts_that_no_loss_tells_go_back_to_those_of_a_fresh_install(policy: Policy) -> None:
    bank = made_policy(policy)
    policy.robot = replace(policy.robot, config=replace(policy.config, initial_token=1))
    params = AlignParams(align_steps=400, align_learning_rate=0.1)
    found, _ = descend(policy, Flat(), ROWS, policy.e_0 + policy.alignment.bank[5], params, 0)  # type: ignore[arg-type]
    torch.testing.assert_close(found, policy.e_0 + bank.offsets()[1].detach(), atol=1e-2, rtol=1e-2)


def test_it_matters_little_what_all_lambdas_are_multiplied_by(policy: Policy) -> None:
    made_policy(policy)
    asked = policy.e_0 + policy.alignment.bank[3]

    def found(weight: float) -> Tensor:
        losses: Any = Flat(lambda token: weight * 0.001 * (token - asked).square().sum())
        params = AlignParams(align_steps=60, lambda_perc=weight, lambda_dyn=weight, lambda_inv=weight)
        token, _ = descend(policy, losses, ROWS, policy.e_0 + policy.alignment.bank[5], params, 0)
        return token

    whole, start = found(1.0), policy.e_0 + policy.alignment.bank[5]
    assert float((found(0.05) - whole).norm()) < 0.05 * float((whole - start).norm())


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
    losses, asked = make_losses(policy), list[Tensor]()
    gradient = losses.gradient

    def spy(token: Tensor, *rest: Any) -> Any:
        asked.append(token.detach().clone())
        return gradient(token, *rest)

    monkeypatch.setattr(losses, "gradient", spy)
    found = propose(policy, losses, ROWS, running, AlignParams(align_steps=1), 0)
    assert found.best_known_name == name
    assert torch.equal(found.best_known, wanted)
    torch.testing.assert_close(asked[0], within_bank(policy, wanted))
    assert not torch.equal(found.token, asked[0])
    bank = made_policy(policy)
    found = propose(policy, losses, ROWS, running, AlignParams(align_steps=1), 0)
    tokens = policy.e_0 + bank.offsets().detach()
    nearest_row = int((tokens - found.best_known).flatten(1).norm(dim=1).argmin())
    torch.testing.assert_close(asked[1], tokens[nearest_row])
