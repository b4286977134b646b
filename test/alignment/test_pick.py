"""Which tokens of the bank are picked, and how they are blended."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vla_align_ros.alignment.pick import FINALISTS, FIRST_ROUND, blend_weights, pick
from vla_align_ros.alignment.rules import RULES


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
    assert 1.0 / float(weights.square().sum()) == pytest.approx(min(RULES.blended, len(scores) / 2), rel=0.05)
    assert weights[scores.argmin()] == weights.max()


def test_only_the_finalists_are_looked_at_closely() -> None:
    losses = FakeLosses()
    found = pick(losses, torch.arange(50), torch.randn(60, 2, 3), 0)  # type: ignore[arg-type]
    assert losses.looked[FIRST_ROUND] == 60
    assert FINALISTS <= losses.looked[50] <= FINALISTS + FIRST_ROUND + 1
    assert found.losses["dynamics"].shape == (losses.looked[50], 50)
