"""The gradient-free first step: which tokens of the training bank explain this robot's experience best?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vla_align_ros.alignment.losses import ExperienceLosses

FIRST_ROUND, FINALISTS = 8, 24  # experiences that every token is scored by; tokens that are scored by all
BLENDED = 8.0  # effective number of tokens in the blend: 1 over the sum of the squared weights
ROWS_AT_ONCE = 256  # each with its prefix's keys and values: 30 MiB for models/tiny


@dataclass(frozen=True)
class Pick:
    """index: of the best candidate. token: (n, W), the start that it leads to."""

    index: int
    token: Tensor


@torch.no_grad()
def pick(losses: ExperienceLosses, rows: Tensor, candidates: Tensor, seed: int) -> Pick:
    """The candidate (K, n, W) with the lowest weighted loss on `rows` (N,), and the mean of the finalists, weighted by
    softmax(-loss / temperature) with about BLENDED of them; candidate 0, the running token, alone where it is best.

    A robot lies between the training arms, and the experience often cannot tell the best few tokens apart, each of
    which has oddities of its own arm (docs/decisions.md). Every candidate meets the same draws of (t, noise).
    """
    few = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:FIRST_ROUND]]
    finalists = _means(losses, few, candidates, seed).argsort()[:FINALISTS]
    scores = _means(losses, rows, candidates[finalists], seed + 1)
    index = int(finalists[scores.argmin()])
    if index == 0:
        return Pick(index, candidates[index])
    return Pick(index, (blend_weights(scores)[:, None, None] * candidates[finalists]).sum(0))


def blend_weights(scores: Tensor) -> Tensor:
    """softmax(-score / temperature) (K,), with the temperature at which BLENDED of them count, or half of fewer."""
    above, wanted = scores - scores.min(), min(BLENDED, len(scores) / 2)
    low, high = (float(above.max().clamp(min=1e-12)) * factor for factor in (1e-4, 1e4))
    for _ in range(50):
        middle = (low * high) ** 0.5
        weights = torch.softmax(-above / middle, dim=0)
        low, high = (middle, high) if 1.0 / float(weights.square().sum()) < wanted else (low, middle)
    return weights


def _means(losses: ExperienceLosses, rows: Tensor, candidates: Tensor, seed: int) -> Tensor:
    """Mean weighted loss of each candidate, (K,)."""
    parts = candidates.split(max(1, ROWS_AT_ONCE // len(rows)))
    return torch.cat([losses.weighted(losses(part, rows, 1, seed)).mean(1) for part in parts])
