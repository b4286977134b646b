"""Each check of the guard alone: what it lets through, what it refuses, and in which order."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from builders import TASKS, stats_of
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vla_align_ros.alignment import guard
from vla_align_ros.alignment.evidence import Evidence
from vla_align_ros.alignment.reasons import Reason


def spread(mean: float, deviation: float = 0.1, count: int = 32, seed: int = 0) -> Tensor:
    """Losses of single experiences with exactly this mean and standard deviation."""
    values = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    return (values - values.mean()) / values.std() * deviation + mean


def evidence(**changes: Any) -> Evidence:
    """A clear improvement that every check lets through, but for `changes`."""
    before = {task: spread(1.0, seed=index) for index, task in enumerate(TASKS)}
    good = Evidence(
        before,
        {task: loss - 0.2 for task, loss in before.items()},
        {task: loss - 0.1 for task, loss in before.items()},
        {which: torch.stack([spread(1.0), spread(2.0)]) for which in ("shuffled", "next", "last")},
        1.0,
        torch.full((2, 3), 0.1),
        torch.zeros(2, 3),
    )
    return dataclasses.replace(good, **changes)


def after(task: str, loss: Tensor) -> dict[str, Any]:
    return {"after": {**evidence().after, task: loss}}


def with_actions(**means: float) -> dict[str, Any]:
    """Losses with the true actions, 1, and with others, by which."""
    changed = {which: torch.stack([spread(1.0), spread(mean)]) for which, mean in means.items()}
    return {"with_actions": {**evidence().with_actions, **changed}}


def test_a_clear_improvement_is_kept_with_its_numbers() -> None:
    verdict = guard.judge(evidence(), stats_of(shuffle_ratio_min=1.5))
    assert verdict.reason is Reason.KEPT
    assert verdict.detail == "whole step, after/before: perception 0.800, dynamics 0.800, inverse_dynamics 0.800"


@pytest.mark.parametrize(("task", "reason"), guard.WORSE.items())
def test_a_loss_that_rose_is_refused_and_one_within_its_noise_is_not(task: str, reason: Reason) -> None:
    before = evidence().before[task]
    rise = spread(0.1, deviation=1.0, seed=9)  # the standard error is 1 / sqrt(32) = 0.177
    assert guard.judge(evidence(**after(task, before + rise)), stats_of()).reason is Reason.KEPT  # the other improved
    rise = spread(0.4, deviation=1.0, seed=9)
    assert guard.judge(evidence(**after(task, before + rise)), stats_of()).reason is reason
    assert guard.judge(evidence(**after(task, before + 0.1)), stats_of()).reason is reason


@pytest.mark.parametrize(("task", "reason"), guard.WORSE.items())
def test_the_token_that_is_used_must_do_no_harm_either(task: str, reason: Reason) -> None:
    good = evidence()
    used = {**good.used, task: good.before[task] + 0.2}
    assert guard.judge(dataclasses.replace(good, used=used), stats_of()).reason is reason
    used = {**good.used, task: good.before[task] * torch.nan}
    assert guard.judge(dataclasses.replace(good, used=used), stats_of()).reason is Reason.NON_FINITE


def test_one_of_both_losses_must_improve_beyond_its_noise() -> None:
    before = evidence().before
    noise = {task: before[task] - spread(0.1, deviation=1.0, seed=9) for task in guard.WORSE}
    changed = {"after": {**evidence().after, **noise}}
    assert guard.judge(evidence(**changed), stats_of()).reason is Reason.NOT_BETTER
    changed["after"]["dynamics"] = before["dynamics"] - spread(0.4, deviation=1.0, seed=9)
    assert guard.judge(evidence(**changed), stats_of()).reason is Reason.KEPT
    assert guard.judge(evidence(after=before), stats_of()).reason is Reason.NOT_BETTER


def test_the_noise_is_that_of_the_paired_difference() -> None:
    before = spread(5.0, deviation=3.0)  # far noisier than the gain
    same = {task: evidence().before[task] for task in guard.WORSE}
    changes = {
        "before": {**evidence().before, **same, "dynamics": before},
        "after": {**evidence().after, **same, "dynamics": before - 0.3},
    }
    assert guard.judge(evidence(**changes), stats_of()).reason is Reason.KEPT


def test_an_effect_too_small_to_matter_is_none() -> None:
    before = evidence().before
    for share, reason in ((0.96, Reason.NOT_BETTER), (0.94, Reason.KEPT)):
        fallen = {task: before[task] * share for task in guard.WORSE}
        assert guard.judge(evidence(after={**evidence().after, **fallen}), stats_of()).reason is reason
    for share, reason in ((1.09, Reason.KEPT), (1.11, Reason.DYNAMICS_WORSE)):
        risen = {"dynamics": before["dynamics"] * share}
        assert guard.judge(evidence(after={**evidence().after, **risen}), stats_of()).reason is reason


def test_perception_need_not_improve_and_is_enough_where_it_halves() -> None:
    assert guard.judge(evidence(**after("perception", spread(1.5))), stats_of()).reason is Reason.KEPT
    for perception, reason in ((0.45, Reason.KEPT), (0.55, Reason.NOT_BETTER)):
        only = {"after": {**evidence().before, "perception": spread(perception)}}
        assert guard.judge(evidence(**only), stats_of()).reason is reason
    risen = {**evidence().before, "perception": spread(0.45), "inverse_dynamics": spread(1.01, seed=2)}
    assert guard.judge(evidence(after=risen), stats_of()).reason is Reason.NOT_BETTER, "inverse dynamics says no"
    two = {
        part: {task: spread(value, seed=i) for i, (task, value) in enumerate(losses.items())}
        for part, losses in (
            ("before", {"perception": 1.0, "dynamics": 1.0}),
            ("after", {"perception": 0.3, "dynamics": 1.0}),
        )
    }
    blind = evidence(**two, with_actions={})
    assert guard.judge(blind, stats_of()).reason is Reason.NOT_BETTER, "nothing here would see faulty actions"


@pytest.mark.parametrize("task", TASKS)
def test_every_loss_has_its_ceiling(task: str) -> None:
    stats = stats_of(ceiling={**dict.fromkeys(TASKS, 1e9), task: 0.77})
    verdict = guard.judge(evidence(), stats)
    assert verdict.reason is Reason.OVER_CEILING
    assert verdict.detail == f"{task} is 0.8000 (error 0.0177), its ceiling 0.7700"
    within_noise = stats_of(ceiling={**stats.ceiling, task: 0.78})
    assert guard.judge(evidence(), within_noise).reason is Reason.KEPT


def test_shuffled_actions_must_fit_worse() -> None:
    shuffled = with_actions(shuffled=1.1)
    assert guard.judge(evidence(**shuffled), stats_of(shuffle_ratio_min=1.2)).reason is Reason.ACTIONS_DO_NOT_FIT
    assert guard.judge(evidence(**shuffled), stats_of(shuffle_ratio_min=1.05)).reason is Reason.KEPT


@pytest.mark.parametrize(("neighbour", "limit"), [("next", 0.8), ("last", 0.9)])
def test_the_actions_of_no_neighbour_may_fit_far_better(neighbour: str, limit: float) -> None:
    assert guard.judge(evidence(**with_actions(**{neighbour: limit + 0.01})), stats_of()).reason is Reason.KEPT
    verdict = guard.judge(evidence(**with_actions(**{neighbour: limit - 0.01})), stats_of())
    assert verdict.reason is Reason.ACTIONS_OUT_OF_STEP
    assert (
        verdict.detail
        == f"inverse-dynamics loss is 1.0000, with the {neighbour} experience's actions {limit - 0.01:.4f}"
    )
    alone = {"with_actions": {"shuffled": evidence().with_actions["shuffled"]}}
    assert guard.judge(evidence(**alone), stats_of()).reason is Reason.KEPT


def test_two_tokens_that_explain_far_more_than_one_are_two_robots() -> None:
    stats = stats_of(one_over_two_max=1.2)
    assert guard.judge(evidence(one_over_two=1.19), stats).reason is Reason.KEPT
    assert guard.judge(evidence(one_over_two=None), stats).reason is Reason.KEPT, "too few parts to ask"
    verdict = guard.judge(evidence(one_over_two=1.21), stats)
    assert verdict.reason is Reason.MIXED_EXPERIENCE
    assert verdict.detail.startswith("one token for all parts of the experience costs 1.210 times as much as two")


def test_of_two_reasons_the_first_in_order_is_given() -> None:
    far = torch.full((2, 3), 9.0)
    wrong: dict[str, Any] = {"one_over_two": 1.3, **with_actions(shuffled=1.0), "token": far}
    limits: dict[str, Any] = {
        "one_over_two_max": 1.2,
        "shuffle_ratio_min": 1.5,
        "token_distance_max": 1.0,
        "ceiling": dict.fromkeys(TASKS, 0.1),
    }
    order = (
        ("token_distance_max", Reason.TOKEN_TOO_FAR),
        ("ceiling", Reason.OVER_CEILING),
        ("shuffle_ratio_min", Reason.ACTIONS_DO_NOT_FIT),
        ("one_over_two_max", Reason.MIXED_EXPERIENCE),
    )
    for limit, reason in order:
        assert guard.judge(evidence(**wrong), stats_of(**limits)).reason is reason
        del limits[limit]


def test_a_token_may_lie_a_little_farther_than_any_of_the_bank() -> None:
    for length, reason in ((1.24, Reason.KEPT), (1.26, Reason.TOKEN_TOO_FAR)):
        token = torch.zeros(2, 3)
        token[1, 2] = length
        assert guard.judge(evidence(token=token), stats_of(token_distance_max=1.0)).reason is reason
    far = torch.full((2, 3), 100.0)
    near = evidence(token=far + 0.1, e_0=far)
    assert guard.judge(near, stats_of(token_distance_max=1.0)).reason is Reason.KEPT, "measured from E_0, not from 0"


@pytest.mark.parametrize("where", ["before", "after", "with_actions", "token"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nothing_but_numbers_is_kept(where: str, bad: float) -> None:
    value = getattr(evidence(), where)
    if isinstance(value, dict):
        poisoned: Any = {task: loss.clone() for task, loss in value.items()}
        next(iter(poisoned.values()))[..., 3] = bad
    else:
        poisoned = value.clone()
        poisoned[0, 0] = bad
    assert guard.judge(evidence(**{where: poisoned}), stats_of()).reason is Reason.NON_FINITE
    assert guard.judge(evidence(one_over_two=bad), stats_of()).reason is Reason.NON_FINITE


def test_a_single_experience_proves_nothing() -> None:
    one = {task: torch.tensor([1.0]) for task in TASKS}
    less = {task: torch.tensor([0.1]) for task in TASKS}
    assert guard.judge(evidence(before=one, after=less), stats_of()).reason is Reason.NOT_BETTER


@pytest.mark.parametrize(
    ("after", "reason"),
    [(0.4, Reason.KEPT), (0.6, Reason.NOT_BETTER), (1.0, Reason.NOT_BETTER), (1.5, Reason.NOT_BETTER)],
)
def test_perception_judges_where_it_alone_ran(after: float, reason: Reason) -> None:
    only = evidence(before={"perception": spread(1.0)}, after={"perception": spread(after)}, with_actions={})
    assert guard.judge(only, stats_of()).reason is reason


@given(st.lists(st.floats(0.0, 2.0), min_size=3, max_size=3))
def test_usual_losses_are_skipped_and_others_are_not(means: list[float]) -> None:
    losses = {task: torch.full((4,), mean) for task, mean in zip(TASKS, means, strict=True)}
    verdict = guard.within_usual(losses, stats_of(usual=dict.fromkeys(TASKS, 1.0)))
    assert (verdict is not None) == all(mean <= 1.0 for mean in means)
    assert verdict is None or verdict.reason is Reason.ALREADY_ALIGNED


def test_losses_that_are_nan_are_not_usual() -> None:
    losses = {task: torch.full((4,), torch.nan) for task in TASKS}
    assert guard.within_usual(losses, stats_of(usual=dict.fromkeys(TASKS, 1.0))) is None


def test_every_reason_has_a_code_of_its_own() -> None:
    assert len({reason.value for reason in Reason}) == len(Reason)
    assert all(reason.value == reason.name.lower() for reason in Reason)
