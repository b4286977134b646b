"""The task: three coloured targets, a prompt that names one, a scripted expert that reaches it, and random motion."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.action.exploration import CLIP_SHARE
from vla_align_ros.bench.reach2.arm import (
    EXPLORATION_RAD_S,
    JOINT_MAX_RAD,
    JOINT_MIN_RAD,
    PERIOD_S,
    forward_kinematics,
    inverse_kinematics,
    move,
    within_stops,
)
from vla_align_ros.bench.reach2.camera import Scene
from vla_align_ros.bench.reach2.embodiment import Embodiments, FloatArray

COLOURS = ("red", "green", "blue", "yellow")
TEMPLATES = ("reach the {} target", "move to the {} disc", "go to the {} one", "touch {}")
ALL_PROMPTS = tuple(template.format(colour) for template in TEMPLATES for colour in COLOURS)
NUM_TARGETS = 3
SUCCESS_M = 0.10  # distance of the tip from the target that counts as reached
EPISODE_TICKS = 48
_SPEED_MAX_RAD_S = 1.275
_GAIN_HZ = 3.0


def prompts(target_colour: NDArray[np.int64], rng: np.random.Generator) -> list[str]:
    """A sentence for each colour index (n,)."""
    picked = rng.integers(0, len(TEMPLATES), len(target_colour))
    return [TEMPLATES[template].format(COLOURS[colour]) for template, colour in zip(picked, target_colour, strict=True)]


def sample_scene(count: int, rng: np.random.Generator) -> Scene:
    """Targets within reach of every arm, at least 0.2 m apart, in different colours; target 0 is the one asked for."""
    targets = np.zeros((count, NUM_TARGETS, 2))
    for index in range(NUM_TARGETS):
        todo = np.ones(count, bool)
        while todo.any():
            radius, angle = rng.uniform(0.38, 0.72, todo.sum()), rng.uniform(-1.1, 1.1, todo.sum())
            targets[todo, index] = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
            if index == 0:
                break
            todo = np.linalg.norm(targets[:, :index] - targets[:, index : index + 1], axis=-1).min(axis=1) < 0.2
    colours = np.argsort(rng.random((count, len(COLOURS))), axis=1)[:, :NUM_TARGETS]
    background = rng.uniform(70, 170, (count, 1)) + rng.uniform(-15, 15, (count, 3))
    return Scene(targets, colours, background)


def sample_pose(count: int, rng: np.random.Generator) -> FloatArray:
    """True angles (n, 2) anywhere between the stops."""
    return rng.uniform(JOINT_MIN_RAD, JOINT_MAX_RAD, (count, 2))


def distance_m(arms: Embodiments, angle_rad: FloatArray, scene: Scene) -> FloatArray:
    """Tip to the target that was asked for, (n,)."""
    _, tip = forward_kinematics(arms.link_m, angle_rad)
    distance: FloatArray = np.linalg.norm(tip - scene.targets_m[:, 0], axis=1)
    return distance


def expert_chunk(
    arms: Embodiments, angle_rad: FloatArray, last_command: FloatArray, scene: Scene, horizon: int
) -> FloatArray:
    """Commanded velocities (n, horizon, 2) in rad/s by which this very arm reaches its target and stops there."""
    goal = inverse_kinematics(arms.link_m, scene.targets_m[:, 0])
    commands = []
    for _ in range(horizon):
        velocity = np.clip(_GAIN_HZ * (goal - angle_rad), -_SPEED_MAX_RAD_S, _SPEED_MAX_RAD_S)
        commands.append(velocity / arms.gain)
        angle_rad = move(arms, angle_rad, commands[-1], last_command)
        last_command = commands[-1]
    return np.stack(commands, axis=1)


def perturbed(commands: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Commands (n, horizon, 2) with noise on every tick and, for half of the rows, a constant push."""
    count = len(commands)
    push = 0.45 * rng.standard_normal((count, 1, 2)) * (rng.random((count, 1, 1)) < 0.5)
    noisy = commands + 0.15 * rng.standard_normal(commands.shape) + push
    return np.clip(noisy, -CLIP_SHARE * EXPLORATION_RAD_S, CLIP_SHARE * EXPLORATION_RAD_S)


def training_pose(arms: Embodiments, scene: Scene, rng: np.random.Generator) -> FloatArray:
    """True angles as they occur: half anywhere, half nearer to the goal, a few hundredths of noise; and some at a stop,
    where a robot whose token does not fit yet is often found."""
    count = len(arms)
    goal = inverse_kinematics(arms.link_m, scene.targets_m[:, 0])
    anywhere = sample_pose(count, rng)
    anywhere += 0.15 * (anywhere - (JOINT_MIN_RAD + JOINT_MAX_RAD) / 2)
    away = np.where(rng.random(count) < 0.5, 1.0, rng.random(count) ** 1.5)[:, None]
    return within_stops(goal + away * (anywhere - goal) + 0.03 * rng.standard_normal((count, 2)))


__all__ = [
    "COLOURS",
    "EPISODE_TICKS",
    "PERIOD_S",
    "SUCCESS_M",
    "distance_m",
    "expert_chunk",
    "perturbed",
    "prompts",
    "sample_pose",
    "sample_scene",
    "training_pose",
]
