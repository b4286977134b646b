"""What the guard judges a proposal by: losses on experience that it did not learn from, and on all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vla_align_ros.alignment import experience_check, one_robot
from vla_align_ros.alignment.losses import ExperienceLosses
from vla_align_ros.alignment.step import Proposal
from vla_align_ros.policy import Policy
from vla_align_ros.types import Experience

JUDGE_DRAWS, EVERYWHERE_DRAWS = 8, 2


@dataclass(frozen=True)
class Evidence:
    """Losses of single experiences (N,), by task.

    On the later part: before, with the running token; after, with that of the whole step; used, with `token`, which may
    have gone half of the way. On all experience: everywhere, by stage, `before` and `after`; with_actions, inverse
    dynamics with the true and with other actions after the whole step; parts, rows of each part of an episode. On the
    earlier part: one_over_two, what one token costs over what two do (`one_robot.py`).
    """

    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    used: Mapping[str, Tensor]
    with_actions: Mapping[str, Tensor]
    everywhere: Mapping[str, Mapping[str, Tensor]]
    parts: Sequence[Sequence[int]]
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
    running: Tensor,
    proposal: Proposal,
    seed: int,
) -> Evidence:
    """Everything that the guard asks of a proposal. losses: of `learn` and `judged`, in that order. before: `on_later`
    with the running token (n, W) and the same seed."""
    everything, later = [*learn, *judged], torch.arange(len(learn), len(losses))
    used = on_later(losses, proposal.token, later, seed)
    whole = torch.equal(proposal.token, proposal.whole)
    after = used if whole else on_later(losses, proposal.whole, later, seed)
    tokens = {"before": running, "after": proposal.whole}
    everywhere = {stage: losses_everywhere(losses, token, seed) for stage, token in tokens.items()}
    return Evidence(
        before,
        after,
        used,
        with_actions(policy, losses, everything, proposal.whole, everywhere["after"], seed),
        everywhere,
        one_robot.parts_of(everything),
        one_robot.one_over_two(proposal.picked.losses, one_robot.parts_of(learn)),
        proposal.token,
        policy.e_0,
    )


@torch.no_grad()
def losses_everywhere(losses: ExperienceLosses, token: Tensor, seed: int) -> dict[str, Tensor]:
    """Losses of a token on all experiences, (N,) by task, without dynamics."""
    return losses.without_dynamics()(token, torch.arange(len(losses)), EVERYWHERE_DRAWS, seed)


@torch.no_grad()
def with_actions(
    policy: Policy,
    losses: ExperienceLosses,
    experiences: Sequence[Experience],
    token: Tensor,
    everywhere: Mapping[str, Tensor],
    seed: int,
) -> dict[str, Tensor]:
    """Inverse-dynamics loss (2, M) with the true actions and with those of another experience, by which: `shuffled` is
    half-way through all, `next` and `last` about half a horizon later and earlier in the same episode.

    everywhere: `losses_everywhere` of the same token and seed. All experience is asked: whether actions fit frames is
    no question of what was learned, and many tell more than the few that judge. Empty without inverse dynamics; a
    neighbour is absent where fewer than LEAST_TO_JUDGE have one.
    """
    found: dict[str, Tensor] = {}
    if losses.weights.lambda_inv == 0:
        return found
    rows = torch.arange(len(experiences))
    losses = losses.without_dynamics()
    others = {
        "shuffled": rows.roll(len(rows) // 2),
        "next": neighbours(experiences, policy.config.robot.period_ns, 1),
        "last": neighbours(experiences, policy.config.robot.period_ns, -1),
    }
    for which, other in others.items():
        has = other >= 0
        if int(has.sum()) >= experience_check.LEAST_TO_JUDGE:
            swapped = torch.where(has, other, rows)
            loss = losses(token, rows, EVERYWHERE_DRAWS, seed, other_actions=swapped)["inverse_dynamics"]
            found[which] = torch.stack([everywhere["inverse_dynamics"], loss])[:, has]
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
