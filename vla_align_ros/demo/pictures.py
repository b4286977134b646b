"""Moments of a bag as the cameras saw them, with the motion that the policy plans in them before and after the
alignment, and the one that followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vla_align_ros.action.trajectory import to_trajectory
from vla_align_ros.bench.port import Bench, Embodiment, FloatArray
from vla_align_ros.experience.bag import push_sensed
from vla_align_ros.experience.bag_topics import bag_topics
from vla_align_ros.experience.recording import bag_messages
from vla_align_ros.observation.assemble import ObservationRefused
from vla_align_ros.observation.codecs import MessageRefused, decode_trajectory
from vla_align_ros.params import PolicyParams
from vla_align_ros.policy import Policy
from vla_align_ros.runtime import make_assembler
from vla_align_ros.types import Observation, UInt8Array

COUNT = 9
PICTURE_PX = 320
Colour = tuple[int, int, int]
BEFORE_RGB: Colour = (255, 150, 0)
AFTER_RGB: Colour = (255, 0, 255)
FOLLOWED_RGB: Colour = (0, 220, 220)


@dataclass(frozen=True)
class Moment:
    """What the policy saw when it sent a chunk, and what the encoders said while that lasted, (K, S)."""

    observation: Observation
    followed: FloatArray


def planned_motion(
    policy: Policy,
    bag: Path,
    params: PolicyParams,
    bench: Bench[Embodiment],
    arm: Embodiment,
    tokens: tuple[torch.Tensor, torch.Tensor],
) -> list[UInt8Array]:
    """Up to COUNT pictures, spread evenly over the chunks of the bag, of all cameras side by side. tokens: before and
    after."""
    seen = moments(policy, bag, params)
    chosen = [seen[index] for index in np.linspace(0, len(seen) - 1, min(COUNT, len(seen))).astype(int)]
    ways = [[(FOLLOWED_RGB, moment.followed)] for moment in chosen]
    for token, colour in zip(tokens, (BEFORE_RGB, AFTER_RGB), strict=True):
        policy.swap_token(token)
        for moment, drawn in zip(chosen, ways, strict=True):
            chunk = policy.infer(moment.observation, torch.Generator().manual_seed(0))
            trajectory, now = to_trajectory(chunk, policy.config.robot, 1), moment.observation.state.astype(np.float64)
            drawn.append((colour, bench.carried_out(arm, now, trajectory)))
    return [draw(bench, arm, moment.observation, drawn) for moment, drawn in zip(chosen, ways, strict=True)]


def moments(policy: Policy, bag: Path, params: PolicyParams) -> list[Moment]:
    """One a chunk of the bag."""
    robot, assembler = policy.config.robot, make_assembler(policy, params)
    topics, span_ns = bag_topics(robot), policy.model.architecture.action_horizon * robot.period_ns
    seen: list[Observation] = []
    read: list[tuple[int, NDArray[np.floating]]] = []
    for message in bag_messages(bag):
        try:
            if message.topic != topics.command:
                push_sensed(message, topics, assembler)
                read.append((message.t_ns, assembler.measured(message.t_ns)))
            else:
                trajectory = decode_trajectory(message.raw, robot.action_joints)
                seen.append(assembler.observe(trajectory.start_ns(message.t_ns)))
        except (MessageRefused, ObservationRefused):
            continue  # as live: the policy had no use for it either
    times_ns, states = np.array([t_ns for t_ns, _ in read]), np.array([state for _, state in read], np.float64)
    found = []
    for observation in seen:
        first, last = np.searchsorted(times_ns, [observation.stamp_ns, observation.stamp_ns + span_ns])
        found.append(Moment(observation, np.concatenate([observation.state[None], states[first:last]])))
    return found


def draw(
    bench: Bench[Embodiment],
    arm: Embodiment,
    observation: Observation,
    ways: Sequence[tuple[Colour, FloatArray]],
) -> UInt8Array:
    """Each camera's picture, enlarged, with the ways of the tip (colour, readings), and the prompt below."""
    panels, now = [], observation.state.astype(np.float64)
    for camera, seen in observation.images.items():
        panel = cv2.resize(seen, (PICTURE_PX, PICTURE_PX), interpolation=cv2.INTER_NEAREST)
        for colour, readings in ways:
            places = bench.tips_in_picture(arm, camera, now, readings) * PICTURE_PX
            way = np.clip(places, -9 * PICTURE_PX, 9 * PICTURE_PX).astype(np.int32)
            cv2.polylines(panel, [way.reshape(-1, 1, 2)], False, colour, 2, cv2.LINE_AA)
            cv2.circle(panel, (int(way[-1, 0]), int(way[-1, 1])), 5, colour, -1, cv2.LINE_AA)
        panels.append(panel)
    picture = np.concatenate(panels, axis=1)
    corner = (8, PICTURE_PX - 10)
    cv2.putText(picture, observation.prompt, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255,) * 3, 1, cv2.LINE_AA)
    return np.asarray(picture, np.uint8)
