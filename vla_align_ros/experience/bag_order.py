"""Messages in the order of their files -> messages in the order in which they came.

Recorders write late, writers of bags write topic after topic, files get other names: a first pass notes how late any
message lies, and the second one holds messages back for as long. Where the clock itself fell back (a simulation that
was reset, a bag that was played in a loop) the time before and the time after are kept apart, in the files' order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import pairwise
from typing import Final, NamedTuple

from vla_align_ros.experience.storage import BagMessage

FALL_NS: Final = 1_000_000_000  # behind the newest message of its own topic: late beyond what a recorder does
SURE: Final = 10  # so many messages in a row that fell make a clock that fell
SHUFFLED_SHARE: Final = 0.05  # of steps backwards within a topic, which are then no clock but no order at all


class Span(NamedTuple):
    """Messages from number `first` on, to be sorted by time among themselves. late_ns: how far the latest one lies
    behind an earlier one."""

    first: int
    late_ns: int


@dataclass
class _Part:
    first: int
    oldest_ns: int
    newest_ns: int
    late_ns: int = 0
    newest_of: dict[str, int] = field(default_factory=dict)

    def add(self, topic: str, t_ns: int) -> None:
        self.oldest_ns, self.newest_ns = min(self.oldest_ns, t_ns), max(self.newest_ns, t_ns)
        self.late_ns = max(self.late_ns, self.newest_ns - t_ns)
        self.newest_of[topic] = max(t_ns, self.newest_of.get(topic, t_ns))


class OrderScan:
    """Notes topic and time of every message in the order of the files, and then tells the spans."""

    def __init__(self) -> None:
        self._parts: list[_Part] = []
        self._whole = _Part(0, 2**63, -(2**63))
        self._count, self._steps_back, self._fallen = 0, 0, 0
        self._last: dict[str, int] = {}
        self._files: list[int] = []  # number of the first message of each file
        self._waiting: list[tuple[str, int]] = []  # fell, or came since: late ones, or the beginning of a new part

    def begin_file(self) -> None:
        """The next message is a file's first one."""
        self._files.append(self._count)

    def note(self, topic: str, t_ns: int) -> None:
        """The next message."""
        if not self._parts:
            self._parts.append(_Part(0, t_ns, t_ns))
        self._count += 1
        self._steps_back += t_ns < self._last.get(topic, t_ns) - FALL_NS
        self._last[topic] = t_ns
        self._whole.add(topic, t_ns)
        newest_ns = self._parts[-1].newest_of.get(topic)
        fell = newest_ns is not None and t_ns < newest_ns - FALL_NS
        if fell or (self._waiting and newest_ns is None):
            self._waiting.append((topic, t_ns))
            self._fallen += fell
            if self._fallen == SURE:
                self._parts.append(_Part(self._count - len(self._waiting), t_ns, t_ns))
                self._settle()
        else:
            self._settle()
            self._parts[-1].add(topic, t_ns)

    def spans(self) -> list[Span]:
        """One span for all messages, or one for each time that the clock ran."""
        self._settle()
        by_time = sorted(self._parts, key=lambda part: part.oldest_ns)
        apart = all(one.newest_ns <= other.oldest_ns for one, other in pairwise(by_time))
        # Files may have any names. In a file that runs forward before and after it, the clock was set to another time,
        # and what came before that (a prompt) holds.
        forward = all(2 * part.late_ns <= part.newest_ns - part.oldest_ns for part in self._parts)
        apart = apart and not (forward and any(not self._begins_a_file(part) for part in self._parts))
        if apart or self._steps_back > SHUFFLED_SHARE * self._count:
            return [Span(0, self._whole.late_ns)]
        return [Span(part.first, part.late_ns) for part in self._parts]

    def _begins_a_file(self, part: _Part) -> bool:
        """Its first messages may have been taken for the part before, where their topics were new."""
        return any(0 <= part.first - first < SURE for first in self._files)

    def _settle(self) -> None:
        for topic, t_ns in self._waiting:
            self._parts[-1].add(topic, t_ns)
        self._waiting, self._fallen = [], 0


def in_order(messages: Iterable[BagMessage], spans: Iterable[Span]) -> Iterator[BagMessage]:
    """The messages by time, span after span; those of one time in the files' order. Holds in memory what came within
    a span's `late_ns`."""
    starts = {span.first: span for span in spans}
    held: list[tuple[int, int, BagMessage]] = []
    late_ns, newest_ns = 0, 0
    for number, message in enumerate(messages):
        if number in starts:
            while held:
                yield heappop(held)[2]
            late_ns, newest_ns = starts[number].late_ns, message.t_ns
        newest_ns = max(newest_ns, message.t_ns)
        heappush(held, (message.t_ns, number, message))
        while held and held[0][0] <= newest_ns - late_ns:
            yield heappop(held)[2]
    while held:
        yield heappop(held)[2]
