"""How sure a success rate is."""

from __future__ import annotations

import math

_Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


def wilson_interval(successes: int, count: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a rate: honest at 0, at 1 and for few trials. ValueError without trials."""
    if not 0 <= successes <= count or count == 0:
        raise ValueError(f"expected 0 <= successes <= count and count > 0, got {successes} of {count}")
    rate, weight = successes / count, _Z95**2 / count
    centre = (rate + weight / 2) / (1 + weight)
    half = _Z95 * math.sqrt(rate * (1 - rate) / count + weight / (4 * count)) / (1 + weight)
    return max(0.0, centre - half), min(1.0, centre + half)
