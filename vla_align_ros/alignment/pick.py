"""The gradient-free first step: which tokens of the training bank explain this robot's experience best?"""

from __future__ import annotations

import torch
from torch import Tensor

from vla_align_ros.alignment.losses import ExperienceLosses

FIRST_ROUND, FINALISTS = 8, 24  # experiences that every token is scored by; tokens that are scored by all
TEMPERATURE = 0.01  # of the best loss: tokens that are this much worse count e times less
ROWS_AT_ONCE = 64


@torch.no_grad()
def pick(losses: ExperienceLosses, rows: Tensor, candidates: Tensor, seed: int) -> tuple[int, Tensor]:
    """Index of the candidate (K, n, W) with the lowest weighted loss, and the mean of the finalists, weighted by
    softmax(-loss / temperature).

    A robot lies between the training arms, and the experience often cannot tell the best few tokens apart
    (docs/decisions.md). Every candidate meets the same draws of (t, noise).
    """
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    first = _scores(losses, order[:FIRST_ROUND], candidates, seed)
    finalists = first.argsort()[:FINALISTS]
    scores = _scores(losses, order, candidates[finalists], seed + 1)
    best = int(scores.argmin())
    weights = torch.softmax((scores[best] - scores) / (TEMPERATURE * scores[best]), dim=0)
    return int(finalists[best]), (weights[:, None, None] * candidates[finalists]).sum(0)


def _scores(losses: ExperienceLosses, rows: Tensor, candidates: Tensor, seed: int) -> Tensor:
    """Weighted loss of each candidate, (K,)."""
    parts = candidates.split(max(1, ROWS_AT_ONCE // len(rows)))
    return torch.cat([losses.weighted(losses(part, rows, 1, seed)).mean(1) for part in parts])
