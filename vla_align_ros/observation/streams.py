"""The recent past of each sensor, by header stamp: `Stream` (one topic) and `JointStreams` (one robot's state, which
may come in several messages).

Both answer "what was the newest at t?", and "since when has it been the same?", by stamps alone: the order of arrival
does not matter.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.types import Float32Array

# rad or m; a joint that went this far has moved: far above an encoder's noise, and a camera sees it
MOVED: Final = 0.05

Value = TypeVar("Value")
Key = TypeVar("Key")


@dataclass
class Sample(Generic[Value, Key]):
    """One message. key: what it is compared by; first_key: the key of the unbroken run of equal ones that it belongs
    to. since_ns: stamp of that run's first message."""

    stamp_ns: int
    value: Value
    key: Key
    first_key: Key
    since_ns: int


class Stream(Generic[Value, Key]):
    """The samples of the last `history_ns` by rising stamp, and the one before them.

    same: whether a key counts as equal to the first one of a run.
    """

    def __init__(self, history_ns: int, same: Callable[[Key, Key], bool]) -> None:
        self._history_ns = history_ns
        self._same = same
        self._samples: list[Sample[Value, Key]] = []

    def insert(self, stamp_ns: int, value: Value, key: Key, since_ns: int) -> bool:
        """Add a sample; False, changing nothing, when there is one with this stamp. One older than the history is
        forgotten at once. since_ns: what holds for the first sample of all.
        """
        samples = self._samples
        if samples and stamp_ns < samples[-1].stamp_ns - self._history_ns:
            return True
        place = bisect_right(samples, stamp_ns, key=_stamp_of)
        if place and samples[place - 1].stamp_ns == stamp_ns:
            return False
        samples.insert(place, Sample(stamp_ns, value, key, key, since_ns))
        for before, sample in zip(samples[max(0, place - 1) :], samples[max(1, place) :], strict=False):
            if self._same(before.first_key, sample.key):
                sample.first_key, sample.since_ns = before.first_key, before.since_ns
            else:
                sample.first_key, sample.since_ns = sample.key, sample.stamp_ns
        # the last one before the history stays: the run of a late message begins with it
        del samples[: max(0, bisect_right(samples, samples[-1].stamp_ns - self._history_ns - 1, key=_stamp_of) - 1)]
        return True

    def newest(self) -> Sample[Value, Key] | None:
        """The sample with the largest stamp."""
        return self._samples[-1] if self._samples else None

    def at(self, t_ns: int) -> Sample[Value, Key] | None:
        """The newest sample with stamp <= t_ns."""
        place = bisect_right(self._samples, t_ns, key=_stamp_of)
        return self._samples[place - 1] if place else None

    def __len__(self) -> int:
        return len(self._samples)


def _stamp_of(sample: Sample[Value, Key]) -> int:
    return sample.stamp_ns


class Joints(NamedTuple):
    """Every number of the state by its newest message. state: (S,) float32, read-only. stamps_ns: (S,) int64, 0 for a
    number that has none (its value means nothing then)."""

    state: Float32Array
    stamps_ns: NDArray[np.int64]


class JointStreams:
    """The state (S numbers) of one robot; what comes in one message is a stream of its own."""

    def __init__(self, size: int, history_ns: int) -> None:
        self._size = size
        self._history_ns = history_ns
        self._groups: dict[tuple[int, ...], Stream[Float32Array, Float32Array]] = {}

    def insert(self, columns: tuple[int, ...], stamp_ns: int, values: Float32Array, positions: Float32Array) -> bool:
        """The numbers `columns` of the state; False, changing nothing, when these have come with this stamp.
        positions: of joints, by which it is told whether one has moved; as many in each message of these columns."""
        group = self._groups.get(columns)
        if group is None:
            group = self._groups[columns] = Stream(self._history_ns, _stands)
        return group.insert(stamp_ns, values, positions, since_ns=0)

    def newest(self) -> Joints:
        """The newest of every number."""
        return self._merged((columns, group.newest()) for columns, group in self._groups.items())

    def at(self, t_ns: int) -> Joints:
        """The newest of every number with stamp <= t_ns."""
        return self._merged((columns, group.at(t_ns)) for columns, group in self._groups.items())

    def moved_ns(self, t_ns: int) -> int:
        """When, until t_ns, a joint had last gone MOVED from where it stood before; 0 when none ever has."""
        return max((s.since_ns for group in self._groups.values() if (s := group.at(t_ns)) is not None), default=0)

    def _merged(self, found: Iterable[tuple[tuple[int, ...], Sample[Float32Array, Float32Array] | None]]) -> Joints:
        state, stamps_ns = np.zeros(self._size, np.float32), np.zeros(self._size, np.int64)
        samples = [(sample.stamp_ns, columns, sample.value) for columns, sample in found if sample is not None]
        for stamp_ns, columns, value in sorted(samples, key=lambda item: item[:2]):
            state[list(columns)] = value
            stamps_ns[list(columns)] = stamp_ns
        state.flags.writeable = False
        return Joints(state, stamps_ns)


def _stands(before: Float32Array, now: Float32Array) -> bool:
    return not len(now) or bool(np.abs(now - before).max() <= MOVED)
