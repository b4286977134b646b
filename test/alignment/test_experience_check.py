"""What is refused before anything is computed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from builders import make_experiences, one_after_another

from vla_align_ros.alignment.experience_check import check_request
from vla_align_ros.alignment.reasons import Reason, Verdict
from vla_align_ros.alignment.split import Split
from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy
from vla_align_ros.types import Experience

NONE = np.zeros((40, 2), bool)  # no joint strays


def test_a_joint_may_not_jump_from_one_experience_to_the_next(policy: Policy) -> None:
    def verdict(experiences: list[Experience]) -> Verdict | None:
        return check_request(
            policy, experiences, Split(experiences[:12], experiences[12:], NONE[:20], 0), AlignParams()
        )

    assert verdict(one_after_another(20)) is None
    found = verdict(one_after_another(20, jump_rad=3.0))
    assert found is not None
    assert found.reason is Reason.JOINTS_JUMP
    assert "in 18 of 18 steps" in found.detail, "two episodes: what lies between them is no step"
    assert verdict(one_after_another(20, jump_rad=0.25)) is None, "somebody may push it a little"
    bumped = one_after_another(20)
    jumped = bumped[4].observation.state + np.float32(2.0)
    bumped[4] = dataclasses.replace(bumped[4], observation=dataclasses.replace(bumped[4].observation, state=jumped))
    assert verdict(bumped) is None, "there and back again is a bump, no second robot"


def test_a_robot_that_moved_once_is_no_standing_one(policy: Policy) -> None:
    experiences = make_experiences(12)
    still = [dataclasses.replace(item, next_observation=item.observation) for item in experiences]
    verdict = check_request(policy, still, Split(still[:8], still[8:], NONE[:12], 0), AlignParams())
    assert verdict is not None
    assert verdict.reason is Reason.STOOD_STILL
    moved = [*still[:11], experiences[11]]
    assert check_request(policy, moved, Split(moved[:8], moved[8:], NONE[:12], 0), AlignParams()) is None


@pytest.mark.parametrize(("learn", "judged"), [(7, 20), (20, 3), (0, 20), (20, 0)])
def test_there_must_be_enough_to_learn_from_and_to_judge_by(policy: Policy, learn: int, judged: int) -> None:
    experiences = make_experiences(40)
    split = Split(experiences[:learn], experiences[20 : 20 + judged], NONE, 0)
    verdict = check_request(policy, experiences, split, AlignParams())
    assert verdict is not None
    assert verdict.reason is Reason.TOO_LITTLE_EXPERIENCE
    assert verdict.detail.startswith(f"{learn} to learn from and {judged} to judge by, 8 and 4 are needed (")
    assert f"{40 - learn - judged} of 40 left out" in verdict.detail
    assert (
        check_request(policy, experiences, Split(experiences[:8], experiences[20:24], NONE, 0), AlignParams()) is None
    )
