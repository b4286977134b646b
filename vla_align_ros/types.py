"""What travels through the system, and the legend of its shapes.

Legend: B batch, H action horizon, A action dim, S state dim, C cameras, N tokens, F numbers in all
feature tokens together, W expert width. Images are HWC, RGB, from 0 to
255. Time is integer nanoseconds of the ROS clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

UInt8Array = NDArray[np.uint8]
Float32Array = NDArray[np.float32]
Picture = NDArray[np.uint8 | np.float32]  # uint8, or float32 in [0, 255] that lerobot's scaling did not round
Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]
Conventions = Literal["zoo", "openpi", "lerobot"]  # whose arithmetic between a robot's numbers and the network's

NOT_SAID: Final[Float64Array] = np.empty((0, 0))
STANDS_RAD_S: Final = 1.2e-7  # joint_trajectory_controller takes a slower last point as standing
SAME_RAD: Final = 1e-6  # positions that were float32 on their way differ by less


@dataclass(frozen=True)
class Observation:
    """What the robot sees and feels at one control tick.

    images: camera name -> (height, width, 3) RGB: a raw frame, or scaled as the model needs it; a missing camera is
    absent from the mapping.
    state: (S,) float32 in ROS's units (rad, m, a second), field by field as the robot description says.
    prompt: the instruction in words.
    stamp_ns: the control tick, in nanoseconds.
    """

    images: Mapping[str, Picture]
    state: Float32Array
    prompt: str
    stamp_ns: int


@dataclass(frozen=True)
class ActionChunk:
    """H future actions in ROS's units, field by field as the robot description says, the first one for `stamp_ns`.

    actions: (H, A) float32; row i holds from stamp_ns + i * period_ns to stamp_ns + (i + 1) * period_ns.
    start: (A,) float32, the measured positions of the commanded joints that the chunk starts from.
    """

    actions: Float32Array
    start: Float32Array
    stamp_ns: int
    period_ns: int


@dataclass(frozen=True)
class Experience:
    """One lesson about the robot: what it saw, the H commands that were sent, what it saw after them.

    commands: (H, A) float32 in ROS's units, for ticks k .. k+H-1, across chunk seams.
    episode: counts up with every activation gap over 1 s or change of prompt.
    """

    observation: Observation
    commands: Float32Array
    next_observation: Observation
    episode: int


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
