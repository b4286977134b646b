"""The rules of `pick` and `step` that were chosen by hand, in one place, so that each can be left out and measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """How a proposal is made; `benchmarks/ablation.py` leaves out each rule.

    blended: effective number of bank tokens in the start (`pick.py`); 1 takes the best alone. alike: mean squared
    difference of two tokens' actions over their mean square up to which the running token fits nearly (a reversed joint
    makes 2 or more). There only near_share of the way is gone, and the gradient leaves out the share `doubted` of the
    experience. step_shares: of a gradient step, of which the one with the lowest loss is taken.
    """

    blended: float = 8.0
    alike: float = 0.3
    near_share: float = 0.125
    doubted: float = 0.1
    step_shares: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0)


RULES = Rules()
"""What runs."""
