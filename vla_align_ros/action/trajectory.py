"""Action chunk -> joint trajectory on the wire, and what any joint trajectory says.

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

All points satisfy x_i = x_{i-1} + v_i * p (`Trajectory.is_steps`), so the start can be recovered from the wire,
x_{-1} = x_0 - v_0 * p. Neighbours: `limits.py` judges a chunk by this trajectory, ramp included; `running.py` reads
this and every other trajectory by its times.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.types import ActionChunk

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]

NOT_SAID: Final[Float64Array] = np.empty((0, 0))
STANDS_RAD_S: Final = 1.2e-7  # joint_trajectory_controller takes a slower last point as standing
SAME_RAD: Final = 1e-6  # positions that were float32 on their way differ by less


class TrajectoryError(ValueError):
    """A trajectory (or what one should be made of) that joint_trajectory_controller would refuse or, worse, follow."""


@dataclass(frozen=True)
class Trajectory:
    """What a `trajectory_msgs/JointTrajectory` says, ours or another's, checked at construction (TrajectoryError).

    stamp_ns: header stamp; of ours the tick of the observation that it answers. 0 means as soon as it arrives.
    joint_names: (A,) in the order of the model's action, each name once.
    times_ns: (P,) int64 time_from_start of each point, at least 0, strictly increasing, the last one above 0.
    positions, velocities, accelerations: (P, A) float64 in rad or m, a second, a second squared; all finite, the last
        velocities 0. Velocities, or accelerations, may be NOT_SAID; these are never said without those.
    """

    stamp_ns: int
    joint_names: tuple[str, ...]
    times_ns: Int64Array
    positions: Float64Array
    velocities: Float64Array = field(default_factory=lambda: NOT_SAID)
    accelerations: Float64Array = field(default_factory=lambda: NOT_SAID)

    def __post_init__(self) -> None:
        points, joints = len(self.times_ns), len(self.joint_names)
        if points == 0 or self.times_ns.shape != (points,):
            raise TrajectoryError(f"times_ns must be (P,) with at least one point, got {self.times_ns.shape}")
        if joints == 0 or len(set(self.joint_names)) != joints:
            raise TrajectoryError(f"joint_names must name every joint once, got {list(self.joint_names)}")
        for name in ("positions", "velocities", "accelerations"):
            array: Float64Array = getattr(self, name)
            if array.shape != (points, joints) and (name == "positions" or array.size):
                raise TrajectoryError(f"{name} must be (points, joints) = ({points}, {joints}), got {array.shape}")
            if not np.isfinite(array).all():
                raise TrajectoryError(f"{name} must be finite, got {array.tolist()}")
        if self.times_ns[0] < 0 or self.times_ns[-1] == 0 or (np.diff(self.times_ns) <= 0).any():
            text = "times_ns must be at least 0 and strictly increasing, the last one above 0"
            raise TrajectoryError(f"{text}, got {self.times_ns.tolist()}")
        if self.accelerations.size and not self.velocities.size:
            raise TrajectoryError("accelerations without velocities say no motion")
        if self.velocities.size and (np.abs(self.velocities[-1]) > STANDS_RAD_S).any():
            raise TrajectoryError(f"the last point must have velocity 0, got {self.velocities[-1].tolist()}")

    def start_ns(self, arrival_ns: int) -> int:
        """When it starts, for a message that came at `arrival_ns`."""
        return self.stamp_ns or arrival_ns

    @property
    def start_position(self) -> Float64Array:
        """(A,) the position before the first point of steps, x_0 - v_0 * p: where the arm was for who wrote them."""
        start: Float64Array = self.positions[0] - self.velocities[0] * (self.times_ns[0] * 1e-9)
        return start

    def is_steps(self, period_ns: int) -> bool:
        """Whether it is written as a chunk is: equal steps of at most `period_ns`, the first one included, each with
        the constant velocity of the point at its end. The step before the first point is known then, too."""
        step_ns = int(self.times_ns[0])
        if len(self.times_ns) < 2 or not 0 < step_ns <= period_ns:
            return False
        if not self.velocities.size or self.accelerations.size:
            return False
        steps_ns, moved = np.diff(self.times_ns), np.diff(self.positions, axis=0)
        follows = np.isclose(moved, self.velocities[1:] * (steps_ns[:, None] * 1e-9), rtol=SAME_RAD, atol=SAME_RAD)
        # without any velocity this is how somebody writes "go there and stay"
        return bool((abs(steps_ns - step_ns) <= step_ns // 1000).all() and follows.all() and self.velocities.any())


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
    velocities = np.where(by_velocity, actions, np.diff(positions, axis=0, prepend=start[None]) / period_s)
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
    """Stop and stay: one point at the measured `position` (A,) in rad, one period after `stamp_ns`, velocity 0."""
    positions = np.array(position, np.float64)[None]
    return Trajectory(stamp_ns, joint_names, np.array([period_ns], np.int64), positions, np.zeros_like(positions))


def positions_of(actions: ArrayLike, start: ArrayLike, kinds: NDArray[np.str_], period_s: float) -> Float64Array:
    """Where each action (H, A), of `kinds` (A,), leads from the positions `start` (A,): positions (H, A)."""
    wanted, before = np.asarray(actions, np.float64), np.asarray(start, np.float64)
    by_velocity = before + np.cumsum(wanted, axis=0) * period_s
    return np.where(kinds == "velocity", by_velocity, wanted + np.where(kinds == "delta_position", before, 0.0))
