"""What is in force when: each thing from its start until the next one's, and the latest word wins.

The one rule by which the policy's queue, experience and the simulated robot find the command of a moment. No timer and
no cursor: the same things put in the same order give the same answer, so a bag replays exactly.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import pairwise
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Timeline(Generic[Item]):
    """Items by rising start (ns). Not thread-safe."""

    def __init__(self) -> None:
        self._starts_ns: list[int] = []
        self._items: list[Item] = []

    def put(self, start_ns: int, item: Item) -> None:
        """Add an item. It replaces every held one that does not start before it: after a clock that jumped back nothing
        from the old time comes to life again."""
        place = bisect_left(self._starts_ns, start_ns)
        self._starts_ns[place:], self._items[place:] = [start_ns], [item]

    def at(self, t_ns: int) -> Item | None:
        """The item with the largest start <= t_ns."""
        place = bisect_right(self._starts_ns, t_ns)
        return self._items[place - 1] if place else None

    def between(self, start_ns: int, end_ns: int) -> list[tuple[int, int, Item | None]]:
        """(from, until, item) one after the other from `start_ns` to `end_ns`; the item is None before the first."""
        inside = self._starts_ns[bisect_right(self._starts_ns, start_ns) : bisect_left(self._starts_ns, end_ns)]
        turns = [start_ns, *inside, end_ns]
        return [(turn, later, self.at(turn)) for turn, later in pairwise(turns) if turn < later]

    def forget_before(self, t_ns: int) -> None:
        """Drop what is no longer in force at `t_ns`."""
        self._drop(max(0, bisect_right(self._starts_ns, t_ns) - 1))

    def forget_after(self, t_ns: int) -> None:
        """Drop what starts after `t_ns`."""
        place = bisect_right(self._starts_ns, t_ns)
        del self._starts_ns[place:], self._items[place:]

    def keep_newest(self, count: int) -> None:
        """Drop all but the last `count` items."""
        self._drop(max(0, len(self) - count))

    def _drop(self, count: int) -> None:
        del self._starts_ns[:count], self._items[:count]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)
