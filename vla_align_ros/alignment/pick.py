"""The gradient-free first step: which tokens explain this robot's experience best?"""

from __future__ import annotations

import torch
from torch import Tensor

from vla_align_ros.alignment.losses import ExperienceLosses
from vla_align_ros.seeds import Part, seed_of

FIRST_ROUND = 8  # experiences that every token is scored by
FINALISTS = 12  # tokens that are scored by all


@torch.no_grad()
def pick(losses: ExperienceLosses, rows: Tensor, candidates: Tensor, seed: int) -> tuple[int, Tensor]:
    """Row of the candidate (K, n, W) with the lowest weighted loss on `rows` (N,), of equals the first; and the mean
    (n, W) of the candidates that experience can hardly tell from it.

    A robot lies between those of training, and a single token has oddities of its own robot. In the mean each counts
    exp(-z^2 / 2), z being how much higher its loss is than the best one's, over the standard error of that difference.
    Every candidate meets the same draws of (t, noise). All are scored by a few experiences, the best and the first,
    which is the running token, by all.
    """
    few = rows[torch.linspace(0, len(rows) - 1, min(FIRST_ROUND, len(rows))).round().long()]
    first = losses.weighted(losses(candidates, few, 1, seed)).mean(1)
    best = first.argsort()[:FINALISTS]
    finalists = torch.cat([best.new_zeros(1), best]).unique()
    each = losses.weighted(losses(candidates[finalists], rows, 1, seed_of(seed, Part.FINALISTS)))
    best_of_all = int(each.mean(1).argmin())
    higher = each - each[best_of_all]
    z = higher.mean(1) / (higher.std(1, correction=0) / len(rows) ** 0.5)
    weights = torch.softmax(-z.nan_to_num(nan=0.0, posinf=torch.inf).square() / 2, dim=0)  # 0 over 0: it is the same
    return int(finalists[best_of_all]), (weights[:, None, None] * candidates[finalists]).sum(0)
