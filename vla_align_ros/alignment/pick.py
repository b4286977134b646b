"""The gradient-free first step: which token explains this robot's experience best?"""

from __future__ import annotations

import torch
from torch import Tensor

from vla_align_ros.alignment.losses import ExperienceLosses
from vla_align_ros.seeds import Part, seed_of

FIRST_ROUND = 8  # experiences that every token is scored by
FINALISTS = 12  # tokens that are scored by all


@torch.no_grad()
def pick(losses: ExperienceLosses, rows: Tensor, candidates: Tensor, seed: int) -> int:
    """Row of the candidate (K, n, W) with the lowest weighted loss on `rows` (N,); of equals the first.

    Every candidate meets the same draws of (t, noise). All are scored by a few experiences, the best and the first,
    which is the running token, by all.
    """
    few = rows[torch.linspace(0, len(rows) - 1, min(FIRST_ROUND, len(rows))).round().long()]
    first = losses.weighted(losses(candidates, few, 1, seed)).mean(1)
    best = first.argsort()[:FINALISTS]
    finalists = torch.cat([best.new_zeros(1), best]).unique()
    scores = losses.weighted(losses(candidates[finalists], rows, 1, seed_of(seed, Part.FINALISTS))).mean(1)
    return int(finalists[scores.argmin()])
