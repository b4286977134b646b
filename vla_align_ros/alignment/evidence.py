"""What the guard judges a proposed token by: losses on experience that it did not learn from, and on all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vla_align_ros.alignment.losses import ExperienceLosses
from vla_align_ros.alignment.step import Proposal
from vla_align_ros.policy import Policy
from vla_align_ros.types import Experience

JUDGE_DRAWS, COMMANDS_DRAWS, STATES_DRAWS = 4, 1, 1


@dataclass(frozen=True)
class Evidence:
    """Losses of single experiences, by task: with the running token (`before`), with the mean of the best known ones
    (`best_known`) and with the new one (`after`), each (N,) on the later part. with_commands: inverse dynamics on
    all experience with the new `token`, with the true commands and with others (2, M), by which. with_states:
    perception in the same way, with the true states and with others; None where it is not asked."""

    before: Mapping[str, Tensor]
    best_known: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    with_commands: Mapping[str, Tensor]
    with_states: Tensor | None
    token: Tensor


@torch.no_grad()
def on_later(losses: ExperienceLosses, token: Tensor, rows: Tensor, seed: int) -> dict[str, Tensor]:
    """Losses of a token on the rows that judge, (len(rows),) by task; every token meets the same draws."""
    return losses(token, rows, JUDGE_DRAWS, seed)


def collect(
    policy: Policy,
    losses: ExperienceLosses,
    experiences: Sequence[Experience],
    judge_rows: Tensor,
    before: Mapping[str, Tensor],
    proposal: Proposal,
    seed: int,
) -> Evidence:
    """Everything that the guard asks of a proposal. losses: of `experiences`. before: `on_later` with the running
    token and the same seed."""
    best_known, after = (on_later(losses, token, judge_rows, seed) for token in (proposal.best_known, proposal.token))
    commands = with_commands(policy, losses, experiences, proposal.token, seed)
    states = with_states(losses, proposal.token, seed)
    return Evidence(before, best_known, after, commands, states, proposal.token)


@torch.no_grad()
def with_states(losses: ExperienceLosses, token: Tensor, seed: int) -> Tensor | None:
    """Perception loss (2, M) on all experience: of its images with the states that were measured with them, and with
    those of another experience, half-way through all. None without perception."""
    if losses.weights.lambda_perc == 0:
        return None
    rows, alone = torch.arange(len(losses)), losses.perception_alone()
    others = (None, rows.roll(len(rows) // 2))
    return torch.stack([alone(token, rows, STATES_DRAWS, seed, other_states=o)["perception"] for o in others])


@torch.no_grad()
def with_commands(
    policy: Policy,
    losses: ExperienceLosses,
    experiences: Sequence[Experience],
    token: Tensor,
    seed: int,
) -> dict[str, Tensor]:
    """Inverse-dynamics loss (2, M) with the true commands and with those of another experience, by which: `shuffled` is
    half-way through all, `before` about half a horizon earlier in the same episode.

    All experience is asked: whether commands fit frames is no question of what was learned, and many tell more than the
    few that judge. Empty without inverse dynamics; `before` is absent where no experience has one.
    """
    found: dict[str, Tensor] = {}
    if losses.weights.lambda_inv == 0:
        return found
    rows = torch.arange(len(experiences))
    losses = losses.without_dynamics()
    true = losses(token, rows, COMMANDS_DRAWS, seed)["inverse_dynamics"]
    others = {
        "shuffled": rows.roll(len(rows) // 2),
        "before": half_a_horizon_before(experiences, policy.config.robot.period_ns),
    }
    for which, other in others.items():
        has = other >= 0
        if bool(has.any()):
            swapped = torch.where(has, other, rows)
            loss = losses(token, rows, COMMANDS_DRAWS, seed, other_actions=swapped)["inverse_dynamics"]
            found[which] = torch.stack([true, loss])[:, has]
    return found


def half_a_horizon_before(experiences: Sequence[Experience], period_ns: int) -> Tensor:
    """Row of the experience that starts closest to half a horizon earlier, (N,); -1 where none of the same episode
    starts between a quarter of a horizon and a whole one before."""
    start_ns = np.array([item.observation.stamp_ns for item in experiences])
    episode = np.array([item.episode for item in experiences])
    horizon = len(experiences[0].commands)
    ticks = (start_ns[:, None] - start_ns[None]) / period_ns  # (N, N): how much earlier the column starts
    off = np.abs(ticks - horizon / 2)
    off[(episode[None] != episode[:, None]) | (ticks < horizon / 4) | (ticks > horizon)] = np.inf
    return torch.from_numpy(np.where(np.isfinite(off.min(1)), off.argmin(1), -1))
