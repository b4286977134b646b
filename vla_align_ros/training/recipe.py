"""The training configuration (`config/train/*.yaml`), checked key by key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from vla_align_ros.checked import load_yaml
from vla_align_ros.policy.config import AlignmentConfig

_strict = ConfigDict(extra="forbid")
AtLeastOne = Annotated[int, Field(ge=1)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class RecipeError(ValueError):
    """A training configuration is missing or wrong."""


class TrainingError(RuntimeError):
    """What was trained is of no use for what comes next."""


@dataclass(frozen=True, config=_strict)
class VisionRecipe:
    """Pretraining of an eye on labels: steps of `batch_size` images, of `frames` drawn once. pose_weight: of the
    joints' angles beside the keypoints, for the eye of the features only, which must see the robot move.
    self_supervised: the features' eye without labels (`training/self_supervised.py`), as it is made anyway where the
    source has none; motion_weight: of its second term."""

    steps: AtLeastOne = 3000
    batch_size: Annotated[int, Field(ge=4)] = 128
    frames: AtLeastOne = 40000
    learning_rate: Above0 = 2e-3
    pose_weight: NotNegative = 2.0
    self_supervised: bool = False
    motion_weight: NotNegative = 2.0


@dataclass(frozen=True, config=_strict)
class BaseRecipe:
    """A model that never had an E-Token, to which one is added (`training/base.py`).

    folder: a zoo folder, or a name from the zoo. freeze: what of it stays as it is: its `vlm`, eye included, or all of
    the `base`. learning_rate_scale: of what does not, times learning_rate. alignment: as in `model.yaml`, for sizes
    that are not the default's.
    """

    folder: str = ""
    freeze: Literal["vlm", "base"] = "base"
    learning_rate_scale: NotNegative = 0.02
    peft_num_tokens: AtLeastOne = 4
    alignment: AlignmentConfig | None = None


@dataclass(frozen=True, config=_strict)
class Recipe:
    """Everything that a run depends on beside `model` (a `model.yaml` without weights) or `base`, and the code.

    source: what it is trained on (`cli/sources.py` says what may stand there); each of its robots gets a token.
    bank_robots: the model holds those of so many, the first ones: what an alignment goes through. None: of all.
    samples: how many the policy sees; shard_samples are drawn at a time and seen shard_epochs times.
    first_robot_share: share of the samples that are of the first robot, beside its own: the one whose token a fresh
    install starts with, where the model says `initial_token: 0`. token_drop: share that gets E_0 alone.
    token_learning_rate_scale: of d_i, times learning_rate; e_token_learning_rate_scale: of E_0; vision: of its eye.
    action_draws: (t, noise) a sample for L_action. Aids that a small model needs and that stay out of L_total:
    regression_weight (the chunk, read from E before the action expert's last layer), keypoint_weight (where tip and
    target are in the images, read from the prefix's last token). alignment_samples: how many the alignment expert sees
    after that, alone; late_time_share: of them have a flow time near 1.
    batch_parts: a batch is drawn and computed in so many parts, one after the other or in as many processes.
    """

    source: dict[str, Any]
    model: str | None = None
    base: BaseRecipe | None = None
    seed: int = 0
    vision: VisionRecipe = VisionRecipe()
    bank_robots: AtLeastOne | None = None
    samples: AtLeastOne = 512_000
    shard_samples: AtLeastOne = 16_384
    shard_epochs: AtLeastOne = 2
    batch_size: AtLeastOne = 128
    batch_parts: AtLeastOne = 1
    learning_rate: Above0 = 1.5e-3
    warmup_steps: AtLeastOne = 150
    weight_decay: NotNegative = 0.01
    vision_learning_rate_scale: NotNegative = 0.3
    token_learning_rate_scale: NotNegative = 4.0
    e_token_learning_rate_scale: NotNegative = 1.0
    first_robot_share: Share = 0.0
    token_drop: Share = 0.15
    action_draws: AtLeastOne = 3
    lambda_perc: NotNegative = 0.1
    lambda_dyn: NotNegative = 1.0
    lambda_inv: NotNegative = 1.0
    regression_weight: NotNegative = 2.0
    keypoint_weight: NotNegative = 0.5
    alignment_samples: Annotated[int, Field(ge=0)] = 0
    late_time_share: Share = 0.7

    def __post_init__(self) -> None:
        if (self.model is None) == (self.base is None):
            raise ValueError("either `model` (trained from nothing) or `base` (a trained one) is needed")
        if min(self.samples, self.shard_samples) < self.batch_size:
            text = f"samples ({self.samples}) and shard_samples ({self.shard_samples}) must be at least"
            raise ValueError(f"{text} batch_size ({self.batch_size}), or nothing is trained")
        for key in ("batch_size", "shard_samples"):
            if getattr(self, key) % self.batch_parts:
                raise ValueError(f"batch_parts ({self.batch_parts}) must divide {key} ({getattr(self, key)})")


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe. Raises RecipeError naming file, key and what was expected."""
    return load_yaml(path, Recipe, RecipeError)
