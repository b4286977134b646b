"""Whose commands and states the true ones are compared with. (The rest of what is collected: test_align_flow.py.)"""

from __future__ import annotations

import dataclasses

import torch
from builders import make_experiences, one_after_another
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vla_align_ros.alignment.evidence import (
    COMMANDS_DRAWS,
    STATES_DRAWS,
    half_a_horizon_before,
    with_commands,
    with_states,
)
from vla_align_ros.alignment.losses import ExperienceLosses
from vla_align_ros.policy import Policy
from vla_align_ros.policy.losses import LossWeights


@given(st.integers(1, 12), st.integers(1, 9))
def test_a_neighbour_is_half_a_horizon_before_in_the_same_episode(stride_ticks: int, horizon: int) -> None:
    experiences = make_experiences(24, episodes=2, horizon=horizon)
    for index, item in enumerate(experiences):
        seen = dataclasses.replace(item.observation, stamp_ns=index * stride_ticks * 1_000)
        experiences[index] = dataclasses.replace(item, observation=seen)
    for row, other in enumerate(half_a_horizon_before(experiences, 1_000).tolist()):
        before = {
            (row - column) * stride_ticks: column
            for column in range(24)
            if experiences[column].episode == experiences[row].episode
        }
        allowed = {ticks: column for ticks, column in before.items() if horizon / 4 <= ticks <= horizon}
        if not allowed:
            assert other == -1
        else:
            best = min(abs(ticks - horizon / 2) for ticks in allowed)
            assert abs((row - other) * stride_ticks - horizon / 2) == best


def test_the_true_and_the_neighbours_commands_take_part_where_there_are_neighbours(
    policy: Policy, token: Tensor
) -> None:
    experiences = one_after_another(20)  # two episodes, horizon 5, 4 ticks apart
    losses = ExperienceLosses(policy, experiences, LossWeights())
    found = with_commands(policy, losses, experiences, token, 7)
    losses = losses.without_dynamics()
    rows = torch.arange(20)
    assert {which: loss.shape[1] for which, loss in found.items()} == {"shuffled": 20, "before": 18}
    for which, other, has in (
        ("shuffled", rows.roll(10), rows >= 0),
        ("before", rows.roll(1), rows % 10 != 0),
    ):
        true = losses(token, rows, COMMANDS_DRAWS, 7)["inverse_dynamics"]
        theirs = torch.where(has, other, rows)
        swapped = losses(token, rows, COMMANDS_DRAWS, 7, other_actions=theirs)["inverse_dynamics"]
        torch.testing.assert_close(found[which], torch.stack([true, swapped])[:, has])
    few = ExperienceLosses(policy, experiences[:4], LossWeights())
    of_few = with_commands(policy, few, experiences[:4], token, 7)
    assert of_few["before"].shape == (2, 3), "all but the first"
    blind = ExperienceLosses(policy, experiences, LossWeights(lambda_inv=0.0))
    assert with_commands(policy, blind, experiences, token, 7) == {}


def test_images_are_asked_with_their_own_states_and_with_those_of_others(policy: Policy, token: Tensor) -> None:
    experiences, rows = one_after_another(8), torch.arange(8)
    found = with_states(ExperienceLosses(policy, experiences, LossWeights()), token, 7)
    swapped = [
        dataclasses.replace(
            item, observation=dataclasses.replace(item.observation, state=experiences[(row - 4) % 8].observation.state)
        )
        for row, item in enumerate(experiences)
    ]
    assert found is not None
    for asked, loss in zip((experiences, swapped), found, strict=True):
        alone = ExperienceLosses(policy, asked, LossWeights(1.0, 0.0, 0.0))
        torch.testing.assert_close(loss, alone(token, rows, STATES_DRAWS, 7)["perception"])
    assert not torch.equal(*found)
    assert with_states(ExperienceLosses(policy, experiences, LossWeights(lambda_perc=0.0)), token, 7) is None
