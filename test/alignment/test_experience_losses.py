"""What a token is worth on experience, which token is picked, and how experience is split in time."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from builders import TASKS, make_experiences, one_after_another
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vla_align_ros.alignment.align import split_by_episode
from vla_align_ros.alignment.evidence import EVERYWHERE_DRAWS, losses_everywhere, neighbours, with_actions
from vla_align_ros.alignment.losses import ExperienceLosses
from vla_align_ros.alignment.pick import BLENDED, FINALISTS, FIRST_ROUND, blend_weights, pick
from vla_align_ros.alignment.step import ROWS_AT_ONCE, descend, gradient
from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy
from vla_align_ros.policy.losses import LossWeights

ROWS = torch.arange(10)


@pytest.fixture
def token(policy: Policy) -> Tensor:
    assert policy.token is not None
    return policy.token


def make_losses(policy: Policy, count: int = 10, **weights: float) -> ExperienceLosses:
    return ExperienceLosses(policy, make_experiences(count), LossWeights(**weights))


# --- losses ---


def test_one_loss_an_experience_and_task(policy: Policy, token: Tensor) -> None:
    found = make_losses(policy)(token, ROWS, 3, seed=0)
    assert {task: tuple(loss.shape) for task, loss in found.items()} == dict.fromkeys(TASKS, (10,))


def test_the_same_seed_draws_the_same_for_every_token(policy: Policy, token: Tensor) -> None:
    losses = make_losses(policy)
    first, again, other = (losses(token, ROWS, 2, seed)["dynamics"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    moved = losses(token + 1e-6, ROWS, 2, 0)["dynamics"]
    torch.testing.assert_close(moved, first, atol=1e-3, rtol=1e-3)
    assert float((other - first).abs().max()) > 0.01


def test_the_losses_are_the_models_own(policy: Policy, token: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    alignment_losses = policy.model.alignment_losses

    def spy(cache: Any, state: Tensor, experience: Any, noise: dict[str, Tensor], time: Tensor, e: Tensor) -> Any:
        seen.update(state=state, experience=experience, noise=noise, time=time, e=e)
        return alignment_losses(cache, state, experience, noise, time, e)

    losses = make_losses(policy)
    monkeypatch.setattr(policy.model, "alignment_losses", spy)
    found = losses(token, ROWS, 3, seed=0)
    inputs, experience = policy.prepare_experiences(make_experiences(10))
    assert torch.equal(seen["state"], inputs.state.repeat_interleave(3, 0))
    assert torch.equal(seen["experience"].actions, experience.actions.repeat_interleave(3, 0))
    assert torch.equal(seen["e"], token.expand(30, -1, -1))
    assert len(seen["time"].unique()) == 30
    assert len(seen["noise"]["dynamics"].flatten(1).unique(dim=0)) == 30
    cache = policy.model.prefix_cache(inputs).repeat(3)
    direct = alignment_losses(cache, seen["state"], seen["experience"], seen["noise"], seen["time"], seen["e"])
    for task in TASKS:
        torch.testing.assert_close(found[task], direct[task].unflatten(0, (10, 3)).mean(1), atol=1e-5, rtol=1e-4)


def test_the_prefix_in_batches_gives_the_same(policy: Policy, token: Tensor) -> None:
    many, few = make_losses(policy, 70), ExperienceLosses(policy, make_experiences(70)[64:], LossWeights())
    assert len(many) == 70
    for task, loss in few(token, torch.arange(6), 2, 0).items():
        torch.testing.assert_close(many(token, torch.arange(64, 70), 2, 0)[task], loss, atol=1e-5, rtol=1e-4)


def test_shuffling_changes_the_actions_alone(policy: Policy, token: Tensor) -> None:
    losses = make_losses(policy)
    plain = losses(token, ROWS, 2, 0)
    same = losses(token, ROWS, 2, 0, other_actions=ROWS)
    shuffled = losses(token, ROWS, 2, 0, other_actions=ROWS.roll(5))
    assert all(torch.equal(plain[task], same[task]) for task in TASKS)
    assert torch.equal(plain["perception"], shuffled["perception"])
    assert not torch.equal(plain["inverse_dynamics"], shuffled["inverse_dynamics"])
    assert not torch.equal(plain["dynamics"], shuffled["dynamics"])


@pytest.mark.parametrize("task", TASKS)
def test_each_loss_alone_has_a_gradient_for_the_token(policy: Policy, token: Tensor, task: str) -> None:
    token = token.clone().requires_grad_(True)
    found = make_losses(policy)(token, ROWS, 2, 0)
    (gradient,) = torch.autograd.grad(found[task].mean(), token)
    assert (gradient.norm(dim=1) > 1e-7).all()


def test_a_zero_weight_is_not_computed_and_the_others_scale(policy: Policy, token: Tensor) -> None:
    losses = make_losses(policy, lambda_perc=0.0, lambda_dyn=2.0, lambda_inv=0.5)
    found = losses(token, ROWS, 1, 0)
    assert set(found) == {"dynamics", "inverse_dynamics"}
    torch.testing.assert_close(losses.weighted(found), 2.0 * found["dynamics"] + 0.5 * found["inverse_dynamics"])


def test_padding_and_missing_cameras_weigh_nothing(policy: Policy, token: Tensor) -> None:
    experiences = make_experiences(10)
    camera = next(iter(experiences[0].next_observation.images))
    blind = [
        dataclasses.replace(
            item,
            next_observation=dataclasses.replace(
                item.next_observation, images={k: v for k, v in item.next_observation.images.items() if k != camera}
            ),
        )
        for item in experiences
    ]
    losses = ExperienceLosses(policy, blind, LossWeights())
    before = losses(token, ROWS, 2, 0)
    features = losses._experience.features
    assert not losses._experience.feature_masks[:, :4].any()
    features[:, :4] += 7.0
    after = losses(token, ROWS, 2, 0)
    assert all(torch.equal(before[task], after[task]) for task in TASKS)
    features[:, 4:] += 7.0
    assert not torch.equal(losses(token, ROWS, 2, 0)["dynamics"], before["dynamics"])


def test_many_tokens_at_once_have_the_losses_that_each_has_alone(policy: Policy, token: Tensor) -> None:
    losses, tokens = make_losses(policy), torch.stack([token, token + 0.1, 2 * token])
    together = losses(tokens, ROWS, 3, seed=5)
    for row, one in enumerate(tokens):
        alone = losses(one, ROWS, 3, seed=5)
        for task in TASKS:
            torch.testing.assert_close(together[task][row], alone[task], rtol=1e-5, atol=1e-6)


def test_rows_in_parts_give_the_same(policy: Policy, token: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    losses, tokens, other = make_losses(policy), torch.stack([token, 2 * token]), ROWS.roll(3)
    whole = losses(tokens, ROWS, 3, 5, other_actions=other)
    monkeypatch.setattr("vla_align_ros.alignment.losses.AT_ONCE", 7)
    parts = losses(tokens, ROWS, 3, 5, other_actions=other)
    for task in TASKS:
        torch.testing.assert_close(parts[task], whole[task], rtol=1e-5, atol=1e-6)


# --- gradient steps ---


def test_descending_brings_the_learned_losses_down(policy: Policy, token: Tensor) -> None:
    losses = make_losses(policy, 32)
    rows = torch.arange(32)
    params = AlignParams(align_steps=25, align_learning_rate=0.5, align_batch_size=32)
    shadow, curve = descend(policy, losses, rows, token, params, 0)
    assert not shadow.requires_grad
    assert not torch.equal(shadow, token)
    before, after = (float(losses.weighted(losses(e, rows, 4, 99)).mean()) for e in (token, shadow))
    assert after < before
    rates = [step.learning_rate for step in curve]
    assert rates[0] == 0.5
    assert set(rates) <= {0.5, 0.25, 0.0}


def test_a_step_that_makes_the_losses_worse_is_not_taken(policy: Policy, token: Tensor) -> None:
    losses, params = make_losses(policy), AlignParams(align_steps=5, align_learning_rate=0.5)
    down, _ = descend(policy, losses, ROWS, token, params, 0)
    assert not torch.equal(down, token)
    assert policy.learned_step is not None
    policy.learned_step = policy.learned_step * torch.tensor([1.0, -1.0])[:, None, None]
    stayed, curve = descend(policy, losses, ROWS, token, params, 0)
    assert torch.equal(stayed, token)
    assert {(step.e_token_norm, step.learning_rate) for step in curve} == {(float(token.norm()), 0.0)}


class Bowl:
    """A loss that is lowest where the token's mean is 1, from the start at 0 half of the learned step away."""

    def __call__(self, token: Tensor, rows: Tensor, draws: int, seed: int) -> dict[str, Tensor]:
        return {"dynamics": (token.mean() - 1.0).square().expand(len(rows))}

    def weighted(self, losses: dict[str, Tensor]) -> Tensor:
        return losses["dynamics"]


