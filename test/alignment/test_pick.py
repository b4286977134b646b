"""Which token is the best known one, and how much is looked at to find it."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vla_align_ros.alignment.pick import FINALISTS, FIRST_ROUND, pick


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
    index, mean = pick(FakeLosses(), torch.arange(50), candidates, seed)  # type: ignore[arg-type]
    distances = (torch.tensor(means) - 0.25).abs()
    assert float(distances[index]) == pytest.approx(float(distances.min()), abs=1e-6)
    assert mean.isfinite().all()


class NoisyLosses(FakeLosses):
    """Tokens that are far apart differ by far more than the noise of 200 experiences, near ones by far less."""

    def __call__(self, tokens: Tensor, rows: Tensor, draws: int, seed: int) -> dict[str, Tensor]:
        of_token = torch.sin(1000.0 * tokens.mean(dim=(1, 2))[:, None] * (1 + rows))  # the same for the same token
        return {"dynamics": super().__call__(tokens, rows, draws, seed)["dynamics"] + 0.3 * of_token}


def test_the_mean_is_of_those_that_experience_cannot_tell_apart() -> None:
    rows = torch.arange(200)
    near = torch.tensor([0.2495, 0.251, 0.249, 1.75, -1.5])[:, None, None].expand(-1, 2, 3)
    index, mean = pick(NoisyLosses(), rows, near, 0)  # type: ignore[arg-type]
    assert index < 3
    assert float(mean.mean()) == pytest.approx(0.25, abs=0.0015)
    assert float(mean.mean()) != pytest.approx(float(near[index].mean()), abs=1e-5), "several count"


def test_the_same_token_twice_is_as_good_as_once() -> None:
    twice = torch.tensor([0.25, 0.25])[:, None, None].expand(-1, 2, 3)
    index, mean = pick(FakeLosses(), torch.arange(50), twice, 0)  # type: ignore[arg-type]
    assert index == 0
    torch.testing.assert_close(mean, twice[0])


def test_few_tokens_are_looked_at_closely() -> None:
    losses = FakeLosses()
    pick(losses, torch.arange(100), torch.randn(500, 2, 3), 0)  # type: ignore[arg-type]
    assert set(losses.looked) == {FIRST_ROUND, 32, 100}
    assert losses.looked[FIRST_ROUND] == 500
    assert 125 <= losses.looked[32] <= 126, "a quarter, and the running token"
    assert 31 <= losses.looked[100] <= 32


def test_a_few_tokens_are_looked_at_closely_at_once() -> None:
    losses = FakeLosses()
    pick(losses, torch.arange(100), torch.randn(FINALISTS, 2, 3), 0)  # type: ignore[arg-type]
    assert losses.looked == {100: FINALISTS}
