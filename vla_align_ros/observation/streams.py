"""The recent past of each sensor, by header stamp: `Stream` (one topic) and `JointStreams` (one robot's joints, which
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

MOVED_RAD: Final = 0.05  # a joint that went this far has moved: far above an encoder's noise, and a camera sees it

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
    """Every joint by its newest message. position: (S,) float32 rad, read-only. stamps_ns: (S,) int64, 0 for a joint
    that has none (its position means nothing then)."""

    position: Float32Array
    stamps_ns: NDArray[np.int64]


class JointStreams:
    """The joints (S of them) of one robot; each set of joints that comes in one message is a stream of its own."""

    def __init__(self, joints: int, history_ns: int) -> None:
        self._joints = joints
        self._history_ns = history_ns
        self._groups: dict[tuple[int, ...], Stream[Float32Array, Float32Array]] = {}

    def insert(self, columns: tuple[int, ...], stamp_ns: int, position: Float32Array) -> bool:
        """Positions of the joints `columns`; False, changing nothing, when these have come with this stamp."""
        group = self._groups.get(columns)
        if group is None:
            group = self._groups[columns] = Stream(self._history_ns, _stands)
        return group.insert(stamp_ns, position, position, since_ns=0)

    def newest(self) -> Joints:
        """Every joint's newest position."""
        return self._merged((columns, group.newest()) for columns, group in self._groups.items())

    def at(self, t_ns: int) -> Joints:
        """Every joint's newest position with stamp <= t_ns."""
        return self._merged((columns, group.at(t_ns)) for columns, group in self._groups.items())

    def moved_ns(self, t_ns: int) -> int:
        """When, until t_ns, a joint had last gone MOVED_RAD from where it stood before; 0 when none ever has."""
        return max((s.since_ns for group in self._groups.values() if (s := group.at(t_ns)) is not None), default=0)

    def _merged(self, found: Iterable[tuple[tuple[int, ...], Sample[Float32Array, Float32Array] | None]]) -> Joints:
        position, stamps_ns = np.zeros(self._joints, np.float32), np.zeros(self._joints, np.int64)
        samples = [(sample.stamp_ns, columns, sample.value) for columns, sample in found if sample is not None]
        for stamp_ns, columns, value in sorted(samples, key=lambda item: item[:2]):
            position[list(columns)] = value
            stamps_ns[list(columns)] = stamp_ns
        position.flags.writeable = False
        return Joints(position, stamps_ns)


def _stands(before: Float32Array, now: Float32Array) -> bool:
    return bool(np.abs(now - before).max() <= MOVED_RAD)
