"""Moments of a bag, with the motion that the policy plans in them before and after the alignment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vla_align_ros.action.trajectory import to_trajectory
from vla_align_ros.bench.reach2.embodiment import Embodiments
from vla_align_ros.demo.report import AFTER_RGB, BEFORE_RGB, draw_scene, draw_way
from vla_align_ros.experience.bag import push_sensed
from vla_align_ros.experience.bag_topics import bag_topics
from vla_align_ros.experience.recording import bag_messages
from vla_align_ros.observation.assemble import ObservationRefused
from vla_align_ros.observation.codecs import MessageRefused, decode_trajectory
from vla_align_ros.params import PolicyParams
from vla_align_ros.policy import Policy
from vla_align_ros.runtime import make_assembler
from vla_align_ros.types import Observation

COUNT = 9


def planned_motion(
    policy: Policy, bag: Path, params: PolicyParams, arm: Embodiments, tokens: tuple[torch.Tensor, torch.Tensor]
) -> list[NDArray[np.uint8]]:
    """Up to COUNT pictures, spread evenly over the chunks of the bag. tokens: before and after."""
    seen = _observed(policy, bag, params)
    chosen = [seen[index] for index in np.linspace(0, len(seen) - 1, min(COUNT, len(seen))).astype(int)]
    pictures = [draw_scene(observation) for observation in chosen]
    for token, colour in zip(tokens, (BEFORE_RGB, AFTER_RGB), strict=True):
        policy.swap_token(token)
        for picture, observation in zip(pictures, chosen, strict=True):
            chunk = policy.infer(observation, torch.Generator().manual_seed(0))
            robot = policy.config.robot
            draw_way(picture, observation, to_trajectory(chunk, robot, 1), arm, colour)
    return pictures


def _observed(policy: Policy, bag: Path, params: PolicyParams) -> Sequence[Observation]:
    """What the policy saw when it sent each chunk of the bag."""
    assembler = make_assembler(policy, params)
    topics = bag_topics(policy.config.robot)
    seen = []
    for message in bag_messages(bag):
        try:
            if message.topic != topics.command:
                push_sensed(message, topics, assembler)
            else:
                trajectory = decode_trajectory(message.raw, policy.config.robot.action_joints)
                seen.append(assembler.observe(trajectory.start_ns(message.t_ns)))
        except (MessageRefused, ObservationRefused):
            continue  # as live: the policy had no use for it either
    return seen
