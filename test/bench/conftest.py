"""Makes `builders` of the policy's tests importable; policies of random weights for the arm of any bench."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from pydantic import TypeAdapter

sys.path.append(str(Path(__file__).parents[1] / "policy"))

from builders import write_model

from vla_align_ros.bench.port import Bench, bench_names, find_bench
from vla_align_ros.observation.normalise import NormStats, save_norm_stats
from vla_align_ros.policy import Policy, load_policy
from vla_align_ros.robot.description import RobotDescription


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
        robot, folder = bench.robot, tmp_path / "any"
        cameras = list(robot.cameras)
        sizes = {"action_dim": len(robot.action), "action_horizon": 2 * robot.execute, "max_token_len": 16}
        write_model(folder, cameras=cameras, **sizes)
        raw = yaml.safe_load((folder / "model.yaml").read_text())
        raw["robot"] = TypeAdapter(RobotDescription).dump_python(robot, mode="json")
        (folder / "model.yaml").write_text(yaml.safe_dump(raw))
        states = np.stack([item.state for item in bench.episodes([bench.embodiment(0)] * 32, 0, 16).observe()])
        actions = np.where(robot.kinds == "position", robot.measured(states.mean(0)), 0.0)
        about = actions + 0.02 * np.array([[-1.0], [1.0]])
        parts = {"state": robot.state_scale.to_model(states), "actions": robot.action_scale.to_model(about)}
        stats = {part: _stats_of(rows.astype(np.float32)) for part, rows in parts.items()}
        save_norm_stats(folder / "norm_stats.json", stats)
        return load_policy(folder, "cpu")

    return make


def _stats_of(rows: NDArray[np.float32]) -> NormStats:
    mean, std = rows.mean(0), rows.std(0)
    return NormStats(mean, std, mean - 2 * std, mean + 2 * std)
