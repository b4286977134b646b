"""The gradient-free first step: which tokens of the training bank explain this robot's experience best?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vla_align_ros.alignment.losses import ExperienceLosses
from vla_align_ros.alignment.rules import RULES

FIRST_ROUND = 8  # experiences that every token is scored by
FINALISTS = 12  # tokens that are scored by all, beside the first and the best for each experience of the first round


@dataclass(frozen=True)
class Pick:
    """index: of the best candidate. token: (n, W), the start for gradient steps. losses: of each finalist on each
    experience, (F, N) by task, with one draw of (t, noise) each by `draws_seed`."""

    index: int
    token: Tensor
    losses: Mapping[str, Tensor]
    draws_seed: int


@torch.no_grad()
def pick(losses: ExperienceLosses, rows: Tensor, candidates: Tensor, seed: int, blended: float = RULES.blended) -> Pick:
    """The candidate (K, n, W) with the lowest weighted loss on `rows` (N,), and the mean of the finalists, weighted by
    softmax(-loss / temperature) with about `blended` of them.

    A robot lies between the training arms, and the experience often cannot tell the best few tokens apart, each of
    which has oddities of its own arm (docs/decisions.md). Every candidate meets the same draws of (t, noise).
    """
    few = rows[torch.linspace(0, len(rows) - 1, min(FIRST_ROUND, len(rows))).round().long()]
    first = losses.weighted(losses(candidates, few, 1, seed))
    best = first.mean(1).argsort()[:FINALISTS]
    finalists = torch.cat([best.new_zeros(1), best, first.argmin(0)]).unique()
    found = losses(candidates[finalists], rows, 1, seed + 1)
    scores = losses.weighted(found).mean(1)
    blend = (blend_weights(scores, blended)[:, None, None] * candidates[finalists]).sum(0)
    return Pick(int(finalists[scores.argmin()]), blend, found, seed + 1)


def blend_weights(scores: Tensor, blended: float = RULES.blended) -> Tensor:
    """softmax(-score / temperature) (K,), with the lowest temperature at which `blended` of them count, or half of
    fewer: 1 over the sum of the squared weights."""
    above, wanted = scores - scores.min(), min(blended, len(scores) / 2)
    low, high = (float(above.max().clamp(min=1e-12)) * factor for factor in (1e-4, 1e4))
    for _ in range(50):
        middle = (low * high) ** 0.5
        weights = torch.softmax(-above / middle, dim=0)
        low, high = (middle, high) if 1.0 / float(weights.square().sum()) < wanted else (low, middle)
    return weights