@pytest.mark.parametrize(("goes_to", "rate"), [(1.9, 1.0), (2.1, 0.5), (3.9, 0.5), (4.1, 0.0)])
def test_a_step_that_goes_too_far_is_halved(policy: Policy, goes_to: float, rate: float) -> None:
    losses: Any = Bowl()
    start = torch.zeros_like(policy.e_0)
    slope, _ = gradient(losses, start, ROWS, 1, 0)
    reads = slope.flatten()[None] / slope.square().sum()
    policy.learned_step = torch.stack([reads, torch.full_like(reads, -goes_to)])
    token, (curve,) = descend(policy, losses, ROWS, start, AlignParams(align_learning_rate=1.0, align_steps=1), 0)
    assert curve.learning_rate == rate
    torch.testing.assert_close(token, torch.full_like(token, rate * goes_to), atol=1e-4, rtol=0.0)


def test_a_step_is_the_learned_one_for_the_gradient_of_the_whole_batch(policy: Policy) -> None:
    reads, moves = torch.zeros(2, 1, policy.e_0.numel())
    reads[0, 3] = 1.0
    losses, params = make_losses(policy), AlignParams(align_learning_rate=0.7)
    order = torch.randperm(len(ROWS), generator=torch.Generator().manual_seed(0))
    slope, means = gradient(losses, policy.e_0, order, params.align_draws, 1)
    moves[0, 5] = 0.01 * float(slope.flatten()[5] * slope.flatten()[3]) / float(slope.norm()) ** 2  # downhill
    policy.learned_step = torch.stack([reads, moves])
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


