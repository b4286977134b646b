"""What an alignment proposes: the tokens that explain the experience best, and gradient steps from their mean; where
the bank's tokens are made of shifts, steps in those, from the shifts of the bank's token that is nearest to that mean.

Whether the proposal is any good is asked by `guard.py`, from what `evidence.py` collects.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from typing import Protocol

import torch
from torch import Tensor

from vla_align_ros.alignment.losses import ExperienceLosses, weights_of
from vla_align_ros.alignment.pick import pick
from vla_align_ros.alignment.report import StepCurve
from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy
from vla_align_ros.policy.made_tokens import MadeTokens
from vla_align_ros.seeds import Part, seed_of

USUAL = 0.01  # of the lambdas' sum: what a shift by its spread must be worth


class OnStep(Protocol):
    """Called after each gradient step, from the thread that aligns."""

    def __call__(self, step: int, curve: StepCurve) -> None: ...


@dataclass(frozen=True)
class Proposal:
    """Tokens (n, W). best_known: the mean of those that explain the experience best, of the running token, E_0 and the
    bank, and best_known_name what the first of them is called in a report. token: where the gradient leads to from
    there."""

    best_known: Tensor
    best_known_name: str
    token: Tensor
    curve: tuple[StepCurve, ...]


def propose(
    policy: Policy,
    losses: ExperienceLosses,
    rows: Tensor,
    running: Tensor,
    params: AlignParams,
    seed: int,
    on_step: OnStep | None = None,
) -> Proposal:
    """From the running token (n, W), which stays as it is, by the experience of `rows`. Raises FloatingPointError where
    a loss is not finite."""
    best_known, name = find_best_known(policy, losses, rows, running, seed)
    token, curve = descend(policy, losses, rows, best_known, params, seed, on_step)
    return Proposal(best_known, name, token, tuple(curve))


def find_best_known(
    policy: Policy, losses: ExperienceLosses, rows: Tensor, running: Tensor, seed: int
) -> tuple[Tensor, str]:
    """The mean of the tokens that explain `rows` best (`pick.py`), without dynamics; and the name of the first one."""
    candidates = known_tokens(policy, running)
    names = ["running token", "E_0", *(f"bank token {row}" for row in range(len(policy.alignment.bank)))]
    best, mean = pick(losses.without_dynamics(), rows, candidates, seed_of(seed, Part.PICK))
    return mean, names[best]


def known_tokens(policy: Policy, running: Tensor) -> Tensor:
    """(2 + robots, n, W): the running token (n, W), E_0 and the bank's."""
    return torch.cat([torch.stack([running, policy.e_0]), policy.e_0 + policy.alignment.bank])


def descend(
    policy: Policy,
    losses: ExperienceLosses,
    rows: Tensor,
    start: Tensor,
    params: AlignParams,
    seed: int,
    on_step: OnStep | None = None,
) -> tuple[Tensor, list[StepCurve]]:
    """Adam steps from a token (n, W). Where the bank was made of shifts, a token moves as they do (`_Shifts`), else
    freely (`_Free`).

    The rate is a share (`align_learning_rate`) of how much the bank's robots differ, and falls to 0 on a straight line;
    a share of 0 takes no steps. Raises FloatingPointError at the first loss or gradient that is not finite.
    """
    if not params.align_learning_rate:
        return within_bank(policy, start), []
    way = _Free(policy, start) if policy.alignment.made is None else _Shifts(policy, start, policy.alignment.made)
    moved = way.start.detach().clone().requires_grad_(True)
    share, weight = params.align_learning_rate * way.spread, sum(astuple(weights_of(params)))
    adam, generator, curve = torch.optim.Adam([moved], share), torch.Generator().manual_seed(seed), []
    for step in range(params.align_steps):
        rate = adam.param_groups[0]["lr"] = share * (1.0 - step / params.align_steps)
        batch = rows[torch.randperm(len(rows), generator=generator)[: params.align_batch_size]]
        token, far = way.token(moved), weight * way.far(moved)  # whatever all lambdas are multiplied by
        found, mean_losses = losses.gradient(token, batch, params.align_draws, seed_of(seed, Part.GRADIENT, step))
        (moved.grad,) = torch.autograd.grad([token, far], moved, [found, torch.ones_like(far)])
        adam.step()
        with torch.no_grad():
            moved.copy_(way.inside(moved))
        if not bool(torch.isfinite(moved).all()) or not all(map(math.isfinite, mean_losses.values())):
            raise FloatingPointError(f"a loss or gradient is not finite at step {step}")
        norm = float(way.token(moved).detach().norm())
        curve.append(StepCurve(mean_losses, float(found.norm()), norm, rate))
        if on_step is not None:
            on_step(step, curve[-1])
    return way.token(moved).detach(), curve


class _Free:
    """A token that moves by itself, never farther from E_0 than the bank is."""

    def __init__(self, policy: Policy, start: Tensor) -> None:
        self._policy = policy
        self.start, self.spread = self.inside(start), float(policy.alignment.bank.std(correction=0))

    def token(self, moved: Tensor) -> Tensor:
        return moved * 1.0

    def inside(self, moved: Tensor) -> Tensor:
        return within_bank(self._policy, moved)

    def far(self, moved: Tensor) -> Tensor:
        """What is asked of a token beside its losses: nothing."""
        return 0.0 * moved.sum()


class _Shifts:
    """A token that is made of shifts, which move: from those of the bank's token that is nearest to the start, in the
    box in which all the bank's are, and no farther from those of a fresh install than experience asks for. So a shift
    that experience does not tell stays where it is likely to be, and the token one that training knows."""

    def __init__(self, policy: Policy, start: Tensor, made: MadeTokens) -> None:
        bank = policy.alignment.bank
        self._made, self._e_0 = made, policy.e_0
        self._lowest, self._highest = made.shifts.min(0).values, made.shifts.max(0).values
        first = policy.config.initial_token
        self._usual = torch.zeros_like(made.shifts[0]) if first is None else made.shifts[first]
        nearest = int((policy.e_0 + bank - start).flatten(1).norm(dim=1).nan_to_num(nan=torch.inf).argmin())
        self.start, self.spread = made.shifts[nearest], float((self._highest - self._lowest).mean() / 2)

    def token(self, moved: Tensor) -> Tensor:
        return self._e_0 + self._made.offsets(moved[None])[0]

    def inside(self, moved: Tensor) -> Tensor:
        return moved.clamp(self._lowest, self._highest)

    def far(self, moved: Tensor) -> Tensor:
        """What is asked of it beside the losses."""
        return USUAL * (moved - self._usual).square().sum()


def within_bank(policy: Policy, token: Tensor) -> Tensor:
    """A token (n, W), or the nearest one that is no farther from E_0 than the farthest of the bank, which is all that
    training knows."""
    offset, farthest = token - policy.e_0, policy.alignment.bank.flatten(1).norm(dim=1).max()
    inside: Tensor = policy.e_0 + offset * (farthest / offset.norm().clamp(min=1e-12)).clamp(max=1.0)
    return inside
