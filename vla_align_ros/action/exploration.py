"""Smooth random motion inside the limits: what alignment learns most from, and what a bench may do but no robot at
work.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SPEED_MAX_RAD_S, JITTER_RAD_S, CLIP_RAD_S = 1.95, 0.22, 2.25


def exploration_chunk(count: int, horizon: int, rng: np.random.Generator, num_joints: int = 2) -> NDArray[np.float64]:
    """Velocities (count, horizon, joints) in rad/s: a line between two random ones, plus jitter."""
    start, end = (rng.uniform(-SPEED_MAX_RAD_S, SPEED_MAX_RAD_S, (count, 1, num_joints)) for _ in range(2))
    ramp = np.linspace(0.0, 1.0, horizon)[None, :, None]
    noise = JITTER_RAD_S * rng.standard_normal((count, horizon, num_joints))
    return np.clip(start * (1 - ramp) + end * ramp + noise, -CLIP_RAD_S, CLIP_RAD_S)
