"""Times a call on a machine that does other things too. Standard library only: the peer's environment imports it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MIN_UNDISTURBED = 10  # fewer undisturbed calls give no number
UNDISTURBED = 0.97  # smallest share of its wall time that an undisturbed single-thread call spends on the CPU


@dataclass(frozen=True)
class Timing:
    """One call: wall time, and CPU time of the whole process meanwhile."""

    wall_s: float
    cpu_s: float

    @property
    def undisturbed(self) -> bool:
        """Whether nobody else had this core during the call."""
        return self.cpu_s > UNDISTURBED * self.wall_s


def timed(call: Callable[[], object]) -> Timing:
    """Call once."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    call()
    return Timing(time.perf_counter() - wall_s, time.process_time() - cpu_s)


def percentile(values: Sequence[float], percent: float) -> float:
    """By linear interpolation, as numpy's; NaN without values."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100.0
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def summary_ms(timings: Sequence[Timing]) -> dict[str, float]:
    """p50 and p99 of the undisturbed calls in ms (NaN when they are too few), how many calls there were and count, and
    the median CPU time of all of them, which another process disturbs less.
    """
    kept = [timing.wall_s * 1e3 for timing in timings if timing.undisturbed]
    enough = kept if len(kept) >= MIN_UNDISTURBED else []
    return {
        "p50": percentile(enough, 50),
        "p99": percentile(enough, 99),
        "cpu_p50": percentile([timing.cpu_s * 1e3 for timing in timings], 50),
        "calls": len(timings),
        "undisturbed": len(kept),
    }
