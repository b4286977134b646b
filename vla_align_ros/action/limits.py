"""The last gate before the wire: a chunk is published whole or refused with a reason.

Each limit is a small function of one shape, `(motion, limits) -> text or None`, where the text says what is wrong.
They judge the trajectory that would be sent, stop ramp included, so that also the braking distance stays inside the
position limits. The goal of a joint that an object may block (a gripper) is judged by its position alone: held, it lies
far ahead of the joint, and policies open and close at one step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.action.trajectory import to_trajectory
from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.types import ActionChunk, Float64Array

FLOAT32_SLACK = 1e-6  # relative; an action clamped to a limit in float32 may lie a rounding error beyond it in float64


class ChunkReason(Enum):
    """Why a chunk was not published."""

    WRONG_SHAPE = "wrong_shape"  # Actions are not (H, A), or the start or the measured position is not (A,).
    NON_FINITE = "non_finite"  # NaN or infinity in the actions, the start or the measured position.
    JUMP = "jump"  # Where the motion would begin is too far from the newest measured position.
    VELOCITY_LIMIT = "velocity_limit"  # A joint would move faster than its velocity_max.
    ACCELERATION_LIMIT = "acceleration_limit"  # A joint would change its velocity faster than its acceleration_max.
    POSITION_LIMIT = "position_limit"  # A joint would leave its position range, braking distance included.


class ChunkRefused(Exception):
    """A chunk failed a limit. `reason` is for counters and diagnostics, the text for people."""

    def __init__(self, reason: ChunkReason, text: str) -> None:
        super().__init__(f"{reason.value}: {text}")
        self.reason = reason


@dataclass(frozen=True)
class ChunkLimits:
    """What no published chunk may exceed.

    robot: with the limits of each commanded joint. jump_max_s: how long any joint would take, at its velocity_max, from
    the newest measured position to the place where the motion would begin. ramp_ticks: the stop ramp that will be
    published behind the chunk (`to_trajectory`).
    """

    robot: RobotDescription
    jump_max_s: float
    ramp_ticks: int

    def __post_init__(self) -> None:
        if not (self.jump_max_s > 0 and self.ramp_ticks >= 1):
            got = f"{self.jump_max_s} and {self.ramp_ticks}"
            raise ValueError(f"jump_max_s must be above 0 and ramp_ticks at least 1, got {got}")


@dataclass(frozen=True)
class _Motion:
    """A chunk as it would be sent: positions, velocities (P, A), of which the first `actions` points are its actions;
    where a controller begins with it (A,), where the arm was measured last (A,), and the control tick."""

    positions: Float64Array
    velocities: Float64Array
    actions: int
    begin: Float64Array
    measured: Float64Array
    period_s: float


def check_chunk(chunk: ActionChunk, limits: ChunkLimits, measured: NDArray[np.floating], late_ns: int = 0) -> None:
    """Return when `chunk` may be published; raise ChunkRefused with the first reason otherwise.

    measured: (A,) the newest measured positions of the commanded joints when it is sent, not the observation's.
    late_ns: how long after the chunk's stamp that is. The controller begins at the first point, or later in a motion
    that is under way.
    """
    _refuse_if(ChunkReason.WRONG_SHAPE, _shape_fault(chunk, measured, len(limits.robot.action)))
    _refuse_if(ChunkReason.NON_FINITE, _non_finite_fault(chunk, measured))
    trajectory = to_trajectory(chunk, limits.robot, limits.ramp_ticks)
    motion = _Motion(
        trajectory.positions,
        trajectory.velocities,
        len(chunk.actions),
        begin=np.array([np.interp(late_ns, trajectory.times_ns, joint) for joint in trajectory.positions.T]),
        measured=np.asarray(measured, np.float64),
        period_s=chunk.period_ns * 1e-9,
    )
    for reason, fault in _LIMITS:
        _refuse_if(reason, fault(motion, limits))


def _refuse_if(reason: ChunkReason, text: str | None) -> None:
    if text is not None:
        raise ChunkRefused(reason, text)


def _shape_fault(chunk: ActionChunk, measured: NDArray[np.floating], fields: int) -> str | None:
    shapes = f"actions {chunk.actions.shape}, start {chunk.start.shape}, measured {measured.shape}"
    good = chunk.actions.ndim == 2 and len(chunk.actions) > 0 and chunk.actions.shape[1] == fields
    if good and chunk.start.shape == measured.shape == (fields,):
        return None
    return f"expected actions (H, {fields}), start ({fields},) and measured ({fields},), got {shapes}"


def _non_finite_fault(chunk: ActionChunk, measured: NDArray[np.floating]) -> str | None:
    parts = {"actions": chunk.actions, "start": chunk.start, "measured position": measured}
    wrong = [
        f"{name} ({np.count_nonzero(~np.isfinite(part))} numbers)"
        for name, part in parts.items()
        if not np.isfinite(part).all()
    ]
    return f"NaN or infinity in {', '.join(wrong)}" if wrong else None


def _jump_fault(motion: _Motion, limits: ChunkLimits) -> str | None:
    """|begin - measured| <= velocity_max * jump_max_s."""
    robot = limits.robot
    jump_s = np.where(robot.judged_by_way, np.abs(motion.begin - motion.measured) / robot.velocity_max, 0.0)
    joint = int(jump_s.argmax())
    if jump_s[joint] <= limits.jump_max_s:
        return None
    distance = f"{abs(motion.begin[joint] - motion.measured[joint]):.4g} {_unit(robot, joint)}"
    where = f"{robot.action_joints[joint]} would begin {distance} from where it was measured last"
    return f"{where}, {jump_s[joint]:.3g} s at its velocity_max; jump_max_s is {limits.jump_max_s:.4g}"


def _velocity_fault(motion: _Motion, limits: ChunkLimits) -> str | None:
    """|v_i| <= velocity_max for every point. Where the first target of a position lies is the jump's matter: an arm
    that lags behind its targets is always measured short of them."""
    robot = limits.robot
    speeds = np.where(robot.judged_by_way, np.abs(motion.velocities), 0.0)
    speeds[0, robot.kinds != "velocity"] = 0.0
    allowed = robot.velocity_max * (1 + FLOAT32_SLACK)
    point, joint = _worst(speeds - allowed)
    if speeds[point, joint] <= allowed[joint]:
        return None
    speed = f"{speeds[point, joint]:.4g} {_unit(robot, joint)}/s in point {point}"
    return f"{robot.action_joints[joint]} at {speed}, velocity_max is {robot.velocity_max[joint]:.4g}"


def _acceleration_fault(motion: _Motion, limits: ChunkLimits) -> str | None:
    """|v_i - v_{i-1}| / p <= acceleration_max between the chunk's own actions, where a joint has one."""
    robot = limits.robot
    allowed = np.array([joint.acceleration_max or np.inf for joint in robot.action_limits])
    allowed[~robot.judged_by_way] = np.inf
    first = np.where(robot.kinds == "velocity", 0, 1)  # the first step of a position is the jump's matter
    changes = np.abs(np.diff(motion.velocities[: motion.actions], axis=0)) / motion.period_s
    changes[np.arange(len(changes))[:, None] < first] = 0.0
    if not (changes > allowed * (1 + FLOAT32_SLACK)).any():
        return None
    point, joint = _worst(changes - allowed)
    change = f"{changes[point, joint]:.4g} {_unit(robot, joint)}/s^2 from point {point} to {point + 1}"
    return f"{robot.action_joints[joint]} at {change}, acceleration_max is {allowed[joint]:.4g}"


