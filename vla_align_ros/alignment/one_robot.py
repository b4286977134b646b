"""Is the experience of one robot? Do two tokens, each for its own parts of it, explain it far better than one?

Asked are the pick's finalists and the token that the alignment came to, which fits a robot between those of the bank.
They are asked of perception and inverse dynamics together, as the limit was measured: not where the pick saw others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

LEAST_PARTS = 3  # that are compared
MEASURED = {"perception", "inverse_dynamics"}
PERCEPTION_WEIGHT = 0.5  # beside inverse dynamics


def one_over_two(losses: Mapping[str, Tensor], parts: Sequence[Sequence[int]]) -> float | None:
    """What the one token that explains all parts best costs, over what the best two do where each part has the better
    of them. losses: of each token on each experience, (F, N) by task (`step.Proposal.explained`).

    1 where one is enough; one robot reached 1.08, most pairs that differ 1.14 and more (docs/decisions.md). None with
    fewer than LEAST_PARTS parts, or other tasks.
    """
    if len(parts) < LEAST_PARTS or set(losses) != MEASURED:
        return None
    each = PERCEPTION_WEIGHT * losses["perception"] + losses["inverse_dynamics"]
    costs = torch.stack([each[:, list(part)].sum(1) for part in parts], 1)  # (tokens, parts)
    pairs = torch.minimum(costs[:, None], costs[None]).sum(2)
    return float(costs.sum(1).min() / pairs.min())
