"""The list of checks, and how a limit follows from the validation robots' values."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_align_ros.alignment.reasons import Reason
from vla_align_ros.limits import BY_NAME, CHECKS, Check, first_refusal
from vla_align_ros.params import AlignParams, fields_of

ABOVE, BELOW, ALIGNED = (BY_NAME[name] for name in ("perception_high", "actions_do_not_fit", "already_aligned"))
some = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


def test_every_check_has_a_parameter_and_all_that_refuse_a_reason_of_their_name() -> None:
    assert [d.name for d in fields_of(AlignParams) if d.name.startswith("guard.")] == [
        f"guard.{check.name}" for check in CHECKS
    ]
    reasons = {reason.value: reason.sentence for reason in Reason}
    for check in CHECKS:
        assert reasons.get(check.name) == (None if check.leaves_out else check.sentence)
    assert [check.name for check in CHECKS if check.leaves_out] == ["joint_strays", "robot_changed"]


def test_a_check_that_leaves_experience_out_refuses_nothing() -> None:
    limits = {check.name: check.no_limit for check in CHECKS}
    for name, refused in (("robot_changed", False), ("perception_high", True)):
        assert (first_refusal({name: 9.0}, limits | {name: 1.0}) is not None) is refused


@given(some, st.floats(0.01, 0.5))
def test_a_limit_is_passed_by_all_measured_values_but_the_share(values: list[float], share: float) -> None:
    for check in (replace(ABOVE, share=share), replace(BELOW, share=share)):
        limit = check.limit_of(values)
        refused = sum(check.beyond(value, limit) for value in values)
        assert refused <= share * (len(values) + 1)
        assert not check.beyond(limit, limit)


@given(some)
def test_too_few_values_make_the_worst_the_limit_and_the_share_that_is_said(values: list[float]) -> None:
    few = values[: ABOVE.robots_needed - 1]
    assert ABOVE.limit_of(few) == max(few)
    assert BELOW.limit_of(few) == min(few)
    assert ABOVE.share_of(len(few)) == pytest.approx(1 / (len(few) + 1))
    assert ABOVE.share_of(1000) == ABOVE.share


@given(some)
def test_of_aligned_robots_the_share_is_kept(values: list[float]) -> None:
    limit = ALIGNED.limit_of(values)
    assert sum(value > limit for value in values) <= ALIGNED.share * (len(values) + 1)
    assert ALIGNED.limit_of(values[:5]) == max(values[:5])
    assert ALIGNED.worst(values) == max(values)
    assert (ABOVE.worst(values), BELOW.worst(values)) == (max(values), min(values))


def test_of_new_robots_the_share_is_refused() -> None:
    rng = np.random.default_rng(0)
    refused = []
    for _ in range(300):
        limit = ABOVE.limit_of(rng.gamma(2.0, size=99).tolist())
        refused += [ABOVE.beyond(value, limit) for value in rng.gamma(2.0, size=50)]
    assert np.mean(refused) == pytest.approx(ABOVE.share, abs=0.01)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_a_limit_needs_finite_values(values: list[float]) -> None:
    with pytest.raises(ValueError, match="perception_high: expected a finite number of each robot"):
        ABOVE.limit_of(values)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_nan_is_beyond_every_limit_and_nothing_else_beyond_none(check: Check) -> None:
    assert check.beyond(math.nan, check.no_limit)
    assert not check.beyond(0.0 if check.refuses == "above" else -100.0, check.no_limit)


def test_the_first_check_in_order_speaks_with_its_numbers() -> None:
    limits = {check.name: check.no_limit for check in CHECKS} | {"already_aligned": 1.0, "actions_do_not_fit": 1.5}
    refusal = first_refusal({"already_aligned": 1.25, "actions_do_not_fit": 1.2}, limits)
    assert refusal is not None
    assert refusal.sentence.endswith("true ones: 1.2, at least needed is 1.5 (guard.actions_do_not_fit)")
    refusal = first_refusal({"perception_high": 1.25}, limits | {"perception_high": 1.0})
    assert refusal is not None
    assert refusal.sentence.endswith("new token: 1.25, the limit is 1 (guard.perception_high)")
    assert first_refusal({"already_aligned": 1.0, "actions_do_not_fit": 1.5}, limits) is None