def test_descending_stops_at_the_first_gradient_that_is_not_finite(policy: Policy, token: Tensor) -> None:
    losses = make_losses(policy)
    with pytest.raises(FloatingPointError, match="the gradient is not finite at step 0"):
        descend(policy, losses, ROWS, token * torch.nan, AlignParams(align_steps=5), 0)


# --- the bank ---


class FakeLosses:
    """A token's loss is the distance of its mean from 0.25, plus noise that is largest on the first rows."""

    def __init__(self) -> None:
        self.looked: Counter[int] = Counter()  # experiences looked at -> how many tokens were

    def __call__(self, tokens: Tensor, rows: Tensor, draws: int, seed: int) -> dict[str, Tensor]:
        self.looked[len(rows)] += len(tokens)
        distance = (tokens.mean(dim=(1, 2)) - 0.25).abs()[:, None]
        return {"dynamics": distance + 1e-6 * rows}

    def weighted(self, losses: dict[str, Tensor]) -> Tensor:
        return losses["dynamics"]


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40, unique=True), st.integers(0, 1000))
def test_the_candidate_with_the_lowest_loss_is_picked(means: list[float], seed: int) -> None:
    candidates = torch.tensor(means)[:, None, None].expand(-1, 2, 3)
    index = pick(FakeLosses(), torch.arange(50), candidates, seed).index  # type: ignore[arg-type]
    distances = (torch.tensor(means) - 0.25).abs()
    assert float(distances[index]) == pytest.approx(float(distances.min()), abs=1e-6)


def test_the_eight_best_are_blended_and_what_is_clearly_worse_does_not_count() -> None:
    near = [0.25, *[0.35] * 7]  # two of them would be 0.3
    candidates = torch.tensor([*[0.95] * 4, *near, *[0.9] * 15])[:, None, None].expand(-1, 2, 3)
    found = pick(FakeLosses(), torch.arange(50), candidates, 0)  # type: ignore[arg-type]
    assert float(found.token.mean()) == pytest.approx(sum(near) / 8, abs=0.02)


@given(st.lists(st.integers(10, 300), min_size=2, max_size=24, unique=True))
def test_about_eight_tokens_count_or_half_of_fewer(hundredths: list[int]) -> None:
    scores = torch.tensor(hundredths) / 100
    weights = blend_weights(scores)
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-4)
    assert 1.0 / float(weights.square().sum()) == pytest.approx(min(BLENDED, len(scores) / 2), rel=0.05)
    assert weights[scores.argmin()] == weights.max()


def test_the_first_candidate_is_compared_with_the_best() -> None:
    candidates = torch.tensor([0.75, *[0.9] * 20, 0.5, 0.3])[:, None, None].expand(-1, 2, 3)
    found = pick(FakeLosses(), torch.arange(50), candidates, 0)  # type: ignore[arg-type]
    assert found.first_over_best == pytest.approx(0.5 / 0.05, rel=1e-2)


def test_only_the_finalists_are_looked_at_closely() -> None:
    losses = FakeLosses()
    found = pick(losses, torch.arange(50), torch.randn(60, 2, 3), 0)  # type: ignore[arg-type]
    assert losses.looked[FIRST_ROUND] == 60
    assert FINALISTS <= losses.looked[50] <= FINALISTS + FIRST_ROUND + 1
    assert found.losses["dynamics"].shape == (losses.looked[50], 50)


