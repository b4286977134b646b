"""The gradient-free first step: which tokens explain this robot's experience best?"""

from __future__ import annotations

import torch
from torch import Tensor

from vla_align_ros.alignment.losses import ExperienceLosses
from vla_align_ros.seeds import Part, seed_of

FIRST_ROUND = 8  # experiences that every token is scored by
EACH_ROUND = 4  # times as many experiences as the one before, and a quarter of the tokens
FINALISTS = 12  # tokens, at least, that are scored by all


@torch.no_grad()
def pick(losses: ExperienceLosses, rows: Tensor, candidates: Tensor, seed: int) -> tuple[int, Tensor]:
    """Row of the candidate (K, n, W) with the lowest weighted loss on `rows` (N,), of equals the first; and the mean
    (n, W) of the candidates that experience can hardly tell from it.

    A robot lies between those of training, and a single token has oddities of its own robot. In the mean each counts
    exp(-z^2 / 2), z being how much higher its loss is than the best one's, over the standard error of that difference.
    Successive halving (Karnin et al. 2013): all candidates are scored by a few experiences, the best quarter by four
    times as many, until it is all of them. In a round every candidate meets the same draws of (t, noise). The first
    candidate, which is the running token, is in every round.
    """
    alive, count, turn = torch.arange(len(candidates)), FIRST_ROUND, 0
    while count < len(rows) and len(alive) > FINALISTS + 1:
        few = rows[torch.linspace(0, len(rows) - 1, count).round().long()]
        mean = losses.weighted(losses(candidates[alive], few, 1, seed_of(seed, Part.PICK_ROUND, turn))).mean(1)
        best = mean.argsort()[: max(FINALISTS, len(alive) // EACH_ROUND)].to(alive.device)
        alive = torch.cat([alive[:1], alive[best]]).unique()
        count, turn = count * EACH_ROUND, turn + 1
    each = losses.weighted(losses(candidates[alive], rows, 1, seed_of(seed, Part.FINALISTS)))
    best_of_all = int(each.mean(1).argmin())
    higher = each - each[best_of_all]
    z = higher.mean(1) / (higher.std(1, correction=0) / len(rows) ** 0.5)
    weights = torch.softmax(-z.nan_to_num(nan=0.0, posinf=torch.inf).square() / 2, dim=0)  # 0 over 0: it is the same
    return int(alive[best_of_all]), (weights[:, None, None] * candidates[alive]).sum(0)
