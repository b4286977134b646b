"""What the guard judges a proposed token by: losses on experience that it did not learn from, and on all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    """Losses of single experiences, by task: with the running token (`before`), with the one that the gradient started
    from (`best_known`) and with the new one (`after`), each (N,) on the later part. with_commands: inverse dynamics on
    all experience with the new `token`, with the true commands and with others (2, M), by which (`with_others`).
    with_states: perception in the same way, with the true states and with others."""

    before: Mapping[str, Tensor]
    best_known: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    with_commands: Mapping[str, Tensor]
    with_states: Mapping[str, Tensor]
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
    period_ns = policy.config.robot.period_ns
    commands = with_commands(losses, experiences, period_ns, proposal.token, seed)
    states = with_states(losses, experiences, period_ns, proposal.token, seed)
    return Evidence(before, best_known, after, commands, states, proposal.token)


@torch.no_grad()
def with_states(
    losses: ExperienceLosses, experiences: Sequence[Experience], period_ns: int, token: Tensor, seed: int
) -> dict[str, Tensor]:
    """Perception loss with the states that were measured with the images, and with others (`with_others`)."""
    if losses.weights.lambda_perc == 0:
        return {}
    rows, alone = torch.arange(len(experiences)), losses.perception_alone()

    def asked(other: Tensor | None) -> Tensor:
        return alone(token, rows, STATES_DRAWS, seed, other_states=other)["perception"]

    return with_others(asked, experiences, period_ns)


@torch.no_grad()
def with_commands(
    losses: ExperienceLosses, experiences: Sequence[Experience], period_ns: int, token: Tensor, seed: int
) -> dict[str, Tensor]:
    """Inverse-dynamics loss with the commands that were sent, and with others (`with_others`)."""
    if losses.weights.lambda_inv == 0:
        return {}
    rows, inverse = torch.arange(len(experiences)), losses.without_dynamics()

    def asked(other: Tensor | None) -> Tensor:
        return inverse(token, rows, COMMANDS_DRAWS, seed, other_actions=other)["inverse_dynamics"]

    return with_others(asked, experiences, period_ns)


def with_others(
    asked: Callable[[Tensor | None], Tensor], experiences: Sequence[Experience], period_ns: int
) -> dict[str, Tensor]:
    """Losses (2, M) with what belongs together, and with what belongs to another experience, by which: `shuffled` is
    half-way through all, `before` about half a horizon earlier in the same episode; absent where no experience has one.

    asked: rows of others (N,), or None -> losses (N,). All experience is asked: what belongs together is no question of
    what was learned, and many tell more than the few that judge.
    """
    rows, true = torch.arange(len(experiences)), asked(None)
    before = half_a_horizon_before(experiences, period_ns)
    found = {"shuffled": torch.stack([true, asked(rows.roll(len(rows) // 2))])}
    has = before >= 0
    if bool(has.any()):
        found["before"] = torch.stack([true, asked(torch.where(has, before, rows))])[:, has]
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
