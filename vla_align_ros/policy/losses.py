"""The flow-matching loss with its masks, and how the four losses add up to L_total."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossWeights:
    """lambda of each alignment task in L_total = L_action + sum lambda_i L_i; 0 leaves the task out, uncomputed."""

    lambda_perc: float = 1.0
    lambda_dyn: float = 1.0
    lambda_inv: float = 1.0

    def of(self, task: str) -> float:
        """lambda of `perception`, `dynamics` or `inverse_dynamics`."""
        return {"perception": self.lambda_perc, "dynamics": self.lambda_dyn, "inverse_dynamics": self.lambda_inv}[task]


def masked_mse(v: Tensor, u: Tensor, mask: Tensor) -> Tensor:
    """Mean of (v - u)^2 over all but the first dimension, (B,), where `mask` (broadcastable, bool) is True.

    A row whose mask is False everywhere has loss 0.
    """
    weight = mask.to(v.dtype).expand(v.shape).flatten(1)
    squared = torch.where(mask.expand(v.shape), (v - u) ** 2, 0.0).flatten(1)
    return squared.sum(1) / weight.sum(1).clamp(min=1.0)


def total(parts: dict[str, Tensor], weights: LossWeights) -> Tensor:
    """L_total from {action_loss, perception_loss, ...}; absent tasks count nothing."""
    terms = [
        loss if name == "action_loss" else weights.of(name.removesuffix("_loss")) * loss for name, loss in parts.items()
    ]
    return torch.stack(terms).sum()
