"""Action chunk -> joint trajectory on the wire, and back to the commands in it.

A chunk starts at the position x_{-1} (its measured `state`) and has H actions for the intervals i = 0 .. H-1, interval
i being [stamp + i*p, stamp + (i+1)*p) with period p. Point i sits at the *end* of its interval, time_from_start =
(i+1)*p, and carries

    v_i, the constant velocity during interval i,        x_i = x_{i-1} + v_i * p.

    velocity         v_i = a_i           x_i by summing
    position         x_i = a_i           v_i = (x_i - x_{i-1}) / p
    delta_position   x_i = x_{-1} + a_i  v_i = (x_i - x_{i-1}) / p

Behind them R ramp points slow down linearly, v_{H-1+j} = v_{H-1} * (1 - j/R) for j = 1 .. R, so that the last velocity
is exactly 0: joint_trajectory_controller demands that, and a robot whose next chunk does not come stops by itself.

All points satisfy x_i = x_{i-1} + v_i * p, so the start can be recovered from the wire, x_{-1} = x_0 - v_0 * p; that
is what makes `delta_position` invertible (`commands_of`). Neighbour: `limits.py` judges a chunk by this trajectory,
ramp included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_align_ros.types import ActionChunk, Float32Array

ActionKind = Literal["velocity", "position", "delta_position"]
Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]


class TrajectoryError(ValueError):
    """A trajectory (or what one should be made of) that joint_trajectory_controller would refuse or, worse, follow."""


@dataclass(frozen=True)
class Trajectory:
    """What a `trajectory_msgs/JointTrajectory` says, checked at construction (TrajectoryError).

    stamp_ns: header stamp, the tick of the observation that it answers.
    joint_names: (A,) the model's joint order, each name once.
    times_ns: (P,) int64 time_from_start of each point, above 0 and strictly increasing.
    positions: (P, A) float64 rad. velocities: (P, A) float64 rad/s, the last row exactly 0. All finite.
    """

    stamp_ns: int
    joint_names: tuple[str, ...]
    times_ns: Int64Array
    positions: Float64Array
    velocities: Float64Array

    def __post_init__(self) -> None:
        points, joints = len(self.times_ns), len(self.joint_names)
        if points == 0 or self.times_ns.shape != (points,):
            raise TrajectoryError(f"times_ns must be (P,) with at least one point, got {self.times_ns.shape}")
        if joints == 0 or len(set(self.joint_names)) != joints:
            raise TrajectoryError(f"joint_names must name every joint once, got {list(self.joint_names)}")
        for name, array in (("positions", self.positions), ("velocities", self.velocities)):
            if array.shape != (points, joints):
                raise TrajectoryError(f"{name} must be (points, joints) = ({points}, {joints}), got {array.shape}")
            if not np.isfinite(array).all():
                raise TrajectoryError(f"{name} must be finite, got {array.tolist()}")
        if self.times_ns[0] <= 0 or (np.diff(self.times_ns) <= 0).any():
            raise TrajectoryError(f"times_ns must be above 0 and strictly increasing, got {self.times_ns.tolist()}")
        if (self.velocities[-1] != 0).any():
            raise TrajectoryError(f"the last point must have velocity 0, got {self.velocities[-1].tolist()}")

    @property
    def start_rad(self) -> Float64Array:
        """(A,) the position before the first point, x_0 - v_0 * p: the measured state that the chunk started from."""
        start: Float64Array = self.positions[0] - self.velocities[0] * (self.times_ns[0] * 1e-9)
        return start


def to_trajectory(
    chunk: ActionChunk, action_kind: ActionKind, joint_names: tuple[str, ...], ramp_ticks: int
) -> Trajectory:
    """The H points of `chunk` and `ramp_ticks` (R >= 1) more that come to a stop, P = H + R. Equations above.

    Raises TrajectoryError for actions that are not (H, A), a state that is not (A,), non-finite numbers, R < 1, an
    unknown kind.
    """
    actions, start = np.asarray(chunk.actions, np.float64), np.asarray(chunk.state, np.float64)
    if actions.ndim != 2 or len(actions) == 0 or start.shape != actions.shape[1:]:
        raise TrajectoryError(f"a chunk needs actions (H, A) and state (A,), got {actions.shape} and {start.shape}")
    if ramp_ticks < 1:
        raise TrajectoryError(f"ramp_ticks must be at least 1 (the last point is the stop), got {ramp_ticks}")
    period_s = chunk.period_ns * 1e-9
    positions = positions_of(actions, start, action_kind, period_s)
    velocities = actions if action_kind == "velocity" else np.diff(positions, axis=0, prepend=start[None]) / period_s
    fade = 1.0 - np.arange(1, ramp_ticks + 1) / ramp_ticks
    ramp_velocities = fade[:, None] * velocities[-1]
    ramp_positions = positions[-1] + np.cumsum(ramp_velocities, axis=0) * period_s
    return Trajectory(
        stamp_ns=chunk.stamp_ns,
        joint_names=joint_names,
        times_ns=np.arange(1, len(actions) + ramp_ticks + 1, dtype=np.int64) * chunk.period_ns,
        positions=np.concatenate([positions, ramp_positions]),
        velocities=np.concatenate([velocities, ramp_velocities]),
    )


def hold_trajectory(position: ArrayLike, stamp_ns: int, period_ns: int, joint_names: tuple[str, ...]) -> Trajectory:
    """Stop and stay: one point at the measured `position` (A,) in rad, one period after `stamp_ns`, velocity 0."""
    positions = np.array(position, np.float64)[None]
    return Trajectory(stamp_ns, joint_names, np.array([period_ns], np.int64), positions, np.zeros_like(positions))


def commands_of(trajectory: Trajectory, action_kind: ActionKind, origin_rad: ArrayLike | None = None) -> Float32Array:
    """The command of every point, ramp included, as the model's kind of action: (P, A) float32; inverse of
    `to_trajectory`.

    origin_rad: (A,) the position that `delta_position` counts from; by default where the trajectory starts. An
    experience whose commands come from several chunks passes the state of its own observation. The other two kinds
    ignore it.
    """
    if action_kind == "velocity":
        commands = trajectory.velocities
    elif action_kind == "position":
        commands = trajectory.positions
    elif action_kind == "delta_position":
        commands = trajectory.positions - (
            trajectory.start_rad if origin_rad is None else np.asarray(origin_rad, np.float64)
        )
    else:
        raise TrajectoryError(_unknown_kind(action_kind))
    return commands.astype(np.float32)


def positions_of(actions: ArrayLike, start_rad: ArrayLike, action_kind: ActionKind, period_s: float) -> Float64Array:
    """Where each action (H, A) leads from `start_rad` (A,), in rad (H, A). Raises TrajectoryError for an unknown
    kind."""
    wanted, start = np.asarray(actions, np.float64), np.asarray(start_rad, np.float64)
    if action_kind == "velocity":
        return start + np.cumsum(wanted, axis=0) * period_s
    if action_kind == "position":
        return wanted
    if action_kind == "delta_position":
        return start + wanted
    raise TrajectoryError(_unknown_kind(action_kind))


def _unknown_kind(action_kind: str) -> str:
    return f"action_kind must be one of {list(get_args(ActionKind))}, got {action_kind!r}"
