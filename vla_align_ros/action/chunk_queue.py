"""Which command is due at a tick: the newest chunk that has started answers, by stamps alone.

No timer and no cursor: the same chunks and the same tick always give the same command, so a bag replays exactly.
"""

from __future__ import annotations

import threading

from vla_align_ros.types import ActionChunk, Float32Array

HELD_CHUNKS = 8  # the running one, those stamped ahead of now, and the last few for a tick that is asked late


class ChunkQueue:
    """Holds the last HELD_CHUNKS accepted chunks; thread-safe.

    The command at t is row floor((t - stamp) / period) of the chunk with the largest stamp <= t, and none after its
    last row. A chunk holds as many rows as it was put with: H for the policy's own view, H + R for a robot that also
    executes the ramp (rows from `trajectory.commands_of`).

    ran_dry: how often the commands ended (counted once each time, by `command_at`, not once a tick).
    """

    def __init__(self, period_ns: int) -> None:
        if period_ns <= 0:
            raise ValueError(f"period_ns must be above 0, got {period_ns}")
        self.period_ns = period_ns
        self.ran_dry = 0
        self._chunks: list[ActionChunk] = []  # by rising stamp
        self._had_command = False
        self._lock = threading.Lock()

    def put(self, chunk: ActionChunk) -> None:
        """Add a chunk. It replaces every held chunk that does not start before it: the latest word wins, and after a
        clock that jumped back nothing from the old time comes to life again. ValueError: another period than the
        queue's.
        """
        if chunk.period_ns != self.period_ns:
            raise ValueError(f"the queue runs at a period of {self.period_ns} ns, the chunk at {chunk.period_ns} ns")
        with self._lock:
            earlier = [held for held in self._chunks if held.stamp_ns < chunk.stamp_ns]
            self._chunks = [*earlier, chunk][-HELD_CHUNKS:]

    def command_at(self, t_ns: int) -> Float32Array | None:
        """The command (A,) float32 for the tick `t_ns`, or None when no chunk covers it."""
        with self._lock:
            command = self._row(t_ns)
            if command is None and self._had_command:
                self.ran_dry += 1
            self._had_command = command is not None
            return command

    def remaining(self, t_ns: int) -> int:
        """Ticks from `t_ns` on, itself included, that have a command without a gap."""
        with self._lock:
            ticks = 0
            while self._row(t_ns + ticks * self.period_ns) is not None:
                ticks += 1
            return ticks

    def clear(self) -> None:
        """Forget every chunk (deactivation, a stop). An intended end: `ran_dry` does not count it."""
        with self._lock:
            self._chunks = []
            self._had_command = False

    def _row(self, t_ns: int) -> Float32Array | None:
        active = next((chunk for chunk in reversed(self._chunks) if chunk.stamp_ns <= t_ns), None)
        if active is None:
            return None
        row = (t_ns - active.stamp_ns) // self.period_ns
        return active.actions[row] if row < len(active.actions) else None
