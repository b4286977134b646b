"""Action chunk -> the joint trajectory that says it on the wire (`types.Trajectory`).

A chunk starts at the measured position x_{-1} (its `start`) and has H actions for the intervals i = 0 .. H-1, interval
i being [stamp + i*p, stamp + (i+1)*p) with period p. Point i sits at the *end* of its interval, time_from_start =
(i+1)*p, and carries

    v_i, the constant velocity during interval i,        x_i = x_{i-1} + v_i * p.

    velocity         v_i = a_i           x_i by summing
    position         x_i = a_i           v_i = (x_i - x_{i-1}) / p
    delta_position   x_i = x_{-1} + a_i  v_i = (x_i - x_{i-1}) / p

Behind them R ramp points come to a stop: a `velocity` field slows down linearly, v_{H-1+j} = v_{H-1} * (1 - j/R) for
j = 1 .. R, the others stay at their last target. So the last velocity is exactly 0: joint_trajectory_controller demands
that, and a robot whose next chunk does not come stops by itself. (A spline through a target at which it should stay
passes it by at most 4/27 of the last step.)

The goal of a joint that an object may block is asked for at once, v_0 = 0: measured it is where the object is, and from
there to the goal a gripper would let go at each chunk.

All points satisfy x_i = x_{i-1} + v_i * p (`Trajectory.is_steps`), so the start can be recovered from the wire,
x_{-1} = x_0 - v_0 * p. Neighbours: `limits.py` judges a chunk by this trajectory, ramp included; `running.py` reads
this and every other trajectory by its times.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.types import ActionChunk, Float64Array, Trajectory, TrajectoryError


def to_trajectory(chunk: ActionChunk, robot: RobotDescription, ramp_ticks: int) -> Trajectory:
    """The H points of `chunk` and `ramp_ticks` (R >= 1) more that come to a stop, P = H + R. Equations above.

    Raises TrajectoryError for actions that are not (H, A), a start that is not (A,), non-finite numbers, R < 1.
    """
    actions, start = np.asarray(chunk.actions, np.float64), np.asarray(chunk.start, np.float64)
    if actions.shape[1:] != (len(robot.action),) or len(actions) == 0 or start.shape != actions.shape[1:]:
        expected = f"actions (H, {len(robot.action)}) and start ({len(robot.action)},)"
        raise TrajectoryError(f"a chunk needs {expected}, got {actions.shape} and {start.shape}")
    if ramp_ticks < 1:
        raise TrajectoryError(f"ramp_ticks must be at least 1 (the last point is the stop), got {ramp_ticks}")
    period_s, by_velocity = chunk.period_ns * 1e-9, robot.kinds == "velocity"
    positions = positions_of(actions, start, robot.kinds, period_s)
    before = np.where(robot.judged_by_way, start, positions[0])
    velocities = np.where(by_velocity, actions, np.diff(positions, axis=0, prepend=before[None]) / period_s)
    fade = 1.0 - np.arange(1, ramp_ticks + 1) / ramp_ticks
    ramp_velocities = fade[:, None] * np.where(by_velocity, velocities[-1], 0.0)
    ramp_positions = positions[-1] + np.cumsum(ramp_velocities, axis=0) * period_s
    return Trajectory(
        stamp_ns=chunk.stamp_ns,
        joint_names=robot.action_joints,
        times_ns=np.arange(1, len(actions) + ramp_ticks + 1, dtype=np.int64) * chunk.period_ns,
        positions=np.concatenate([positions, ramp_positions]),
        velocities=np.concatenate([velocities, ramp_velocities]),
    )


def hold_trajectory(position: ArrayLike, stamp_ns: int, period_ns: int, joint_names: tuple[str, ...]) -> Trajectory:
    """Stop and stay: one point at the measured `position` (A,) in rad or m, one period after `stamp_ns`, velocity 0."""
    positions = np.array(position, np.float64)[None]
    return Trajectory(stamp_ns, joint_names, np.array([period_ns], np.int64), positions, np.zeros_like(positions))


def positions_of(actions: ArrayLike, start: ArrayLike, kinds: NDArray[np.str_], period_s: float) -> Float64Array:
    """Where each action (H, A), of `kinds` (A,), leads from the positions `start` (A,): positions (H, A)."""
    wanted, before = np.asarray(actions, np.float64), np.asarray(start, np.float64)
    by_velocity = before + np.cumsum(wanted, axis=0) * period_s
    return np.where(kinds == "velocity", by_velocity, wanted + np.where(kinds == "delta_position", before, 0.0))
