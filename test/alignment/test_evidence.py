"""Whose actions the true ones are compared with. (The rest of what is collected: test_align_flow.py.)"""

from __future__ import annotations

import dataclasses

import torch
from builders import make_experiences, one_after_another
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vla_align_ros.alignment.evidence import ACTIONS_DRAWS, neighbours, with_actions
from vla_align_ros.alignment.losses import ExperienceLosses
from vla_align_ros.policy import Policy
from vla_align_ros.policy.losses import LossWeights


@given(st.integers(1, 12), st.integers(1, 9))
def test_a_neighbour_is_half_a_horizon_away_in_the_same_episode(stride_ticks: int, horizon: int) -> None:
    experiences = make_experiences(24, episodes=2, horizon=horizon)
    for index, item in enumerate(experiences):
        seen = dataclasses.replace(item.observation, stamp_ns=index * stride_ticks * 1_000)
        experiences[index] = dataclasses.replace(item, observation=seen)
    for direction in (1, -1):
        found = neighbours(experiences, 1_000, direction).tolist()
        for row, other in enumerate(found):
            away = {
                direction * (column - row) * stride_ticks: column
                for column in range(24)
                if experiences[column].episode == experiences[row].episode
            }
            allowed = {ticks: column for ticks, column in away.items() if horizon / 4 <= ticks <= horizon}
            if not allowed:
                assert other == -1
            else:
                best = min(abs(ticks - horizon / 2) for ticks in allowed)
                assert abs(direction * (other - row) * stride_ticks - horizon / 2) == best


def test_the_true_and_the_neighbours_actions_take_part_where_there_are_neighbours(
    policy: Policy, token: Tensor
) -> None:
    experiences = one_after_another(20)  # two episodes, horizon 5, 4 ticks apart
    losses = ExperienceLosses(policy, experiences, LossWeights())
    found = with_actions(policy, losses, experiences, token, 7)
    losses = losses.without_dynamics()
    rows = torch.arange(20)
    assert {which: loss.shape[1] for which, loss in found.items()} == {"shuffled": 20, "next": 18, "last": 18}
    for which, other, has in (
        ("shuffled", rows.roll(10), rows >= 0),
        ("next", rows.roll(-1), rows % 10 != 9),
        ("last", rows.roll(1), rows % 10 != 0),
    ):
        true = losses(token, rows, ACTIONS_DRAWS, 7)["inverse_dynamics"]
        theirs = torch.where(has, other, rows)
        swapped = losses(token, rows, ACTIONS_DRAWS, 7, other_actions=theirs)["inverse_dynamics"]
        torch.testing.assert_close(found[which], torch.stack([true, swapped])[:, has])
    few = ExperienceLosses(policy, experiences[:4], LossWeights())
    of_few = with_actions(policy, few, experiences[:4], token, 7)
    assert set(of_few) == {"shuffled"}, "three neighbours tell nothing"
    blind = ExperienceLosses(policy, experiences, LossWeights(lambda_inv=0.0))
    assert with_actions(policy, blind, experiences, token, 7) == {}
