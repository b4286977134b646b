"""Where a trajectory leads to at each moment, read by its times as joint_trajectory_controller reads it.

    from point to point    a straight line where only positions are said, a cubic with velocities, a quintic with
                           accelerations too (its `interpolation_method: splines`, the default)
    before the first point from where the arm was when it began, standing there
    after the last point   the last position

Only a chunk's steps (`Trajectory.is_steps`) are read as they were meant, at constant velocity from point to point and
to the first one: at the points themselves that is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from vla_align_ros.types import NOT_SAID, Float64Array, Int64Array, Trajectory


@dataclass(frozen=True)
class RunningTrajectory:
    """A trajectory that has begun. Made by `begin`.

    times_ns: (K,) int64, when each position is reached, in ROS time. positions: (K, A) rad or m. velocities: (K, A)
    a second, or NOT_SAID for straight lines. accelerations: (K, A) a second squared, or NOT_SAID.
    """

    times_ns: Int64Array
    positions: Float64Array
    velocities: Float64Array
    accelerations: Float64Array

    @property
    def end_ns(self) -> int:
        """When the last position is reached."""
        return int(self.times_ns[-1])

    def position_at(self, t_ns: int) -> Float64Array:
        """Where it leads to by `t_ns`, (A,) in rad or m; the nearest position before it begins and after it ends."""
        after = int(np.searchsorted(self.times_ns, t_ns))
        if after == 0 or after == len(self.times_ns) or self.times_ns[after] == t_ns:
            reached: Float64Array = self.positions[min(after, len(self.times_ns) - 1)]
            return reached
        return self._between(after - 1, after, t_ns)

    def _between(self, before: int, after: int, t_ns: int) -> Float64Array:
        x, way = self.positions[before], self.positions[after] - self.positions[before]
        gone_s, whole_s = (t_ns - int(self.times_ns[before])) * 1e-9, float(np.diff(self.times_ns)[before]) * 1e-9
        s = gone_s / whole_s
        if not self.velocities.size:
            line: Float64Array = x + way * s
            return line
        v, w = self.velocities[before], self.velocities[after]
        if not self.accelerations.size:
            bend = (3 * way - (2 * v + w) * whole_s) * s**2 + ((v + w) * whole_s - 2 * way) * s**3
            cubic: Float64Array = x + v * gone_s + bend
            return cubic
        a, b = self.accelerations[before] * whole_s**2 / 2, self.accelerations[after] * whole_s**2 / 2
        v, w = v * whole_s, w * whole_s
        bend = (10 * way - 6 * v - 4 * w - 3 * a + b) * s**3
        bend += (-15 * way + 8 * v + 7 * w + 3 * a - 2 * b) * s**4
        bend += (6 * way - 3 * v - 3 * w - a + b) * s**5
        quintic: Float64Array = x + v * s + a * s**2 + bend
        return quintic


def says_start(trajectory: Trajectory, period_ns: int) -> bool:
    """Whether it tells by itself where it starts: by a point at time 0, or by steps of at most `period_ns`."""
    return trajectory.times_ns[0] == 0 or trajectory.is_steps(period_ns)


def begin(
    trajectory: Trajectory, start_ns: int, period_ns: int, measured: tuple[int, ArrayLike] | None = None
) -> RunningTrajectory:
    """`trajectory` from `start_ns` on. period_ns: of the robot's commands.

    measured: (when in ns, position (A,) in rad or m) of the arm as it began, for a trajectory that does not say its
    start; not used where a point was due before. ValueError where it is needed and missing.
    """
    times_ns, positions = start_ns + trajectory.times_ns, trajectory.positions
    velocities, accelerations = trajectory.velocities, trajectory.accelerations
    if trajectory.is_steps(period_ns):
        measured, velocities = (start_ns, trajectory.start_position), NOT_SAID
    elif trajectory.times_ns[0] == 0:
        measured = None
    elif measured is None:
        raise ValueError("where the arm was must be given for a trajectory that does not say its start")
    if measured is None or measured[0] >= times_ns[0]:
        return RunningTrajectory(times_ns, positions, velocities, accelerations)
    at_ns, position = measured
    return RunningTrajectory(
        np.concatenate([np.array([at_ns], np.int64), times_ns]),
        np.concatenate([np.asarray(position, np.float64)[None], positions]),
        _from_rest(velocities),
        _from_rest(accelerations),
    )


def _from_rest(rows: Float64Array) -> Float64Array:
    return np.concatenate([np.zeros((1, rows.shape[1])), rows]) if rows.size else NOT_SAID
