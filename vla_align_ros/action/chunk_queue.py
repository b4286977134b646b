"""Which of the policy's own commands is due at a tick, and for how long there will be one."""

from __future__ import annotations

import threading

from vla_align_ros.action.timeline import Timeline
from vla_align_ros.types import ActionChunk, Float32Array

HELD_CHUNKS = 8  # the running one, those stamped ahead of now, and the last few for a tick that is asked late


class ChunkQueue:
    """Holds the last HELD_CHUNKS accepted chunks; thread-safe.

    The command at t is row floor((t - stamp) / period) of the chunk that is in force at t (`Timeline`, by stamps), and
    none after its last row.

    ran_dry: how often the commands ended (counted once each time, by `command_at`, not once a tick).
    """

    def __init__(self, period_ns: int) -> None:
        if period_ns <= 0:
            raise ValueError(f"period_ns must be above 0, got {period_ns}")
        self.period_ns = period_ns
        self.ran_dry = 0
        self._chunks = Timeline[ActionChunk]()
        self._had_command = False
        self._lock = threading.Lock()

    def put(self, chunk: ActionChunk) -> None:
        """Add a chunk: the latest word wins. ValueError: another period than the queue's."""
        if chunk.period_ns != self.period_ns:
            raise ValueError(f"the queue runs at a period of {self.period_ns} ns, the chunk at {chunk.period_ns} ns")
        with self._lock:
            self._chunks.put(chunk.stamp_ns, chunk)
            self._chunks.keep_newest(HELD_CHUNKS)

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
            self._chunks = Timeline[ActionChunk]()
            self._had_command = False

    def _row(self, t_ns: int) -> Float32Array | None:
        chunk = self._chunks.at(t_ns)
        if chunk is None:
            return None
        row = (t_ns - chunk.stamp_ns) // self.period_ns
        return chunk.actions[row] if row < len(chunk.actions) else None
