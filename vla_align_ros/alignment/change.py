"""Whether the robot changed while the experience was made, as by an accident: from one point on the new token is better
than the running one, and before it is not. Which scenes are hard for both does not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_align_ros.alignment.losses import ExperienceLosses

DRAWS = 4


@dataclass(frozen=True)
class Change:
    """rise: how surely a new token gains more from one point on (`find_rise`). row: the first experience after it."""

    rise: float
    row: int


@torch.no_grad()
def find_change(losses: ExperienceLosses, running: Tensor, proposed: Tensor, seed: int) -> Change:
    """By what a proposed token (n, W) gains over the running one on each experience, in order of time, in the weighted
    losses without dynamics."""
    asked, rows = losses.without_dynamics(), torch.arange(len(losses))
    before, after = (asked.weighted(asked(token, rows, DRAWS, seed)) for token in (running, proposed))
    return find_rise((before - after).cpu().numpy())


def find_rise(values: NDArray[np.floating]) -> Change:
    """Where (N,) values in order of time rise most: Pettitt's test for a change point (Applied Statistics 28, 1979),
    one-sided. The rise is the largest sum, over a row, of the signs of (later - earlier) value, over
    sqrt((N^3 + N^2) / 6): of many independent values it is above x with probability exp(-x^2) at most, about; values of
    one episode are not independent. 0 for fewer than two."""
    count = len(values)
    if count < 2:
        return Change(0.0, 0)
    _, place, equal = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(equal) - (equal - 1) / 2)[place]  # the mean one of equal values
    signs = np.arange(1, count) * (count + 1) - 2.0 * np.cumsum(ranks)[:-1]
    row = int(signs.argmax())
    return Change(float(signs[row] / np.sqrt((count**3 + count**2) / 6)), row + 1)
