"""Gradient steps: where they lead, and how much of a step is taken. (The proposal as a whole: test_align_flow.py.)"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from builders import make_losses, replace_parts
from torch import Tensor

from vla_align_ros.alignment import step
from vla_align_ros.alignment.rules import RULES
from vla_align_ros.alignment.step import ROWS_AT_ONCE, descend, gradient, propose, without_doubted
from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy

ROWS = torch.arange(10)


def test_descending_brings_the_learned_losses_down(policy: Policy, token: Tensor) -> None:
    losses = make_losses(policy, 32)
    rows = torch.arange(32)
    params = AlignParams(align_steps=25, align_learning_rate=0.5, align_batch_size=32)
    shadow, curve = descend(policy, losses, rows, token, params, 0)
    assert not shadow.requires_grad
    assert not torch.equal(shadow, token)
    before, after = (float(losses.weighted(losses(e, rows, 4, 99)).mean()) for e in (token, shadow))
    assert after < before
    rates = [taken.learning_rate for taken in curve]
    assert rates[0] == 0.5
    assert set(rates) <= {0.5, 0.25, 0.125, 0.0}


def test_a_step_that_makes_the_losses_worse_is_not_taken(policy: Policy, token: Tensor) -> None:
    losses, params = make_losses(policy), AlignParams(align_steps=5, align_learning_rate=0.5)
    down, _ = descend(policy, losses, ROWS, token, params, 0)
    assert not torch.equal(down, token)
    uphill = policy.alignment.learned_step * torch.tensor([1.0, -1.0])[:, None, None]
    replace_parts(policy, learned_step=uphill)
    stayed, curve = descend(policy, losses, ROWS, token, params, 0)
    assert torch.equal(stayed, token)
    assert {(taken.e_token_norm, taken.learning_rate) for taken in curve} == {(float(token.norm()), 0.0)}


class Bowl:
    """A loss that is lowest where a token's mean is 1; the start is at 0."""

    def __call__(self, tokens: Tensor, rows: Tensor, draws: int, seed: int) -> dict[str, Tensor]:
        return {"dynamics": (tokens.mean(dim=(-2, -1)) - 1.0).square()[..., None].expand(*tokens.shape[:-2], len(rows))}

    def weighted(self, losses: dict[str, Tensor]) -> Tensor:
        return losses["dynamics"]


@pytest.mark.parametrize(
    ("goes_to", "rate"), [(0.5, 1.0), (1.3, 1.0), (1.4, 0.5), (2.6, 0.5), (2.7, 0.25), (7.9, 0.25), (8.1, 0.0)]
)
def test_of_a_step_the_share_is_taken_that_lowers_the_loss_most(policy: Policy, goes_to: float, rate: float) -> None:
    losses: Any = Bowl()
    start = torch.zeros_like(policy.e_0)
    slope, _ = gradient(losses, start, ROWS, 1, 0)
    reads = slope.flatten()[None] / slope.square().sum()
    replace_parts(policy, learned_step=torch.stack([reads, torch.full_like(reads, -goes_to)]))
    token, (curve,) = descend(policy, losses, ROWS, start, AlignParams(align_learning_rate=1.0, align_steps=1), 0)
    assert curve.learning_rate == rate
    torch.testing.assert_close(token, torch.full_like(token, rate * goes_to), atol=1e-4, rtol=0.0)


def test_a_step_is_the_learned_one_for_the_gradient_of_the_whole_batch(policy: Policy) -> None:
    reads, moves = torch.zeros(2, 1, policy.e_0.numel())
    reads[0, 3] = 1.0
    losses, params = make_losses(policy), AlignParams(align_learning_rate=0.7)
    order = torch.randperm(len(ROWS), generator=torch.Generator().manual_seed(0))
    slope, means = gradient(losses, policy.e_0, order, params.align_draws, 1)
    moves[0, 5] = 30.0 * float(slope.flatten()[5] * slope.flatten()[3]) / float(slope.norm()) ** 2  # downhill
    replace_parts(policy, learned_step=torch.stack([reads, moves]))
    shadow, (curve,) = descend(policy, losses, ROWS, policy.e_0, params, 0)
    moved = (shadow - policy.e_0).flatten()
    assert float(moved[5]) == pytest.approx(-0.7 * float(moves[0, 5]) * float(slope.flatten()[3]), rel=1e-3)
    assert moved.count_nonzero() == 1
    assert curve.learning_rate == 0.7
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


