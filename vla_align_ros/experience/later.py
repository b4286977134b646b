"""Several recordings as one: experience in order of time, as an alignment takes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from vla_align_ros.types import Experience

PAUSE_NS = 60_000_000_000


def later(made: Iterable[Experience], before: Experience | None) -> Iterator[Experience]:
    """The experience of a recording, made after `before`, the last one of the recordings before it: episodes count on.
    Stamps that begin before that ended, as those of a dataset, which has none, or of a simulated clock, are moved, so
    that they begin PAUSE_NS after it."""
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
