"""The gradient-free first step: which token of the training bank explains this robot's experience best?"""

from __future__ import annotations

import torch
from torch import Tensor

from vla_align_ros.alignment.losses import ExperienceLosses

FIRST_ROUND, SECOND_ROUND, FINALISTS = 8, 32, 24


@torch.no_grad()
def pick(losses: ExperienceLosses, rows: Tensor, candidates: Tensor, seed: int) -> tuple[int, Tensor]:
    """Index and token of the candidate (K, n, W) with the lowest weighted loss.

    Two rounds: all candidates on a few experiences, the best of them on more. The same draws for every candidate.
    """
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    remaining = list(range(len(candidates)))
    for size, keep in ((FIRST_ROUND, FINALISTS), (SECOND_ROUND, 1)):
        subset = order[:size]
        scores = [float(losses.weighted(losses(candidates[index], subset, 1, seed)).mean()) for index in remaining]
        ranked = sorted(zip(scores, remaining, strict=True))
        remaining = [index for _, index in ranked[:keep]]
    return remaining[0], candidates[remaining[0]]
