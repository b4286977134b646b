"""What the guard judges a proposal by: losses on experience that it did not learn from, and on all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vla_align_ros.alignment import one_robot
from vla_align_ros.alignment.losses import ExperienceLosses
from vla_align_ros.alignment.split import LEAST_TO_JUDGE, parts_of
from vla_align_ros.alignment.step import Proposal
from vla_align_ros.policy import Policy
from vla_align_ros.types import Experience

JUDGE_DRAWS, ACTIONS_DRAWS = 4, 1


@dataclass(frozen=True)
class Evidence:
    """Losses of single experiences (N,), by task.

    On the later part: before, with the running token; after, with that of the whole step; used, with `token`, which may
    have gone a part of the way. On all experience: with_actions, inverse dynamics after the whole step, with the
    true actions and with others. On the earlier part: one_over_two, what one token costs over what two do
    (`one_robot.py`).
    """

    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    used: Mapping[str, Tensor]
    with_actions: Mapping[str, Tensor]
    one_over_two: float | None
    token: Tensor
    e_0: Tensor


@torch.no_grad()
def on_later(losses: ExperienceLosses, token: Tensor, rows: Tensor, seed: int) -> dict[str, Tensor]:
    """Losses of a token on the rows that judge, (len(rows),) by task; every token meets the same draws."""
    return losses(token, rows, JUDGE_DRAWS, seed)


def collect(
    policy: Policy,
    losses: ExperienceLosses,
    learn: Sequence[Experience],
    judged: Sequence[Experience],
    before: Mapping[str, Tensor],
    proposal: Proposal,
    seed: int,
) -> Evidence:
    """Everything that the guard asks of a proposal. losses: of `learn` and `judged`, in that order. before: `on_later`
    with the running token and the same seed."""
    everything, later = [*learn, *judged], torch.arange(len(learn), len(losses))
    used = on_later(losses, proposal.token, later, seed)
    whole = torch.equal(proposal.token, proposal.whole)
    after = used if whole else on_later(losses, proposal.whole, later, seed)
    return Evidence(
        before,
        after,
        used,
        with_actions(policy, losses, everything, proposal.whole, seed),
        one_robot.one_over_two(proposal.explained, parts_of(learn)),
        proposal.token,
        policy.e_0,
    )


@torch.no_grad()
def with_actions(
    policy: Policy,
    losses: ExperienceLosses,
    experiences: Sequence[Experience],
    token: Tensor,
    seed: int,
) -> dict[str, Tensor]:
    """Inverse-dynamics loss (2, M) with the true actions and with those of another experience, by which: `shuffled` is
    half-way through all, `next` and `last` about half a horizon later and earlier in the same episode.

    All experience is asked: whether actions fit frames is no question of what was learned, and many tell more than the
    few that judge. Empty without inverse dynamics; a neighbour is absent where fewer than LEAST_TO_JUDGE have one.
    """
    found: dict[str, Tensor] = {}
    if losses.weights.lambda_inv == 0:
        return found
    rows = torch.arange(len(experiences))
    losses = losses.without_dynamics()
    true = losses(token, rows, ACTIONS_DRAWS, seed)["inverse_dynamics"]
    others = {
        "shuffled": rows.roll(len(rows) // 2),
        "next": neighbours(experiences, policy.config.robot.period_ns, 1),
        "last": neighbours(experiences, policy.config.robot.period_ns, -1),
    }
    for which, other in others.items():
        has = other >= 0
        if int(has.sum()) >= LEAST_TO_JUDGE:
            swapped = torch.where(has, other, rows)
            loss = losses(token, rows, ACTIONS_DRAWS, seed, other_actions=swapped)["inverse_dynamics"]
            found[which] = torch.stack([true, loss])[:, has]
    return found


def neighbours(experiences: Sequence[Experience], period_ns: int, direction: Literal[1, -1]) -> Tensor:
    """Row of the experience that starts closest to half a horizon later (direction 1) or earlier, (N,); -1 where none
    of the same episode starts between a quarter of a horizon and a whole one away."""
    start_ns = np.array([item.observation.stamp_ns for item in experiences])
    episode = np.array([item.episode for item in experiences])
    horizon = len(experiences[0].commands)
    ticks = direction * (start_ns[None] - start_ns[:, None]) / period_ns  # (N, N): how much later the column starts
    off = np.abs(ticks - horizon / 2)
    off[(episode[None] != episode[:, None]) | (ticks < horizon / 4) | (ticks > horizon)] = np.inf
    return torch.from_numpy(np.where(np.isfinite(off.min(1)), off.argmin(1), -1))
