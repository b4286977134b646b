"""From trajectories to the velocity that acts on the joints at each moment: by stamps, and late by a delay.

    the command at t  =  the point whose interval holds t, in the chunk with the largest stamp <= t that has come by t
    what acts at t    =  the command at t - delay

Both are piecewise constant, so `run` gives them as exact pieces: nothing depends on how often it is called.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from operator import itemgetter

import numpy as np

from vla_align_ros.action.chunk_queue import HELD_CHUNKS
from vla_align_ros.action.trajectory import Trajectory
from vla_align_ros.sim.embodiment import FloatArray

DELAY_MAX_NS = 1_000_000_000  # how far back commands are remembered


class Actuator:
    """Executes the velocities of trajectories, ramp points included; after the last point the command is zero."""

    def __init__(self, start_ns: int, num_joints: int) -> None:
        self.now_ns = start_ns
        self._chunks: list[Trajectory] = []  # by rising stamp
        self._rest = np.zeros(num_joints)
        self._log: list[tuple[int, FloatArray]] = [(start_ns - 2 * DELAY_MAX_NS, self._rest)]  # (from when, command)

    def put(self, trajectory: Trajectory) -> None:
        """A trajectory that arrives now. It replaces every one that does not start before it."""
        earlier = [held for held in self._chunks if held.stamp_ns < trajectory.stamp_ns]
        self._chunks = [*earlier, trajectory][-HELD_CHUNKS:]

    def command_at(self, t_ns: int) -> FloatArray:
        """The commanded velocity (A,) in rad/s for `t_ns`, by what has arrived so far."""
        chunk = next((held for held in reversed(self._chunks) if held.stamp_ns <= t_ns), None)
        if chunk is None:
            return self._rest
        point = int(np.searchsorted(chunk.times_ns, t_ns - chunk.stamp_ns, side="right"))
        return chunk.velocities[point] if point < len(chunk.times_ns) else self._rest

    def run(self, end_ns: int, delay_ns: int) -> list[tuple[float, FloatArray]]:
        """Let the time go on to `end_ns`: what acts until then, as (duration in s, velocity (A,)) one after the other.

        delay_ns: 0 to DELAY_MAX_NS.
        """
        start_ns, self.now_ns = self.now_ns, end_ns
        for t_ns in sorted({start_ns, *self._turns(start_ns, end_ns)}):
            self._log.append((t_ns, self.command_at(t_ns)))
        first, last = start_ns - delay_ns, end_ns - delay_ns
        turns = [first, *(t_ns for t_ns, _ in self._log if first < t_ns < last), last]
        pieces = [((after - before) * 1e-9, self._logged(before)) for before, after in pairwise(turns)]
        del self._log[: self._place(end_ns - DELAY_MAX_NS)]
        return pieces

    def _turns(self, start_ns: int, end_ns: int) -> list[int]:
        """When the command may change between the two."""
        times = (chunk.stamp_ns + np.concatenate([[0], chunk.times_ns]) for chunk in self._chunks)
        return [int(t_ns) for row in times for t_ns in row[(row > start_ns) & (row < end_ns)]]

    def _place(self, t_ns: int) -> int:
        return bisect_right(self._log, t_ns, key=itemgetter(0)) - 1

    def _logged(self, t_ns: int) -> FloatArray:
        return self._log[self._place(t_ns)][1]
