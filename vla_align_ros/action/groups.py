"""What each controller of a robot gets of a trajectory over all its commanded joints.

    joint_trajectory   the group's columns, whole, with the whole's stamp
    position_stream    the positions due now, asked for at the stream's own rate

A stream sends while a trajectory runs, its stop ramp included, and stands still after that: a position controller keeps
its last target by itself. What is sent late is sent for the time at which it is sent, never for an earlier one.
"""

from __future__ import annotations

from vla_align_ros.action.running import RunningTrajectory, begin
from vla_align_ros.robot.description import CommandGroup
from vla_align_ros.types import NOT_SAID, Float64Array, Trajectory


def group_trajectory(trajectory: Trajectory, group: CommandGroup) -> Trajectory:
    """The part of `trajectory` that is the group's: its joints in its order, by the names on the wire.

    Raises ValueError for a joint that the trajectory does not have.
    """
    columns = [trajectory.joint_names.index(joint) for joint in group.joints]
    rows = [
        rows[:, columns] if rows.size else NOT_SAID
        for rows in (trajectory.positions, trajectory.velocities, trajectory.accelerations)
    ]
    return Trajectory(trajectory.stamp_ns, group.wire_names, trajectory.times_ns, *rows)


class PositionStream:
    """The positions of a group at any time. Not thread-safe."""

    def __init__(self, group: CommandGroup, period_ns: int) -> None:
        """period_ns: of control. Of the stream, once its trajectory has ended, one more is due: its last position."""
        self._group, self._period_ns = group, period_ns
        self._tail_ns = round(1e9 / group.stream_rate_hz)
        self._running: RunningTrajectory | None = None
        self._reached_ns = 0

    def put(self, trajectory: Trajectory) -> None:
        """The robot's own next trajectory, stamped at or before now. It takes over at once: one that ran is over."""
        part = group_trajectory(trajectory, self._group)
        start_ns = part.stamp_ns
        self._running = begin(part, start_ns, self._period_ns, (start_ns, part.start_position))
        self._reached_ns = start_ns

    def stop(self) -> None:
        """Nothing is due until the next trajectory."""
        self._running = None

    def due(self, t_ns: int) -> Float64Array | None:
        """The positions to send at `t_ns`, in the group's order, in rad or m; None where nothing is in force.

        Where the clock falls back it waits, and behind the start of the trajectory it forgets it: nothing is sent twice
        that lies in between.
        """
        if self._running is None:
            return None
        if t_ns < int(self._running.times_ns[0]):
            self.stop()
            return None
        self._reached_ns = max(t_ns, self._reached_ns)
        if self._reached_ns >= self._running.end_ns + self._tail_ns:
            return None
        return self._running.position_at(self._reached_ns)
