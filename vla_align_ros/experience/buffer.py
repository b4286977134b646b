"""The newest experiences, up to a capacity."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

import numpy as np

from vla_align_ros.types import Experience


class ExperienceBuffer:
    """Keeps the last `capacity` experiences and drops the oldest; thread-safe.

    total_added: experiences ever added, dropped and cleared ones too, so that two readings tell how many are new.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.capacity = capacity
        self.total_added = 0
        self._experiences: deque[Experience] = deque(maxlen=capacity)
        self._lock = threading.Lock()

    def add(self, *experiences: Experience) -> None:
        """Append one experience or several, in their order."""
        with self._lock:
            self._experiences.extend(experiences)
            self.total_added += len(experiences)

    def not_held(self, experiences: Iterable[Experience]) -> list[Experience]:
        """Those of `experiences` that it does not hold, by stamp, state and commands."""
        held = {item.observation.stamp_ns: item for item in self.snapshot()}
        return [
            item
            for item in experiences
            if (one := held.get(item.observation.stamp_ns)) is None
            or not np.array_equal(one.observation.state, item.observation.state)
            or not np.array_equal(one.commands, item.commands)
        ]

    def clear(self) -> None:
        """Forget all experiences."""
        with self._lock:
            self._experiences.clear()

    def forget_before(self, stamp_ns: int) -> None:
        """Forget those whose first observation was made earlier."""
        with self._lock:
            newest = [item for item in self._experiences if item.observation.stamp_ns >= stamp_ns]
            self._experiences.clear()
            self._experiences.extend(newest)

    def snapshot(self) -> tuple[Experience, ...]:
        """The experiences held now, oldest first; later changes of the buffer do not touch it."""
        with self._lock:
            return tuple(self._experiences)

    def __len__(self) -> int:
        return len(self._experiences)
