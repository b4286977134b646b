"""What is refused before anything is computed."""

from __future__ import annotations

import numpy as np
import pytest
from builders import make_experiences, replace_parts, stats_of

from vla_align_ros.alignment.align import limits_of
from vla_align_ros.alignment.experience_check import check_request, statistics
from vla_align_ros.alignment.reasons import Reason, Verdict
from vla_align_ros.alignment.split import Split
from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy


def verdict(policy: Policy, split: Split, **limits: float) -> Verdict | None:
    replace_parts(policy, stats=stats_of(**limits))
    params = AlignParams()
    return check_request(policy, make_experiences(40), split, params, limits_of(policy, params))


@pytest.mark.parametrize(("learn", "judged", "usable"), [(8, 4, 12), (8, 0, 0), (0, 4, 0)])
def test_there_must_be_as_many_as_the_limits_were_measured_with(
    policy: Policy, learn: int, judged: int, usable: int
) -> None:
    made = make_experiences(40)
    split = Split(made[:learn], made[20 : 20 + judged], np.zeros((40, 2)), 28)
    assert statistics(split)["too_little_experience"] == usable
    found = verdict(policy, split, too_little_experience=13.0)
    assert found is not None
    assert found.reason is Reason.TOO_LITTLE_EXPERIENCE
    assert "28 left out, in which a joint was held or strayed" in found.detail
    assert (verdict(policy, split, too_little_experience=12.0) is None) == (usable == 12), "without both there is none"


def test_joints_that_stray_in_more_than_a_quarter_do_not_follow(policy: Policy) -> None:
    made, strays = make_experiences(40), np.zeros((40, 2))
    strays[:10, 1] = 9.0
    split = Split(made[:30], made[30:], strays, 0)
    assert statistics(split)["joints_do_not_follow"] < 9.0
    strays[10, 0] = strays[11, 1] = 9.0
    assert statistics(split)["joints_do_not_follow"] == 9.0, "whichever joint it is in an experience"
    found = verdict(policy, split, joints_do_not_follow=8.9)
    assert found is not None
    assert found.reason is Reason.JOINTS_DO_NOT_FOLLOW
    assert "most of all joint 'elbow'" in found.detail
    assert verdict(policy, split, joints_do_not_follow=9.0) is None


def test_a_users_limit_goes_before_the_models(policy: Policy) -> None:
    replace_parts(policy, stats=stats_of(already_aligned=1.25))
    assert limits_of(policy, AlignParams())["already_aligned"] == 1.25
    mine = AlignParams.from_mapping({"guard.already_aligned": 1.5})
    assert limits_of(policy, mine)["already_aligned"] == 1.5
    assert limits_of(policy, mine)["perception_high"] == 1e9
