"""Of which buffer, and with which token, the limits of an alignment are measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vla_align_ros.policy import Policy, load_policy
from vla_align_ros.training import limits
from vla_align_ros.zoo import find_model


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(find_model("tiny"), "cpu")


@pytest.mark.parametrize(
    ("buffers", "asked"),
    [
        (("first", "own policy", "again"), ["first, fresh", "own policy, fresh", "again, first"]),
        (("first", "own policy", ""), ["first, fresh", "own policy, fresh", "own policy, first"]),
        (("first", "", "again"), ["first, fresh", "again, first"]),
        (("", "own policy", ""), ["own policy, fresh", "own policy, own policy"]),
        (("", "", "again"), []),
    ],
)
def test_a_robot_that_is_aligned_is_asked_of_experience_that_its_token_was_not_made_of_where_there_is_any(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, buffers: tuple[str, ...], asked: list[str]
) -> None:
    """`buffers`: by name; an empty one is not usable."""
    found, tokens = list[str](), {"fresh": policy.initial_token()}

    def ask(policy: Policy, part: Any, running: torch.Tensor, params: Any, seed: int) -> Any:
        found.append(f"{part.usable}, {next(name for name, token in tokens.items() if token is running)}")
        tokens[part.usable] = torch.zeros(1)
        return tokens[part.usable], {"already_aligned": float(len(found))}

    monkeypatch.setattr(limits, "split", lambda buffer, robot, stray_limit: SimpleNamespace(usable=buffer))
    monkeypatch.setattr(limits, "_ask", ask)
    monkeypatch.setattr(policy, "initial_token", lambda: tokens["fresh"])
    fresh, aligned = limits.statistics_of(policy, buffers, 0.2, seed=0)  # type: ignore[arg-type]
    assert found == asked
    assert len(fresh) == sum("fresh" in item for item in asked)
    assert len(aligned) == bool(asked)
