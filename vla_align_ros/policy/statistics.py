"""`alignment_stats.json`: how the alignment losses looked in training, which the guard judges by."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from vla_align_ros.foreign import what_is_file
from vla_align_ros.policy.alignment_expert import TASKS

STATS_FILE = "alignment_stats.json"
DISTANCE_SLACK = 1.25  # a token may lie this much farther from E_0 than any bank token


class AlignmentStatsError(ValueError):
    """`alignment_stats.json` is missing or wrong."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class AlignmentStats:
    """Measured on validation arms, after an alignment without a guard; losses by task name, on later experience.

    usual: largest loss at which nothing is to be gained (the median). ceiling: 1.25 to 2.5 times the 90th percentile
        (`training/export.py` has the factors).
    token_distance_max: largest distance of a bank token from E_0 (Euclidean norm over all rows).
    shuffle_ratio_min: the inverse-dynamics loss with shuffled actions over the true one must reach this; a quarter of
        the way from 1 to the 10th percentile of the validation arms.
    one_over_two_max: what one token may cost over what two do (`one_robot.one_over_two`); 1 and five times what the
        90th percentile has above it.
    motion_r2: linear R2 of joint motion from two frames' features.
    arms, experiences: what it was measured on, and at most how many of each arm, those in which no joint was held or
        strayed.
    """

    format: Literal[1]
    usual: dict[str, float]
    ceiling: dict[str, float]
    token_distance_max: float
    shuffle_ratio_min: float
    one_over_two_max: float
    motion_r2: float
    arms: int
    experiences: int

    def __post_init__(self) -> None:
        for name, limits in (("usual", self.usual), ("ceiling", self.ceiling)):
            if set(limits) != set(TASKS):
                raise ValueError(f"{name} must have exactly the tasks {list(TASKS)}, got {list(limits)}")
        if self.token_distance_max < 0:
            raise ValueError(f"token_distance_max must not be negative, got {self.token_distance_max}")

    @property
    def radius(self) -> float:
        """Largest distance of a token from E_0."""
        return self.token_distance_max * DISTANCE_SLACK


def load_alignment_stats(path: Path) -> AlignmentStats:
    """Read and check the file. Raises AlignmentStatsError."""
    try:
        stats: AlignmentStats = TypeAdapter(AlignmentStats).validate_json(path.read_bytes())
    except OSError as error:
        raise AlignmentStatsError(f"{path}: cannot be read ({error}); a model needs it to align") from None
    except ValidationError as error:
        raise AlignmentStatsError(f"{path}: {what_is_file(path) or error}") from None
    return stats
