"""What an alignment proposes: the pick, gradient steps from there, and how much of the way to what they lead to.

Whether the proposal is any good is asked by `guard.py`, from what `evidence.py` collects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from vla_align_ros.alignment.losses import ExperienceLosses, means
from vla_align_ros.alignment.pick import Pick, pick
from vla_align_ros.alignment.report import StepCurve
from vla_align_ros.alignment.rules import RULES, Rules
from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy

ROWS_AT_ONCE = 32  # in one backward pass: bounds the memory, whatever align_batch_size is


RUNNING, E_0, BANK = 0, 1, 2  # where candidates for the pick stand: the running token, E_0, the bank from there on


class OnStep(Protocol):
    """Called after each gradient step, from the thread that aligns."""

    def __call__(self, step: int, curve: StepCurve) -> None: ...


@dataclass(frozen=True)
class Proposal:
    """Tokens (n, W). picked: what the bank's losses say. start: what would be used without the gradient, all or
    `near_share` of the way to `picked.token`. whole: the whole step, where the gradient leads to from there. token:
    what would be used, as much of the way to `whole`. explained: losses of the pick's finalists and, last, of `whole`,
    (F + 1, N) by task, all with the same draws."""

    picked: Pick
    start: Tensor
    whole: Tensor
    token: Tensor
    curve: tuple[StepCurve, ...]
    explained: Mapping[str, Tensor]

    @property
    def picked_row(self) -> int | None:
        """Row of the bank whose token explains the experience best; None for the running token, -1 for E_0."""
        return None if self.picked.index == RUNNING else self.picked.index - BANK


def propose(
    policy: Policy,
    losses: ExperienceLosses,
    rows: Tensor,
    running: Tensor,
    params: AlignParams,
    seed: int,
    on_step: OnStep | None = None,
    rules: Rules = RULES,
) -> Proposal:
    """Pick and gradient steps on `rows`, from the running token (n, W), which stays as it is. Raises FloatingPointError
    where a loss is not finite."""
    picked = first_step(policy, losses, rows, running, seed, rules.blended)
    fits_nearly = apart(losses, running, picked.token, rows, picked.draws_seed) <= rules.alike
    trusted = rows
    if fits_nearly:
        trusted = without_doubted(losses, picked.token, rows, params.align_draws, seed + 4, rules.doubted)
    whole, curve = descend(policy, losses, trusted, picked.token, params, seed, on_step, rules.step_shares)
    with torch.no_grad():
        by_whole = losses.without_dynamics()(whole, rows, 1, picked.draws_seed)
    explained = {task: torch.cat([found, by_whole[task][None]]) for task, found in picked.losses.items()}
    start, token = picked.token, whole
    if fits_nearly:
        start, token = (within_radius(policy, torch.lerp(running, end, rules.near_share)) for end in (start, token))
    return Proposal(picked, start, whole, token, tuple(curve), explained)


def apart(losses: ExperienceLosses, running: Tensor, picked: Tensor, rows: Tensor, seed: int) -> float:
    """How differently the policy would act with the running token and with the picked one: the mean squared difference
    of their actions over the mean square of the picked one's. Where it is small the running one fits nearly, and there
    is more to lose than to gain.

    Then a part of the way is enough, and the next alignment goes on from there: each token has oddities of its own,
    and not far from the one that it has an arm acts hardly worse, whatever the losses did not see. Between one that
    fits and one that does not it acts badly, however well the point between explains the experience
    (docs/decisions.md)."""
    by_running, by_picked = losses.acts(torch.stack([running, picked]), rows, seed)
    return float((by_running - by_picked).square().mean() / by_picked.square().mean().clamp(min=1e-12))


@torch.no_grad()
def without_doubted(
    losses: ExperienceLosses, token: Tensor, rows: Tensor, draws: int, seed: int, share: float = RULES.doubted
) -> Tensor:
    """`rows` without the share of which the token (n, W) explains the commands worst. Where it fits nearly these are
    the wrong ones, if any, as after a lost or late chunk; where it does not they are what tells where to go."""
    each = losses.without_dynamics()(token, rows, draws, seed).get("inverse_dynamics")
    if each is None:
        return rows
    trusted = each.argsort()[: len(rows) - int(share * len(rows))]
    return rows[trusted.sort().values]


def first_step(
    policy: Policy, losses: ExperienceLosses, rows: Tensor, token: Tensor, seed: int, blended: float = RULES.blended
) -> Pick:
    """The pick among the running token, E_0 and the bank, without dynamics. Where nothing is better than the running
    token the start is that token alone."""
    candidates = torch.cat([torch.stack([token, policy.e_0]), policy.e_0 + policy.alignment.bank])
    picked = pick(losses.without_dynamics(), rows, candidates, seed + 2, blended)
    alone = torch.equal(candidates[picked.index], token)  # a fresh install's is in the bank, too
    return replace(picked, index=RUNNING, token=token) if alone else picked


def descend(
    policy: Policy,
    losses: ExperienceLosses,
    rows: Tensor,
    start: Tensor,
    params: AlignParams,
    seed: int,
    on_step: OnStep | None = None,
    step_shares: tuple[float, ...] = RULES.step_shares,
) -> tuple[Tensor, list[StepCurve]]:
    """Gradient steps on a shadow copy of the token (n, W): E <- E - align_learning_rate * M g.

    M = learned_step[1].T @ learned_step[0] is of the end of training (`training/learned_step.py`): the plain gradient
    hardly points to where an arm acts better. A rate of 1 goes all the way that one gradient tells; of that way the
    share is taken that has the lowest weighted loss by one further draw of (t, noise) a row, which may be none. Raises
    FloatingPointError at the first loss that is not finite, as it is after a gradient that is not.
    """
    reads, moves = policy.alignment.learned_step
    rate, shadow = params.align_learning_rate, within_radius(policy, start)
    generator = torch.Generator().manual_seed(seed)
    curve = []
    for step in range(params.align_steps):
        batch = rows[torch.randperm(len(rows), generator=generator)[: params.align_batch_size]]
        found, mean_losses = gradient(losses, shadow, batch, params.align_draws, seed * 1009 + step + 1)
        direction = (moves.T @ (reads @ found.flatten())).view_as(shadow)
        tried = [shadow, *(within_radius(policy, shadow - share * rate * direction) for share in step_shares[1:])]
        with torch.no_grad():
            costs = losses.weighted(losses(torch.stack(tried), batch, 1, seed)).mean(1)
        if not bool(torch.isfinite(costs).all()):
            raise FloatingPointError(f"a loss or gradient is not finite at step {step}")
        best = int(costs.argmin())
        shadow, taken = tried[best], step_shares[best] * rate
        curve.append(StepCurve(mean_losses, float(found.norm()), float(shadow.norm()), taken))
        if on_step is not None:
            on_step(step, curve[-1])
    return shadow, curve


def gradient(
    losses: ExperienceLosses, token: Tensor, rows: Tensor, draws: int, seed: int
) -> tuple[Tensor, dict[str, float]]:
    """Gradient (n, W) of the mean weighted loss on `rows` at a token, and the mean loss of each task, with `draws` of
    (t, noise) for each row, by `seed`."""
    token, slope, found = token.detach().requires_grad_(True), torch.zeros_like(token), []
    for index, part in enumerate(rows.split(ROWS_AT_ONCE)):
        found.append(losses(token, part, draws, seed * 1009 + index))
        slope += torch.autograd.grad(losses.weighted(found[-1]).sum() / len(rows), token)[0]
    return slope, means({task: torch.cat([part[task].detach() for part in found]) for task in found[0]})


def within_radius(policy: Policy, token: Tensor) -> Tensor:
    """A token (n, W), or the nearest one that is no farther from E_0 than the guard allows."""
    offset, radius = token - policy.e_0, policy.alignment.stats.radius
    inside: Tensor = policy.e_0 + offset * (radius / offset.norm().clamp(min=1e-12)).clamp(max=1.0)
    return inside
