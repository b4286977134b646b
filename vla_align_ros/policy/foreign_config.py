"""An openpi or lerobot checkpoint folder -> the description and the statistics that a zoo folder would have.

What the weights' shapes say is read from them (openpi's training writes no sizes); what no file of the folder says, the
user does (`ForeignSettings`). lerobot's numbers are read where lerobot reads them: in the processors beside the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vla_align_ros.observation.normalise import NormStats
from vla_align_ros.policy.config import ModelConfig
from vla_align_ros.robot.description import RobotDescription

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class ForeignSettings:
    """What a foreign folder does not say.

    robot: its fields in the order of the training data's. tokenizer, norm_stats: files, where they are not in the
    folder. action_horizon, discrete_state_input: of openpi's training config, which a PyTorch folder does not hold.
    """

    robot: RobotDescription
    tokenizer: Path | None = None
    norm_stats: Path | None = None
    action_horizon: int | None = None
    discrete_state_input: bool | None = None


@dataclass(frozen=True)
class ForeignModel:
    """What a zoo folder says in model.yaml, norm_stats.json and tokenizer.json.

    stats: `state` and `actions`, one number a field of `config.robot`; `stats_path` is the file they came from.
    tokenizer: a tokenizer.json, or a sentencepiece model. remarks: what is odd and does no harm, a sentence each.
    """

    config: ModelConfig
    stats: dict[str, NormStats]
    stats_path: Path
    tokenizer: Path
    remarks: tuple[str, ...]


def read_foreign(folder: Path, shapes: Shapes, settings: ForeignSettings) -> ForeignModel:
    """Read `folder`, whose weights have `shapes` by our names (`weights.to_our_names`).

    Raises ModelConfigError (a policy that is none of these, sizes that do not fit, no tokenizer, an unknown processor,
    fields that are not the robot's) and NormStatsError, each with a sentence that says what to do.
    """
    raise NotImplementedError


def policy_of(folder: Path) -> Literal["openpi", "lerobot"] | None:
    """Whose checkpoint a folder without model.yaml looks like; None where it is neither's pi0 or pi0.5."""
    raise NotImplementedError