def test_the_gradient_leaves_out_the_tenth_whose_commands_are_explained_worst(
    policy: Policy, token: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong, used = {3, 17}, list[Tensor]()

    class Losses:
        def __call__(self, token: Tensor, rows: Tensor, draws: int, seed: int) -> dict[str, Tensor]:
            each = torch.tensor([9.0 if int(row) in wrong else 1.0 for row in rows])
            return {"perception": torch.arange(len(rows), 0.0, -1.0), "inverse_dynamics": each}

        def without_dynamics(self) -> Losses:
            return self

    losses: Any = Losses()
    rows = torch.arange(1, 21)
    kept = without_doubted(losses, token, rows, 4, 0)
    assert kept.tolist() == [row for row in rows.tolist() if row not in wrong]
    assert without_doubted(losses, token, rows[:9], 4, 0).tolist() == rows[:9].tolist(), "a tenth of nine is none"

    def spied(policy: Policy, losses: Any, rows: Tensor, *arguments: Any) -> Any:
        used.append(rows)
        return token, []

    monkeypatch.setattr(step, "descend", spied)
    monkeypatch.setattr(step, "without_doubted", lambda losses, token, rows, draws, seed, share: rows[2:])
    for alike in (True, False):
        monkeypatch.setattr(step, "apart", lambda *_, alike=alike: 0.0 if alike else 2.0)
        propose(policy, make_losses(policy), ROWS, token, AlignParams(), 0)
    assert [rows.tolist() for rows in used] == [ROWS[2:].tolist(), ROWS.tolist()], "only where the running one fits"


def test_a_part_of_the_way_is_gone_where_the_running_token_fits_nearly_and_all_of_it_elsewhere(
    policy: Policy, token: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = policy.e_0 + 0.1
    monkeypatch.setattr(step, "descend", lambda *_: (whole, []))
    for alike, share in ((True, RULES.near_share), (False, 1.0)):
        monkeypatch.setattr(step, "apart", lambda *_, alike=alike: 0.0 if alike else 2.0)
        found = propose(policy, make_losses(policy), ROWS, token, AlignParams(), 0)
        assert torch.equal(found.whole, whole)
        torch.testing.assert_close(found.token, token + share * (whole - token))
        torch.testing.assert_close(found.start, token + share * (found.picked.token - token))


def test_without_inverse_dynamics_nothing_is_doubted(policy: Policy, token: Tensor) -> None:
    losses = make_losses(policy, lambda_inv=0.0)
    assert torch.equal(without_doubted(losses, token, ROWS, 1, 0), ROWS)


def test_the_whole_step_explains_the_experience_beside_the_finalists_with_the_same_draws(
    policy: Policy, token: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = policy.e_0 + policy.alignment.bank
    candidates = torch.cat([token[None], policy.e_0[None], bank])  # so few are all finalists
    monkeypatch.setattr(step, "descend", lambda *arguments: (bank[2], []))
    proposal = propose(policy, make_losses(policy), ROWS, token, AlignParams(), 0)
    assert set(proposal.explained) == {"perception", "inverse_dynamics"}
    for found in proposal.explained.values():
        assert found.shape == (len(candidates) + 1, len(ROWS))
        torch.testing.assert_close(found[-1], found[2 + 2])
        assert not torch.equal(found[-1], found[2])


def test_descending_stops_at_the_first_loss_that_is_not_finite(policy: Policy, token: Tensor) -> None:
    with pytest.raises(FloatingPointError, match="a loss or gradient is not finite at step 0"):
        descend(policy, make_losses(policy), ROWS, token * torch.nan, AlignParams(align_steps=5), 0)


def test_descending_stops_at_a_gradient_that_is_not_finite(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    slope = torch.zeros_like(policy.e_0)
    slope[0, 0] = torch.inf
    monkeypatch.setattr(step, "gradient", lambda *_: (slope, {}))
    with pytest.raises(FloatingPointError, match="a loss or gradient is not finite at step 0"):
        descend(policy, make_losses(policy), ROWS, policy.e_0, AlignParams(align_steps=5), 0)
