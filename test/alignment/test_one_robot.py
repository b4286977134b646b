"""Whether experience is of one robot: one token for all of it against two."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vla_align_ros.alignment.one_robot import one_over_two

BOTH = ("perception", "inverse_dynamics")  # the tasks that tell robots apart


def squares(needs: list[tuple[float, float]]) -> dict[str, Tensor]:
    """Losses of three tokens: the squared distance from what each experience's robot needs, and a half."""
    off = (torch.tensor([0.0, 4.0, 2.0])[:, None, None] - torch.tensor(needs)[None]).square() + 0.5
    return dict(zip(BOTH, off.unbind(-1), strict=True))


PARTS = [list(range(start, start + 8)) for start in (0, 8, 16, 24)]


def test_one_token_is_enough_for_one_robot() -> None:
    assert one_over_two(squares([(0.1, 0.2)] * 32), PARTS) == 1.0


def test_two_robots_in_turns_cost_one_token_what_two_save() -> None:
    turns = squares(([(0.0, 0.0)] * 8 + [(4.0, 4.0)] * 8) * 2)
    assert one_over_two(turns, PARTS) == pytest.approx(4.5 / 0.5), "the token half-way over each its own"
    assert one_over_two(turns, PARTS[:2]) is None, "two parts are too few"
    assert one_over_two({BOTH[0]: turns[BOTH[0]]}, PARTS) is None, "its limit is of both tasks"
    assert one_over_two({}, PARTS) is None


def test_perception_counts_half() -> None:
    turns = squares(([(0.0, 0.0)] * 8 + [(4.0, 0.0)] * 8) * 2)
    one = 0.5 * 2 * (4.5 + 4.5) + 2 * (4.5 + 4.5)  # in parts: the token half-way
    other = 0.5 * 2 * (0.5 + 16.5) + 2 * (0.5 + 0.5)  # the token at 0
    two = min(one, other, 0.5 * 4 * 0.5 + 2 * (0.5 + 16.5), 0.5 * 2 * (0.5 + 4.5) + 2 * (0.5 + 4.5))
    assert one_over_two(turns, PARTS) == pytest.approx(min(one, other) / two)


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=32, max_size=32))
def test_two_tokens_are_never_worse_than_one(needs: list[tuple[float, float]]) -> None:
    found = one_over_two(squares(needs), PARTS)
    assert found is not None
    assert found >= 1.0 - 1e-6
