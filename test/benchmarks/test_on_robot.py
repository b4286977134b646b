"""Accidents of the SO-101, and when one is recovered from."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import on_robot
import pytest
import torch
from builders import write_model_for
from families import units
from on_robot import ACCIDENTS, alignments_until_recovered, by_accident

from vla_align_ros.bench.so101.bench import BENCH, So101
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.tasks import Task
from vla_align_ros.policy import load_policy


@pytest.mark.parametrize(
    ("after", "wanted"),
    [
        ([0.4, 0.6, 0.90, 0.95], 2),
        ([0.4, 0.9, 0.8, 0.95], 3),
        ([0.9, 0.9, 0.9], 0),
        ([0.4, 0.95, 0.89], None),
        ([0.4, 0.5], None),
    ],
)
def test_recovered_is_back_within_five_points_and_stays_there(after: list[float], wanted: int | None) -> None:
    assert alignments_until_recovered(0.95, after) == wanted


def test_an_accident_moves_one_thing_and_no_farther_than_training_goes() -> None:
    shifted = {"wrist_roll_rad": np.pi, "front_rotation_rad": 0.12, "base_yaw_rad": 0.3}
    arms = [Embodiment(), *units("together", 4, 3)]
    for accident, (moved, most) in zip(ACCIDENTS.values(), shifted.items(), strict=True):
        for arm in arms:
            after = accident(arm)
            changed = [f.name for f in fields(arm) if not np.array_equal(getattr(arm, f.name), getattr(after, f.name))]
            assert changed == [moved]
            assert (np.abs(getattr(after, moved)) <= most + 1e-9).all()


@pytest.mark.slow
def test_a_unit_works_and_aligns_in_turns_with_an_accident_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(write_model_for(BENCH, tmp_path), "cpu")

    def finished(_policy: Any, _bench: Any, arms: Any, tokens: Any, _seed: int) -> Any:
        """Well with any token but the shipped one; turned arms do worse."""
        rate = 4 - 2 * torch.equal(tokens[0], policy.initial_token()) - (arms[0].base_yaw_rad != 0.0)
        return SimpleNamespace(succeeded=np.arange(4) < rate)

    monkeypatch.setattr(on_robot, "finished", finished)
    bench = So101((Task.REACH,))
    found = on_robot.one_unit(policy, bench, Embodiment(), "base turned by 0.3 rad", 1, 2, 1, 0.5, 4)
    assert found["reasons"] == ["kept", "kept"]
    assert (found["on"], found["hit"]) == ([0.5, 1.0, 0.75], 0.75)
    assert found["off"] == [0.5, 0.5, 0.25]
    summed = by_accident([found], 1)
    means = [summed[stage]["mean"] for stage in ("before", "right after", "a round later", "at the end, alignment off")]
    assert means == [1.0, 0.75, 0.75, 0.25]
    assert summed["alignments_until_recovered"] is None
    assert summed["of_each_arm"] == [None]
