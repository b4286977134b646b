"""Several recordings as one: experience in order of time, as an alignment takes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from vla_align_ros.types import Experience

PAUSE_NS = 60_000_000_000


def later(made: Iterable[Experience], before: Experience | None) -> Iterator[Experience]:
    """The experience of a recording that was made after `before`, the last experience of the recording before it.
    Episodes count on. Stamps stay where they are later than `before`; else, as those of a simulated clock that begins
    at 0 again, all are moved, and begin PAUSE_NS after it."""
    by_ns = by_episodes = 0
    for index, item in enumerate(made):
        if before is not None and index == 0:
            end_ns, by_episodes = before.next_observation.stamp_ns, before.episode + 1
            first_ns = item.observation.stamp_ns
            by_ns = 0 if first_ns >= end_ns else end_ns + PAUSE_NS - first_ns
        yield moved(item, by_ns, by_episodes)


def moved(item: Experience, by_ns: int, by_episodes: int = 0) -> Experience:
    """The same at another time, of another episode."""
    before, after = (
        replace(seen, stamp_ns=seen.stamp_ns + by_ns) for seen in (item.observation, item.next_observation)
    )
    return Experience(before, item.commands, after, item.episode + by_episodes)
