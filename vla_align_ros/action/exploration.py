"""Random motion inside the limits: what alignment learns most from, and what a bench may do but no robot at work.

A motion keeps one velocity for a whole horizon, over the seams of the chunks that carry it, since two observations a
horizon apart can tell how far a command moved the robot, but not in which order several commands did.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SPEED_MAX_RAD_S, JITTER_RAD_S, CLIP_RAD_S = 1.4, 0.15, 2.25


def motion(count: int, ticks: int, rng: np.random.Generator, num_joints: int = 2) -> NDArray[np.float64]:
    """Velocities (count, ticks, joints) in rad/s: a random one for each joint, plus jitter on every tick."""
    return _jitter(_velocity(count, num_joints, rng), ticks, rng)


def _velocity(count: int, num_joints: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.uniform(-SPEED_MAX_RAD_S, SPEED_MAX_RAD_S, (count, 1, num_joints))


def _jitter(velocity: NDArray[np.float64], ticks: int, rng: np.random.Generator) -> NDArray[np.float64]:
    noise = JITTER_RAD_S * rng.standard_normal((len(velocity), ticks, velocity.shape[2]))
    return np.clip(velocity + noise, -CLIP_RAD_S, CLIP_RAD_S)


class Exploration:
    """Chunks of random motion for `count` robots; a motion lasts as many chunks as a horizon needs."""

    def __init__(self, count: int, horizon: int, execute: int, num_joints: int, rng: np.random.Generator) -> None:
        self._horizon, self._rng, self._lasts = horizon, rng, -(-horizon // execute)
        self._velocity = np.zeros((count, 1, num_joints))
        self._chunks_left = np.zeros(count, np.int64)
        self._exploring = np.zeros(count, bool)

    def chunk(self, fraction: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The next chunk (count, horizon, joints) in rad/s, and which robots explore now, (count,).

        fraction: share of the time that is random motion, 0 to 1.
        """
        due = self._chunks_left == 0
        count, _, joints = self._velocity.shape
        self._velocity = np.where(due[:, None, None], _velocity(count, joints, self._rng), self._velocity)
        self._exploring = np.where(due, self._rng.random(count) < fraction, self._exploring)
        self._chunks_left = np.where(due, self._lasts, self._chunks_left) - 1
        return _jitter(self._velocity, self._horizon, self._rng), self._exploring
