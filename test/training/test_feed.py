"""Whose samples a shard has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vla_align_ros.training.feed import SAMPLES_A_ROBOT, make_shard
from vla_align_ros.training.recipe import Recipe

ROBOTS, SIZE = 400, 800


@pytest.fixture(autouse=True)
def rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vla_align_ros.training.feed.make_samples", lambda raw, robot, features: raw)


def rows(number: int, **of_recipe: Any) -> Any:
    sizes = SimpleNamespace(action_horizon=16, vision=SimpleNamespace(image_size=64))
    source = SimpleNamespace(robots=range(ROBOTS), samples=lambda row, *rest: row)
    trainee: Any = SimpleNamespace(
        sources=SimpleNamespace(training=source),
        robot=SimpleNamespace(config=SimpleNamespace(architecture=sizes)),
        features=None,
    )
    return make_shard(trainee, Recipe({}, model="any.yaml", **of_recipe), number, SIZE)


def test_each_shard_is_of_a_few_robots_and_all_have_their_turn() -> None:
    shards = [rows(number) for number in range(40)]
    assert all(len(set(shard.tolist())) <= SIZE // SAMPLES_A_ROBOT for shard in shards)
    assert set(np.concatenate(shards).tolist()) == set(range(ROBOTS))
    counts = np.bincount(np.concatenate(shards), minlength=ROBOTS)
    assert counts.std() < 0.6 * counts.mean(), "no robot is left behind"


def test_the_first_robot_has_its_share() -> None:
    share = np.mean([(rows(number, first_robot_share=0.3) == 0).mean() for number in range(40)])
    assert share == pytest.approx(0.3 + 0.7 / ROBOTS, abs=0.02)
