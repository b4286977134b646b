"""From trajectories to the velocity that acts on the joints at each moment: by their times, and late by a delay.

    the command at t  =  how fast the trajectory leads at t that is in force then, of those that have come by t
    what acts at t    =  the command at t - delay

`run` gives pieces from one change to the next with the mean velocity of each: nothing depends on how often it is
called.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from vla_align_ros.action.chunk_queue import HELD_CHUNKS
from vla_align_ros.action.running import RunningTrajectory
from vla_align_ros.action.timeline import Timeline
from vla_align_ros.bench.reach2.embodiment import FloatArray

DELAY_MAX_NS = 1_000_000_000  # how far back commands are remembered


class Actuator:
    """Executes trajectories, a chunk's ramp included; after the last point the command is zero. A position that is not
    where the arm is is not made up for."""

    def __init__(self, start_ns: int, num_joints: int) -> None:
        self.now_ns = start_ns
        self._rest = np.zeros(num_joints)
        self._heard = Timeline[RunningTrajectory]()  # by start
        self._obeyed = Timeline[RunningTrajectory | None]()  # by when it was begun with; what has been does not change

    def put(self, start_ns: int, running: RunningTrajectory) -> None:
        """A trajectory that arrives now and starts, or should have started, at `start_ns`. The latest word wins."""
        self._heard.put(start_ns, running)
        self._heard.keep_newest(HELD_CHUNKS)

    def run(self, end_ns: int, delay_ns: int) -> list[tuple[float, FloatArray]]:
        """Let the time go on to `end_ns`: what acts until then, as (duration in s, velocity (A,)) one after the other.

        delay_ns: 0 to DELAY_MAX_NS.
        """
        start_ns, self.now_ns = self.now_ns, end_ns
        for from_ns, _, running in self._heard.between(start_ns, end_ns):
            if running is not self._obeyed.at(from_ns):
                self._obeyed.put(from_ns, running)
        pieces = [
            ((until_ns - from_ns) * 1e-9, self._velocity(running, from_ns, until_ns))
            for begin_ns, finish_ns, running in self._obeyed.between(start_ns - delay_ns, end_ns - delay_ns)
            for from_ns, until_ns in pairwise(_turns(running, begin_ns, finish_ns))
        ]
        self._obeyed.forget_before(end_ns - DELAY_MAX_NS)
        return pieces

    def _velocity(self, running: RunningTrajectory | None, from_ns: int, until_ns: int) -> FloatArray:
        if running is None or from_ns >= running.end_ns:
            return self._rest
        way: FloatArray = running.position_at(until_ns) - running.position_at(from_ns)
        return way / ((until_ns - from_ns) * 1e-9)


def _turns(running: RunningTrajectory | None, start_ns: int, end_ns: int) -> list[int]:
    """Start, end, and when the velocity may change between them."""
    points = [] if running is None else running.times_ns.tolist()
    return [start_ns, *(t_ns for t_ns in points if start_ns < t_ns < end_ns), end_ns]
