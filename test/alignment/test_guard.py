"""What the guard makes of the evidence: a number a check, and the first reason to refuse."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from builders import TASKS
from torch import Tensor

from vla_align_ros.alignment import guard
from vla_align_ros.alignment.evidence import Evidence
from vla_align_ros.alignment.reasons import Reason
from vla_align_ros.limits import CHECKS
from vla_align_ros.policy.losses import LossWeights

WEIGHTS = LossWeights(0.1, 1.0, 2.0)
EARLIER = (
    "joint_strays",
    "joints_do_not_follow",
    "too_little_experience",
    "robot_changed",
)  # not asked of the evidence
ASKED = [check.name for check in CHECKS if check.name not in EARLIER]


def with_commands(**ratios: float) -> dict[str, Tensor]:
    return {which: torch.tensor([[0.5, 1.5], [0.0, 2.0 * ratio]]) for which, ratio in ratios.items()}


def evidence(**changes: Any) -> Evidence:
    """Losses of 1 before; after 0.8, and twice to four times as high with other commands."""
    good = Evidence(
        dict.fromkeys(TASKS, torch.tensor([0.5, 1.5])),
        dict.fromkeys(TASKS, torch.tensor([0.45, 1.3])),
        dict.fromkeys(TASKS, torch.tensor([0.4, 1.2])),
        with_commands(shuffled=4.0, before=2.0),
        torch.tensor([[0.5, 1.5], [1.0, 5.0]]),
        torch.zeros(2, 3),
    )
    return dataclasses.replace(good, **changes)


def limits(**of: float) -> dict[str, float]:
    return {check.name: of.get(check.name, check.no_limit) for check in CHECKS}


def test_each_check_has_its_number() -> None:
    of_gain = 0.2 / 0.1  # each task's loss falls by 0.1 and 0.3
    assert guard.statistics(evidence(), WEIGHTS) == pytest.approx(
        {
            "perception_high": 0.8,
            "images_do_not_fit": 3.0,
            "already_aligned": of_gain,
            "actions_do_not_fit": 4.0,
            "frames_late": 2.0,
        }
    )


def test_a_gain_is_weighted_as_the_loss_that_is_learned_by_and_counts_by_how_sure_it_is() -> None:
    def gain(perception: tuple[float, float], inverse: tuple[float, float]) -> float:
        after = {task: torch.tensor([0.5, 1.5]) for task in TASKS}
        after |= {"perception": torch.tensor(perception), "inverse_dynamics": torch.tensor(inverse)}
        return guard.statistics(evidence(after=after), WEIGHTS)["already_aligned"]

    assert gain((0.5, 1.5), (0.5, 1.5)) == 0.0, "the same token"
    assert gain((0.4, 1.2), (0.5, 1.5)) == pytest.approx(0.2 / 0.1), "whatever all lambdas are multiplied by"
    assert gain((0.4, 1.2), (0.6, 1.6)) < 0, "2 * 0.1 lost, 0.1 * 0.2 gained"
    assert gain((0.5, 1.5), (0.4, 1.4)) > 100, "each gained the same"
    one = {part: {"perception": torch.tensor([value])} for part, value in (("before", 1.0), ("after", 0.5))}
    alone = evidence(**one, with_commands={})
    assert guard.statistics(alone, LossWeights(1.0, 0.0, 0.0))["already_aligned"] == 0.0, "a single one says nothing"


def test_what_was_not_computed_is_not_asked() -> None:
    alone = {part: {"perception": getattr(evidence(), part)["perception"]} for part in ("before", "after")}
    found = guard.statistics(evidence(**alone, with_commands={}, with_states=None), LossWeights(1.0, 0.0, 0.0))
    assert set(found) == {"perception_high", "already_aligned"}


def test_a_token_that_passes_is_kept_with_its_numbers() -> None:
    verdict = guard.judge(evidence(), WEIGHTS, limits())
    assert verdict.reason is Reason.KEPT
    numbers = "perception 0.800, dynamics 0.800, inverse_dynamics 0.800"
    assert verdict.detail == f"losses on later experience, after/before: {numbers}"


@pytest.mark.parametrize("name", ASKED)
def test_every_check_refuses_beyond_its_limit_by_its_name(name: str) -> None:
    value = guard.statistics(evidence(), WEIGHTS)[name]
    check = next(check for check in CHECKS if check.name == name)
    inside, outside = (1.01, 0.99) if check.refuses == "above" else (0.99, 1.01)
    assert guard.judge(evidence(), WEIGHTS, limits(**{name: value * inside})).reason is Reason.KEPT
    verdict = guard.judge(evidence(), WEIGHTS, limits(**{name: value * outside}))
    assert verdict.reason is Reason(name)
    assert f"guard.{name}" in verdict.detail


@pytest.mark.parametrize("where", ["before", "best_known", "after", "with_commands", "with_states", "token"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nothing_but_numbers_is_kept(where: str, bad: float) -> None:
    value = getattr(evidence(), where)
    if isinstance(value, dict):
        poisoned: Any = {key: loss.clone() for key, loss in value.items()}
        next(iter(poisoned.values()))[..., 1] = bad
    else:
        poisoned = torch.full_like(value, bad)
    assert guard.judge(evidence(**{where: poisoned}), WEIGHTS, limits()).reason is Reason.NON_FINITE


def test_every_reason_has_a_code_of_its_own() -> None:
    assert all(reason.value == reason.name.lower() for reason in Reason)