def _position_fault(motion: _Motion, limits: ChunkLimits) -> str | None:
    """lowest <= x_i <= highest; a joint that *is* outside may come back, but not go farther out."""
    robot, ends = limits.robot, np.array([joint.position for joint in limits.robot.action_limits])
    low, high = np.minimum(ends[:, 0], motion.measured), np.maximum(ends[:, 1], motion.measured)
    slack = FLOAT32_SLACK * np.maximum(np.abs(low), np.abs(high))
    point, joint = _worst(np.maximum(low - motion.positions, motion.positions - high) - slack)
    position = motion.positions[point, joint]
    if low[joint] - slack[joint] <= position <= high[joint] + slack[joint]:
        return None
    allowed = f"{low[joint]:.4g} to {high[joint]:.4g}"
    where = f"{position:.4g} {_unit(robot, joint)} in point {point}"
    return f"{robot.action_joints[joint]} at {where}, allowed is {allowed}"


def _unit(robot: RobotDescription, joint: int) -> str:
    return robot.action_limits[joint].unit


def _worst(excess: Float64Array) -> tuple[int, int]:
    point, joint = np.unravel_index(int(excess.argmax()), excess.shape)
    return int(point), int(joint)


_LIMITS: tuple[tuple[ChunkReason, Callable[[_Motion, ChunkLimits], str | None]], ...] = (
    (ChunkReason.JUMP, _jump_fault),
    (ChunkReason.VELOCITY_LIMIT, _velocity_fault),
    (ChunkReason.ACCELERATION_LIMIT, _acceleration_fault),
    (ChunkReason.POSITION_LIMIT, _position_fault),
)
