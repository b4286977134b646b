"""The last gate before the wire: a chunk is published whole or refused with a reason.

Each limit is a small function of one shape, `(motion, limits) -> text or None`, where the text says what is wrong.
They judge the trajectory that would be sent, stop ramp included, so that also the braking distance stays inside the
position limits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from vla_align_ros.action.trajectory import ActionKind, Float64Array, to_trajectory
from vla_align_ros.policy.config import JointConfig
from vla_align_ros.types import ActionChunk, Float32Array

FLOAT32_SLACK = 1e-6  # relative; an action clamped to a limit in float32 may lie a rounding error beyond it in float64


class ChunkReason(Enum):
    """Why a chunk was not published."""

    WRONG_SHAPE = "wrong_shape"  # Actions are not (H, A), or the state or the measured position is not (A,).
    NON_FINITE = "non_finite"  # NaN or infinity in the actions, the state or the measured position.
    JUMP = "jump"  # Where the motion would begin is too far from the newest measured position.
    VELOCITY_LIMIT = "velocity_limit"  # A joint would move faster than its velocity_max_rad_s.
    POSITION_LIMIT = "position_limit"  # A joint would leave its position range, braking distance included.


class ChunkRefused(Exception):
    """A chunk failed a limit. `reason` is for counters and diagnostics, the text for people."""

    def __init__(self, reason: ChunkReason, text: str) -> None:
        super().__init__(f"{reason.value}: {text}")
        self.reason = reason


@dataclass(frozen=True)
class ChunkLimits:
    """What no published chunk may exceed.

    joints: (A,) position range and velocity limit of each, in the model's order.
    jump_max_rad: largest distance of any joint between the newest measured position and the place where the motion
        would begin.
    ramp_ticks: the stop ramp that will be published behind the chunk (`to_trajectory`).
    """

    joints: tuple[JointConfig, ...]
    jump_max_rad: float
    ramp_ticks: int

    def __post_init__(self) -> None:
        if not (self.joints and self.jump_max_rad > 0 and self.ramp_ticks >= 1):
            raise ValueError(f"joints must not be empty, jump_max_rad above 0 and ramp_ticks at least 1, got {self}")


@dataclass(frozen=True)
class _Motion:
    """A chunk as it would be sent: positions, velocities (P, A), where a controller begins with it (A,) and where the
    arm was measured last (A,)."""

    positions: Float64Array
    velocities: Float64Array
    begin: Float64Array
    measured: Float64Array


def check_chunk(
    chunk: ActionChunk, action_kind: ActionKind, limits: ChunkLimits, measured: Float32Array, late_ns: int = 0
) -> None:
    """Return when `chunk` may be published; raise ChunkRefused with the first reason otherwise.

    measured: (A,) rad, the newest measured joint position when it is sent, not the observation's. late_ns: how long
    after the chunk's stamp that is. The controller begins at the first point, or later in a motion that is under way.
    """
    _refuse_if(ChunkReason.WRONG_SHAPE, _shape_fault(chunk, measured, len(limits.joints)))
    _refuse_if(ChunkReason.NON_FINITE, _non_finite_fault(chunk, measured))
    trajectory = to_trajectory(chunk, action_kind, tuple(joint.name for joint in limits.joints), limits.ramp_ticks)
    motion = _Motion(
        trajectory.positions,
        trajectory.velocities,
        begin=np.array([np.interp(late_ns, trajectory.times_ns, joint) for joint in trajectory.positions.T]),
        measured=np.asarray(measured, np.float64),
    )
    for reason, fault in _LIMITS:
        _refuse_if(reason, fault(motion, limits))


def _refuse_if(reason: ChunkReason, text: str | None) -> None:
    if text is not None:
        raise ChunkRefused(reason, text)


def _shape_fault(chunk: ActionChunk, measured: Float32Array, joints: int) -> str | None:
    shapes = f"actions {chunk.actions.shape}, state {chunk.state.shape}, measured {measured.shape}"
    good = chunk.actions.ndim == 2 and len(chunk.actions) > 0 and chunk.actions.shape[1] == joints
    if good and chunk.state.shape == measured.shape == (joints,):
        return None
    return f"expected actions (H, {joints}), state ({joints},) and measured ({joints},), got {shapes}"


def _non_finite_fault(chunk: ActionChunk, measured: Float32Array) -> str | None:
    parts = {"actions": chunk.actions, "state": chunk.state, "measured position": measured}
    wrong = [
        f"{name} ({np.count_nonzero(~np.isfinite(part))} numbers)"
        for name, part in parts.items()
        if not np.isfinite(part).all()
    ]
    return f"NaN or infinity in {', '.join(wrong)}" if wrong else None


def _jump_fault(motion: _Motion, limits: ChunkLimits) -> str | None:
    """|begin - measured| <= jump_max_rad."""
    jump = np.abs(motion.begin - motion.measured)
    joint = int(jump.argmax())
    if jump[joint] <= limits.jump_max_rad:
        return None
    distance = f"{limits.joints[joint].name} would begin {jump[joint]:.4g} rad from where it was measured last"
    return f"{distance}, jump_max_rad is {limits.jump_max_rad:.4g}"


def _velocity_fault(motion: _Motion, limits: ChunkLimits) -> str | None:
    """|v_i| <= velocity_max_rad_s for every point."""
    allowed = np.array([joint.velocity_max_rad_s for joint in limits.joints])
    point, joint = _worst(np.abs(motion.velocities) - allowed * (1 + FLOAT32_SLACK))
    speed = abs(motion.velocities[point, joint])
    if speed <= allowed[joint] * (1 + FLOAT32_SLACK):
        return None
    return (
        f"{limits.joints[joint].name} at {speed:.4g} rad/s in point {point}, velocity_max_rad_s is {allowed[joint]:.4g}"
    )


def _position_fault(motion: _Motion, limits: ChunkLimits) -> str | None:
    """position_min_rad <= x_i <= position_max_rad; a joint that *is* outside may come back, but not go farther out."""
    low = np.minimum([joint.position_min_rad for joint in limits.joints], motion.measured)
    high = np.maximum([joint.position_max_rad for joint in limits.joints], motion.measured)
    slack = FLOAT32_SLACK * np.maximum(np.abs(low), np.abs(high))
    point, joint = _worst(np.maximum(low - motion.positions, motion.positions - high) - slack)
    position = motion.positions[point, joint]
    if low[joint] - slack[joint] <= position <= high[joint] + slack[joint]:
        return None
    allowed = f"{low[joint]:.4g} to {high[joint]:.4g}"
    return f"{limits.joints[joint].name} at {position:.4g} rad in point {point}, allowed is {allowed}"


def _worst(excess: Float64Array) -> tuple[int, int]:
    point, joint = np.unravel_index(int(excess.argmax()), excess.shape)
    return int(point), int(joint)


_LIMITS: tuple[tuple[ChunkReason, Callable[[_Motion, ChunkLimits], str | None]], ...] = (
    (ChunkReason.JUMP, _jump_fault),
    (ChunkReason.VELOCITY_LIMIT, _velocity_fault),
    (ChunkReason.POSITION_LIMIT, _position_fault),
)
