"""Moments of a bag, with the motion that was planned in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.alignment.offline import bag_topics
from vla_align_ros.demo.report import draw_plan
from vla_align_ros.experience.bag import bag_messages, push_sensed
from vla_align_ros.observation.assemble import ObservationRefused
from vla_align_ros.observation.codecs import MessageRefused, decode_trajectory
from vla_align_ros.params import PolicyParams
from vla_align_ros.policy import Policy
from vla_align_ros.runtime import make_assembler
from vla_align_ros.sim.embodiment import Embodiments

COUNT = 9


def planned_motion(policy: Policy, bag: Path, params: PolicyParams, arm: Embodiments) -> list[NDArray[np.uint8]]:
    """Up to COUNT pictures, spread evenly over the chunks of the bag."""
    assembler = make_assembler(policy, params)
    topics = bag_topics(policy, "/joint_states", "/vla_policy/prompt", "/vla_policy/action_chunk")
    pictures = []
    for message in bag_messages(bag):
        try:
            if message.topic != topics.chunk:
                push_sensed(message, topics, assembler)
            else:
                trajectory = decode_trajectory(message.raw, policy.config.robot.joint_names)
                pictures.append(draw_plan(assembler.observe(trajectory.stamp_ns), trajectory, arm))
        except (MessageRefused, ObservationRefused):
            continue  # as live: the policy had no use for it either
    chosen = np.linspace(0, len(pictures) - 1, min(COUNT, len(pictures))).astype(int)
    return [pictures[index] for index in chosen]
