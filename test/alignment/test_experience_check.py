"""What is refused before anything is computed, and which experience is left out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from builders import make_experiences, one_after_another
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_align_ros.action.trajectory import ActionKind
from vla_align_ros.alignment.experience_check import check_request, following
from vla_align_ros.alignment.reasons import Reason, Verdict
from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy
from vla_align_ros.types import Experience

ALL = np.ones(40, bool)  # every joint follows
ROBOT: tuple[ActionKind, int] = ("velocity", 100_000_000)


def moved_by(gain: list[float], count: int = 40, seed: int = 0, stop_rad: float = 9.0) -> list[Experience]:
    """Of a robot whose joints go `gain` times as far as asked, or backwards, and no farther than `stop_rad`."""
    found = []
    for item in make_experiences(count, seed=seed):
        start = np.clip(item.observation.state, None, stop_rad)
        end = np.clip(start + np.float32(0.1 * np.array(gain)) * item.commands.sum(0), None, stop_rad)
        found.append(
            dataclasses.replace(
                item,
                observation=dataclasses.replace(item.observation, state=start),
                next_observation=dataclasses.replace(item.next_observation, state=end.astype(np.float32)),
            )
        )
    return found


def test_a_joint_may_not_jump_from_one_experience_to_the_next(policy: Policy) -> None:
    def verdict(experiences: list[Experience]) -> Verdict | None:
        return check_request(policy, experiences, experiences[:12], experiences[12:], ALL[:20], AlignParams())

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
    verdict = check_request(policy, still, still[:8], still[8:], ALL[:12], AlignParams())
    assert verdict is not None
    assert verdict.reason is Reason.STOOD_STILL
    moved = [*still[:11], experiences[11]]
    assert check_request(policy, moved, moved[:8], moved[8:], ALL[:12], AlignParams()) is None


@pytest.mark.parametrize(("learn", "judged"), [(7, 20), (20, 3), (0, 20), (20, 0)])
def test_there_must_be_enough_to_learn_from_and_to_judge_by(policy: Policy, learn: int, judged: int) -> None:
    experiences = make_experiences(40)
    verdict = check_request(policy, experiences, experiences[:learn], experiences[20 : 20 + judged], ALL, AlignParams())
    assert verdict is not None
    assert verdict.reason is Reason.TOO_LITTLE_EXPERIENCE
    assert verdict.detail.startswith(f"{learn} to learn from and {judged} to judge by, 8 and 4 are needed (")
    assert f"{40 - learn - judged} of 40 left out" in verdict.detail
    assert check_request(policy, experiences, experiences[:8], experiences[20:24], ALL, AlignParams()) is None


@settings(max_examples=10)
@given(
    st.lists(st.sampled_from([-1.4, -0.6, 0.6, 1.0, 1.4]), min_size=2, max_size=2), st.integers(0, 1000), st.booleans()
)
def test_joints_follow_whatever_their_gain_and_what_meets_a_stop_is_not_asked(
    gain: list[float], seed: int, stop: bool
) -> None:
    assert following(moved_by(gain, seed=seed, stop_rad=0.9 if stop else 9.0), *ROBOT).all()


def test_commands_of_another_experience_are_left_out_and_many_of_them_refused(policy: Policy) -> None:
    right = moved_by([1.2, -0.7])
    others = right[7:] + right[:7]
    far = [
        np.abs(0.1 * (item.commands - other.commands).sum(0)).max() > 0.6
        for item, other in zip(right, others, strict=True)
    ]
    wrong = [index for index in range(40) if far[index]]
    assert len(wrong) > 12

    def mixed(count: int) -> list[Experience]:
        return [
            dataclasses.replace(item, commands=others[index].commands) if index in wrong[:count] else item
            for index, item in enumerate(right)
        ]

    def verdict(count: int) -> Verdict | None:
        experiences = mixed(count)
        follows = following(experiences, *ROBOT)
        assert np.flatnonzero(~follows).tolist() == wrong[:count]
        return check_request(policy, experiences, experiences[:20], experiences[20:], follows, AlignParams())

    assert verdict(8) is None
    found = verdict(9)
    assert found is not None
    assert found.reason is Reason.JOINTS_DO_NOT_FOLLOW
    assert found.detail == "in 9 of 40 experiences, 20% may"


def test_another_robots_experiences_do_not_follow_as_the_first_ones_do() -> None:
    theirs = moved_by([1.0, -1.0], 12, seed=1)
    follows = following([*moved_by([1.0, 1.0], 28), *theirs], *ROBOT)
    assert follows[:28].all()
    far = np.array([abs(0.1 * float(item.commands[:, 1].sum())) > 0.2 for item in theirs])
    assert far.sum() >= 6
    assert (follows[28:] & far).sum() <= 1, "one may end farther than all others, where a stop could be"


def test_what_is_malformed_is_left_for_the_alignment_to_name() -> None:
    right = moved_by([1.0, 1.0], 12)
    nan = dataclasses.replace(right[0].observation, state=np.full(2, np.nan, np.float32))
    for item in (
        dataclasses.replace(right[0], observation=nan),
        dataclasses.replace(right[0], commands=right[0].commands[:, :1]),
        dataclasses.replace(right[0], commands=right[0].commands[:0]),
    ):
        assert following([item, *right], *ROBOT).all()
    assert following([], *ROBOT).shape == (0,)
