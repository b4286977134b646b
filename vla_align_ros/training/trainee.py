"""What is trained, and how fast it learns."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vla_align_ros.experience.source import Sources
from vla_align_ros.policy.features import FeatureExtractor
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.policy.prepare import Robot
from vla_align_ros.training.bank import TokenBank
from vla_align_ros.training.recipe import Recipe


@dataclass
class Trainee:
    """Everything that is trained, and what it is trained on."""

    sources: Sources
    robot: Robot
    model: Pi0
    features: FeatureExtractor
    bank: TokenBank
    motion_r2: float

    @property
    def device(self) -> torch.device:
        """Where all of it is."""
        return next(self.model.parameters()).device


def learning_rate_at(step: int, total: int, recipe: Recipe) -> float:
    """Warm-up, then as it is, from 3/8 of the way on a straight line down to a hundredth."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    return recipe.learning_rate * warm * max(0.01, min(1.0, 1.6 * (1 - step / total)))
