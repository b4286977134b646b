"""The gradient-free first step: which token of the training bank explains this robot's experience best?"""

from __future__ import annotations

import torch
from torch import Tensor

from vla_align_ros.alignment.losses import ExperienceLosses

ROUNDS = ((8, 24), (32, 6), (128, 1))  # experiences to score by, tokens that go on
ROWS_AT_ONCE = 64


@torch.no_grad()
def pick(losses: ExperienceLosses, rows: Tensor, candidates: Tensor, seed: int) -> tuple[int, Tensor]:
    """Index and token of the candidate (K, n, W) with the lowest weighted loss.

    Rounds: all candidates on a few experiences, the best of them on more. The same draws for every candidate; one
    draw an experience, and again from the first one where a round asks for more than there are.
    """
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    remaining = torch.arange(len(candidates))
    for size, keep in ROUNDS:
        subset = order.repeat(-(-size // len(order)))[:size]
        parts = remaining.split(max(1, ROWS_AT_ONCE // size))
        scores = torch.cat([losses.weighted(losses(candidates[part], subset, 1, seed)).mean(1) for part in parts])
        remaining = remaining[scores.argsort()[:keep]]
    best = int(remaining[0])
    return best, candidates[best]
