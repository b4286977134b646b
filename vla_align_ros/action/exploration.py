"""Random motion inside the limits: what alignment learns most from, and what a bench may do but no robot at work.

A motion keeps one velocity for a whole horizon, over the seams of the chunks that carry it, since two observations a
horizon apart can tell how far a command moved the robot, but not in which order several commands did.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.types import Float64Array

JITTER_SHARE: Final = 0.15 / 1.4  # of the largest speed: standard deviation of what each tick adds to the velocity
CLIP_SHARE: Final = 2.25 / 1.4  # of the largest speed: no tick goes beyond it


def motion(count: int, ticks: int, rng: np.random.Generator, speed: Float64Array) -> Float64Array:
    """Velocities (count, ticks, A): a random one for each joint up to `speed` (A,), plus jitter on every tick."""
    return _jitter(_velocity(count, rng, speed), ticks, rng, speed)


def _velocity(count: int, rng: np.random.Generator, speed: Float64Array) -> Float64Array:
    return rng.uniform(-speed, speed, (count, 1, len(speed)))


def _jitter(velocity: Float64Array, ticks: int, rng: np.random.Generator, speed: Float64Array) -> Float64Array:
    noise = JITTER_SHARE * speed * rng.standard_normal((len(velocity), ticks, len(speed)))
    return np.clip(velocity + noise, -CLIP_SHARE * speed, CLIP_SHARE * speed)


class Exploration:
    """Chunks of random motion for `count` robots; a motion lasts as many chunks as a horizon needs.

    speed: (A,) the largest speed of each commanded joint.
    """

    def __init__(self, count: int, horizon: int, execute: int, speed: Float64Array, rng: np.random.Generator) -> None:
        self._horizon, self._speed, self._rng, self._lasts = horizon, speed, rng, -(-horizon // execute)
        self._velocity = np.zeros((count, 1, len(speed)))
        self._chunks_left = np.zeros(count, np.int64)
        self._exploring = np.zeros(count, bool)

    def chunk(self, fraction: float) -> tuple[Float64Array, NDArray[np.bool_]]:
        """The next chunk (count, horizon, A) of velocities, and which robots explore now, (count,).

        fraction: share of the time that is random motion, 0 to 1.
        """
        due = self._chunks_left == 0
        fresh = _velocity(len(due), self._rng, self._speed)
        self._velocity = np.where(due[:, None, None], fresh, self._velocity)
        self._exploring = np.where(due, self._rng.random(len(due)) < fraction, self._exploring)
        self._chunks_left = np.where(due, self._lasts, self._chunks_left) - 1
        return _jitter(self._velocity, self._horizon, self._rng, self._speed), self._exploring


def exploring_actions(
    velocities: Float64Array, start: Float64Array, robot: RobotDescription, ramp_ticks: int
) -> Float64Array:
    """Velocities (H, A) from the positions `start` (A,) as actions (H, A) of the robot's kinds, inside its limits: a
    joint that would come too near to an end of its range turns round, also where it rests at one, and one between two
    ends stays."""
    period_s, ends = robot.period_ns * 1e-9, np.array([joint.position for joint in robot.action_limits])
    low, high = np.minimum(ends[:, 0], start), np.maximum(ends[:, 1], start)
    velocities = np.clip(velocities, -robot.velocity_max, robot.velocity_max)
    for turned in (-velocities, np.zeros_like(velocities)):
        way = np.cumsum(np.vstack([velocities, velocities[-1] * ramp_ticks]), axis=0) * period_s  # braking included
        outside = (start + way.min(0) < low) | (start + way.max(0) > high)
        velocities = np.where(outside, turned, velocities)
    way = np.cumsum(velocities, axis=0) * period_s
    goal = way + np.where(robot.kinds == "position", start, 0.0)
    return np.where(robot.kinds == "velocity", velocities, goal)
