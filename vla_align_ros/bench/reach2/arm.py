"""Kinematics of the two-joint arm and what a commanded velocity does to it. Angles rad, lengths m, n arms at once."""

from __future__ import annotations

import numpy as np

from vla_align_ros.bench.reach2.embodiment import Embodiments, FloatArray

PERIOD_S = 0.1  # one control tick
PERIOD_NS = round(PERIOD_S * 1e9)
JOINT_NAMES = ("shoulder", "elbow")
EXPLORATION_RAD_S = np.array([1.4, 1.4])  # largest speed of random motion
JOINT_MIN_RAD = np.array([-1.9, 0.25])  # hard stops, in true angles
JOINT_MAX_RAD = np.array([1.9, 2.6])


def forward_kinematics(link_m: FloatArray, angle_rad: FloatArray) -> tuple[FloatArray, FloatArray]:
    """True angles (n, 2) -> elbow and tip, each (n, 2) in m, base at the origin."""
    first, second = angle_rad[:, 0], angle_rad.sum(axis=1)
    elbow = link_m[:, :1] * np.stack([np.cos(first), np.sin(first)], axis=1)
    return elbow, elbow + link_m[:, 1:] * np.stack([np.cos(second), np.sin(second)], axis=1)


def inverse_kinematics(link_m: FloatArray, point_m: FloatArray) -> FloatArray:
    """Angles (n, 2) that put the tip at `point_m` (n, 2), elbow angle positive; nearest pose when out of reach."""
    a, b = link_m[:, 0], link_m[:, 1]
    cosine = ((point_m**2).sum(axis=1) - a**2 - b**2) / (2 * a * b)
    elbow = np.arccos(np.clip(cosine, -1.0, 1.0))
    shoulder = np.arctan2(point_m[:, 1], point_m[:, 0]) - np.arctan2(b * np.sin(elbow), a + b * np.cos(elbow))
    return np.stack([shoulder, elbow], axis=1)


def within_stops(angle_rad: FloatArray) -> FloatArray:
    """Angles (n, 2) clipped to the hard stops."""
    return np.clip(angle_rad, JOINT_MIN_RAD, JOINT_MAX_RAD)


def encoder_reading(arms: Embodiments, angle_rad: FloatArray) -> FloatArray:
    """What the joint encoders say at true angles (n, 2)."""
    return angle_rad + arms.offset_rad


def move(
    arms: Embodiments,
    angle_rad: FloatArray,
    command: FloatArray,
    last_command: FloatArray,
    duration_s: float = PERIOD_S,
) -> FloatArray:
    """True angles after a tick with the commanded velocity (n, 2) in rad/s, through gains, signs and delay.

    The command of the tick before still acts for the first `delay_s` of the tick.
    """
    late = (arms.delay_s / PERIOD_S)[:, None]
    return within_stops(angle_rad + duration_s * arms.gain * ((1 - late) * command + late * last_command))


def move_chunk(arms: Embodiments, angle_rad: FloatArray, commands: FloatArray, last_command: FloatArray) -> FloatArray:
    """True angles after all commands (n, ticks, 2)."""
    for tick in range(commands.shape[1]):
        angle_rad = move(arms, angle_rad, commands[:, tick], last_command)
        last_command = commands[:, tick]
    return angle_rad
