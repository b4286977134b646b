"""What a model's inputs are normalised by."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from vla_align_ros.experience.source import RawSamples
from vla_align_ros.robot.description import load_description
from vla_align_ros.training.dataset import norm_stats
from vla_align_ros.types import Experience, Observation

SO101 = load_description(Path(__file__).parents[2] / "config" / "robots" / "so101.yaml")


class TwoSamples:
    """All joints at 0, then at 1 rad; told to go to where they are; 3 rad are to be imitated."""

    robots = ("arm",)

    def samples(self, *arguments: Any) -> RawSamples:
        seen = [Observation({}, np.full(6, place, np.float32), "", 0) for place in (0.0, 1.0)]
        items = [Experience(one, np.tile(one.state, (4, 1)), one, 0) for one in seen]
        return RawSamples(items, np.full((2, 4, 6), 3.0, np.float32), np.zeros(2, np.int64), np.zeros((2, 0, 2)))


def test_statistics_are_in_the_models_units() -> None:
    config = SimpleNamespace(architecture=SimpleNamespace(action_horizon=4), robot=SO101)
    stats = norm_stats(TwoSamples(), config, 0)  # type: ignore[arg-type]
    gripper = (0.5 + 0.175) / 1.92 * 100, (1.75 + 0.175) / 1.92 * 100
    np.testing.assert_allclose(stats["state"].mean, [*[np.rad2deg(0.5)] * 5, gripper[0]], rtol=1e-5)
    np.testing.assert_allclose(stats["actions"].mean, [*[np.rad2deg(1.75)] * 5, gripper[1]], rtol=1e-5)
