"""Makes `builders` of the policy's tests importable; policies of random weights for the arm of any bench."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "policy"))

from builders import write_model, write_model_for

from vla_align_ros.bench.port import Bench, bench_names, find_bench
from vla_align_ros.policy import Policy, load_policy


@pytest.fixture(params=bench_names())
def bench(request: pytest.FixtureRequest) -> Bench[Any]:
    """Each of them."""
    return find_bench(request.param)


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    """Random weights, the joints and cameras of reach2."""
    return load_policy(
        write_model(tmp_path / "model", action_dim=2, action_horizon=8, alignment__own_features=False), "cpu"
    )


@pytest.fixture
def policy_for(tmp_path: Path) -> Callable[[Bench[Any]], Policy]:
    """Random weights for the arm of a bench: a policy that trembles about where an unshifted arm begins."""

    def make(bench: Bench[Any]) -> Policy:
        return load_policy(write_model_for(bench, tmp_path / "any"), "cpu")

    return make