def test_dynamics_is_left_out_where_inverse_dynamics_is_asked(policy: Policy, token: Tensor) -> None:
    losses = make_losses(policy)
    less = losses.without_dynamics()
    assert set(less(token, ROWS, 1, 0)) == {"perception", "inverse_dynamics"}
    assert set(losses(token, ROWS, 1, 0)) == {"perception", "dynamics", "inverse_dynamics"}, "the other is as it was"
    blind = make_losses(policy, lambda_inv=0.0)
    assert blind.without_dynamics() is blind
    assert policy.model.architecture.alignment is not None
    mutual = dataclasses.replace(policy.model.architecture.alignment, perception_attention="mutual")
    policy.model.architecture = dataclasses.replace(policy.model.architecture, alignment=mutual)
    assert losses.without_dynamics() is losses, "perception would miss what it has always seen"


# --- whose actions ---


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
    found = with_actions(policy, losses, experiences, token, losses_everywhere(losses, token, 7), 7)
    losses = losses.without_dynamics()
    rows = torch.arange(20)
    assert {which: loss.shape[1] for which, loss in found.items()} == {"shuffled": 20, "next": 18, "last": 18}
    for which, other, has in (
        ("shuffled", rows.roll(10), rows >= 0),
        ("next", rows.roll(-1), rows % 10 != 9),
        ("last", rows.roll(1), rows % 10 != 0),
    ):
        true = losses(token, rows, EVERYWHERE_DRAWS, 7)["inverse_dynamics"]
        theirs = torch.where(has, other, rows)
        swapped = losses(token, rows, EVERYWHERE_DRAWS, 7, other_actions=theirs)["inverse_dynamics"]
        torch.testing.assert_close(found[which], torch.stack([true, swapped])[:, has])
    few = ExperienceLosses(policy, experiences[:4], LossWeights())
    of_few = with_actions(policy, few, experiences[:4], token, losses_everywhere(few, token, 7), 7)
    assert set(of_few) == {"shuffled"}, "three neighbours tell nothing"
    blind = ExperienceLosses(policy, experiences, LossWeights(lambda_inv=0.0))
    assert with_actions(policy, blind, experiences, token, losses_everywhere(blind, token, 7), 7) == {}


# --- earlier and later ---


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_and_one_have_no_later_part(count: int) -> None:
    learn, judged = split_by_episode(make_experiences(count))
    assert (len(learn), len(judged)) == (count, 0)


@given(st.integers(2, 60), st.data())
def test_what_is_judged_by_is_later_than_what_was_learned_from(count: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, 8))
    episodes = np.sort(data.draw(st.lists(st.integers(0, 5), min_size=count, max_size=count)))
    experiences = [
        dataclasses.replace(
            item,
            episode=int(episodes[index]),
            observation=dataclasses.replace(item.observation, stamp_ns=index * stride),
            next_observation=dataclasses.replace(item.next_observation, stamp_ns=index * stride + 5),
        )
        for index, item in enumerate(make_experiences(count))
    ]
    learn, judged = split_by_episode(experiences)
    assert judged == experiences[-len(judged) :]
    assert 1 <= len(judged) <= count - count // 2
    assert all(item.next_observation.stamp_ns <= judged[0].observation.stamp_ns for item in learn)
    cut = count - len(judged)
    dropped = [item for item in experiences[:cut] if not any(item is kept for kept in learn)]
    assert all(item.next_observation.stamp_ns > judged[0].observation.stamp_ns for item in dropped)
    least = (max(1, round(count / 4)) + 1) // 2
    assert len(judged) >= least
    borders = [i for i in range(max(1, count // 2), count - least + 1) if episodes[i] != episodes[i - 1]]
    assert not borders or cut in borders


def test_without_a_border_the_last_quarter_judges() -> None:
    learn, judged = split_by_episode(make_experiences(40, episodes=1))
    assert (len(learn), len(judged)) == (30, 10)
    learn, judged = split_by_episode(make_experiences(40, episodes=5))
    assert (len(learn), len(judged)) == (32, 8)


def test_a_border_that_leaves_too_little_to_judge_by_is_none() -> None:
    experiences = make_experiences(40, episodes=1)
    experiences[-3:] = [dataclasses.replace(item, episode=1) for item in experiences[-3:]]
    learn, judged = split_by_episode(experiences)
    assert (len(learn), len(judged)) == (30, 10)
