"""The gradient-free first step: which tokens of the training bank explain this robot's experience best?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vla_align_ros.alignment.losses import ExperienceLosses

FIRST_ROUND, FINALISTS = 8, 24  # experiences that every token is scored by; tokens that are scored by all
TEMPERATURE = 0.02  # of the best loss: tokens that are this much worse count e times less
ROWS_AT_ONCE = 256  # each with its prefix's keys and values: 30 MiB for models/tiny


@dataclass(frozen=True)
class Pick:
    """index: of the best candidate. token: (n, W), the blend of the finalists."""

    index: int
    token: Tensor


@torch.no_grad()
def pick(losses: ExperienceLosses, rows: Tensor, candidates: Tensor, seed: int) -> Pick:
    """The candidate (K, n, W) with the lowest weighted loss on `rows` (N,), and the mean of the finalists, weighted by
    softmax(-loss / temperature).

    A robot lies between the training arms, and the experience often cannot tell the best few tokens apart
    (docs/decisions.md). Every candidate meets the same draws of (t, noise).
    """
    few = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:FIRST_ROUND]]
    finalists = _means(losses, few, candidates, seed).argsort()[:FINALISTS]
    scores = _means(losses, rows, candidates[finalists], seed + 1)
    best = int(scores.argmin())
    weights = torch.softmax((scores[best] - scores) / (TEMPERATURE * scores[best]), dim=0)
    return Pick(int(finalists[best]), (weights[:, None, None] * candidates[finalists]).sum(0))


def _means(losses: ExperienceLosses, rows: Tensor, candidates: Tensor, seed: int) -> Tensor:
    """Mean weighted loss of each candidate, (K,)."""
    parts = candidates.split(max(1, ROWS_AT_ONCE // len(rows)))
    return torch.cat([losses.weighted(losses(part, rows, 1, seed)).mean(1) for part in parts])
