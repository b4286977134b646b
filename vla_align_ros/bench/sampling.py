"""A policy put before many arms of a bench at once, each with a token of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vla_align_ros.bench.port import Arms, Bench, Embodiment, Episodes
from vla_align_ros.policy import Policy, PolicyError
from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.types import Float32Array, Observation

BATCH = 256


def begin(policy: Policy, bench: Bench[Embodiment], arms: Arms[Embodiment], seed: int) -> Episodes:
    """Arms at the start of an episode, with pictures of the model's size. Raises PolicyError as `check_fits` does."""
    check_fits(policy, bench.robot)
    return bench.episodes(arms, seed, policy.model.architecture.vision.image_size)


def check_fits(policy: Policy, robot: RobotDescription) -> None:
    """Return when the policy can drive a robot of a bench; raise PolicyError otherwise."""
    model, cameras = policy.config.robot, set(policy.model.architecture.cameras)
    for what, has, wants in (
        ("state", robot.state_joints, model.state_joints),
        ("action", robot.action_joints, model.action_joints),
        ("kinds of action", tuple(robot.kinds), tuple(model.kinds)),
        ("control_rate_hz", robot.control_rate_hz, model.control_rate_hz),
        ("cameras", sorted(set(robot.cameras) & cameras), sorted(cameras)),
    ):
        if has != wants:
            raise PolicyError(
                f"the model {policy.config.name} is of another robot: {what} {wants}, the bench has {has}"
            )


def draw_noise(policy: Policy, count: int, seed: int) -> Tensor:
    """What `count` chunks are sampled from, (count, H, A)."""
    architecture, generator = policy.model.architecture, torch.Generator().manual_seed(seed)
    return torch.randn(count, architecture.action_horizon, architecture.action_dim, generator=generator)


def sample_chunks(
    policy: Policy, observations: Sequence[Observation], tokens: Tensor, noise: Tensor, num_steps: int | None = None
) -> Float32Array:
    """Chunks (n, H, A) for n observations, each with its own token (n, peft_num_tokens, W)."""
    parts = []
    for start in range(0, len(observations), BATCH):
        rows = slice(start, start + BATCH)
        inputs = policy.prepare(observations[rows])
        parts.append(policy.sample(inputs, noise[rows].to(policy.device), num_steps, tokens[rows]))
    return np.concatenate(parts)
