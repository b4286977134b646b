"""Why there is no alignment yet, in a sentence."""

from __future__ import annotations

from collections import Counter
from enum import Enum

import pytest

from vla_align_ros.alignment.waiting import ADVICE, NOTHING_ADVICE, OTHER_ADVICE, AlignmentWait, left_out_sentence
from vla_align_ros.experience.builder import ExperienceReason
from vla_align_ros.observation.assemble import ObservationReason
from vla_align_ros.observation.codecs import MessageReason
from vla_align_ros.params import AlignParams

PACE_S = 0.4
PARAMS = AlignParams(align_frequency_hz=0.1, align_min_experiences=64)
Skipped = Counter[Enum]


def problem(
    waited_s: float, new: int, skipped: Skipped, params: AlignParams = PARAMS, before: Skipped | None = None
) -> str:
    return AlignmentWait(1000.0, before or Counter()).problem(1000.0 + waited_s, new, skipped, params, PACE_S)


def test_478_held_joints_and_one_experience_in_four_minutes() -> None:
    skipped: Skipped = Counter({ExperienceReason.JOINT_HELD: 478, ObservationReason.STALE_IMAGE: 3})
    said = problem(240.0, 1, skipped)
    assert said.startswith("no alignment for 240 s: 1 of 64 new experiences; left out: 478 joint_held, 3 stale_image; ")
    assert said.endswith(ADVICE["joint_held"])


def test_only_what_was_left_out_since_the_wait_began_counts() -> None:
    before: Skipped = Counter({ExperienceReason.JOINT_HELD: 478})
    now = before + Counter({ExperienceReason.NO_COMMAND: 5})
    assert "left out: 5 no_command; " in problem(240.0, 1, now, before=before)


def test_nothing_is_said_before_experience_could_have_come_twice_over() -> None:
    assert problem(2 * 64 * PACE_S - 1, 1, Counter()) == ""
    assert problem(2 * 64 * PACE_S + 1, 1, Counter()) != ""


@pytest.mark.parametrize(
    ("params", "new"),
    [
        (AlignParams(align_frequency_hz=0.0, align_min_experiences=64), 0),
        (PARAMS, 64),
        (AlignParams(align_frequency_hz=0.002, align_min_experiences=64), 0),  # not due for 500 s
    ],
)
def test_nothing_is_said_when_it_is_off_or_can_begin_or_is_not_due(params: AlignParams, new: int) -> None:
    assert problem(240.0, new, Counter({ExperienceReason.JOINT_HELD: 478}), params) == ""


def test_no_motion_and_slow_motion_are_told_apart() -> None:
    assert problem(240.0, 0, Counter()).endswith(NOTHING_ADVICE)
    assert "at this pace it takes 480 s" in problem(240.0, 32, Counter())


@pytest.mark.parametrize("reason", [*ExperienceReason, *ObservationReason, *MessageReason])
def test_every_reason_comes_with_what_to_do(reason: Enum) -> None:
    said = left_out_sentence({reason: 2})
    assert said.startswith(f"left out: 2 {reason.value}; ")
    assert (OTHER_ADVICE in said) == (reason.value not in ADVICE)
    assert reason.value in ADVICE or not isinstance(reason, ExperienceReason)
