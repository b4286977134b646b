"""A made-up run: messages of two cameras, joints, prompts and chunks, with their stamps. For the tests beside it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from robots import a_robot

from vla_align_ros.action.trajectory import to_trajectory
from vla_align_ros.experience.bag import push_sensed
from vla_align_ros.experience.bag_topics import bag_topics
from vla_align_ros.experience.builder import ExperienceBuilder
from vla_align_ros.experience.recorder import BagRecorder
from vla_align_ros.experience.storage import BagMessage
from vla_align_ros.observation.assemble import AssemblerLimits, ObservationAssembler, ObservationRefused
from vla_align_ros.observation.codecs import (
    IMAGE,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    STRING,
    MessageRefused,
    encode_image,
    encode_joint_state,
    encode_string,
    encode_trajectory,
)
from vla_align_ros.robot.description import ActionKind, RobotDescription
from vla_align_ros.types import ActionChunk, Experience

MS = 1_000_000
PERIOD_NS = 100 * MS
T0 = 17_000_000_000 * PERIOD_NS  # a multiple of every stride used
HORIZON = 4
STRIDE = 2
LAG_S = 0.3
JOINTS = ("shoulder", "elbow")
JOINTS_TOPIC = "/joints"
ROBOT = a_robot(cameras={"base": "base/image", "wrist": "wrist/image"}, joint_states=[{"topic": "joints"}])
TOPICS = bag_topics(ROBOT, prompt="prompt", command="chunk")
TYPES = {
    **dict.fromkeys(TOPICS.cameras.values(), IMAGE),
    JOINTS_TOPIC: JOINT_STATE,
    TOPICS.prompt: STRING,
    TOPICS.command: JOINT_TRAJECTORY,
}


@dataclass(frozen=True)
class Sent:
    """A message as it left its publisher."""

    topic: str
    stamp_ns: int
    raw: bytes


def new_pipeline(
    action_kind: ActionKind = "velocity", robot: RobotDescription = ROBOT
) -> tuple[ObservationAssembler, ExperienceBuilder]:
    limits = AssemblerLimits(0.2, 0.1, frozen_s=1.0, history_s=2.0, stamp_ahead_max_s=0.2)
    assembler = ObservationAssembler(robot, tuple(TOPICS.cameras), 8, limits, check_prompt=str)
    return assembler, ExperienceBuilder(assembler, a_robot(action_kind), HORIZON, LAG_S, STRIDE)


def feed(assembler: ObservationAssembler, builder: ExperienceBuilder, sent: Sent, t_ns: int) -> None:
    """What a node's callbacks do with a message that arrives at `t_ns`."""
    with suppress(MessageRefused, ObservationRefused):
        if sent.topic == TOPICS.command:
            builder.push_command(sent.raw, t_ns)
        else:
            push_sensed(BagMessage(sent.topic, TYPES[sent.topic], t_ns, sent.raw), TOPICS, assembler)


def chunk_message(tick: int, first: float, horizon: int = 8) -> Sent:
    """A velocity chunk stamped at `tick` (counted from T0); its rows are first, first + 1, ..."""
    actions = first + np.arange(horizon, dtype=np.float32)[:, None] + np.array([0, 0.5], np.float32)
    stamp_ns = T0 + tick * PERIOD_NS
    chunk = ActionChunk(actions, np.zeros(2, np.float32), stamp_ns, PERIOD_NS)
    return Sent(TOPICS.command, stamp_ns, encode_trajectory(to_trajectory(chunk, a_robot(), 2)))


def sensor_messages(
    start_ms: int, end_ms: int, image_shape: tuple[int, int] = (8, 8), seed: int = 0, held_ms: range = range(0)
) -> list[Sent]:
    """Joints every 23 ms, each camera every 47 or 61 ms, noise in all of them; the joints move on all the time, but for
    those of `held_ms`."""
    rng = np.random.default_rng(seed)
    sent = []
    for topic, every_ms in ((JOINTS_TOPIC, 23), (TOPICS.cameras["base"], 47), (TOPICS.cameras["wrist"], 61)):
        for number, stamp_ns in enumerate(range(T0 + start_ms * MS, T0 + end_ms * MS, every_ms * MS)):
            if topic == JOINTS_TOPIC:
                moved = rng.normal(size=2) + 0.5 * number
                held = (stamp_ns - T0) // MS in held_ms
                raw = encode_joint_state(JOINTS, np.array([0.0, moved[1]]) if held else moved, stamp_ns)
            else:
                raw = encode_image(rng.integers(0, 256, (*image_shape, 3), dtype=np.uint8), stamp_ns)
            sent.append(Sent(topic, stamp_ns, raw))
    return sorted(sent, key=lambda message: message.stamp_ns)


def eventful_run(image_shape: tuple[int, int] = (8, 8)) -> list[Sent]:
    """Six seconds with a change of prompt, a pause of the policy, a camera that is away for a while, a bad message."""
    away = range(T0 + 4000 * MS, T0 + 4500 * MS)
    sensors = [
        sent
        for sent in sensor_messages(0, 6000, image_shape)
        if not (sent.topic == TOPICS.cameras["wrist"] and sent.stamp_ns in away)
    ]
    chunks = [chunk_message(tick, float(tick)) for tick in [*range(2, 22, 4), *range(36, 60, 4)]]
    prompts = [Sent(TOPICS.prompt, T0 + at * MS, encode_string(text)) for at, text in ((1, "red"), (1450, "blue"))]
    nan = Sent(JOINTS_TOPIC, T0 + 777 * MS, encode_joint_state(JOINTS, np.array([np.nan, 0]), T0 + 777 * MS))
    return sorted([*sensors, *chunks, *prompts, nan], key=lambda sent: sent.stamp_ns)


def record(path: Path, arrivals: Iterable[tuple[int, Sent]]) -> None:
    """Write (arrival time, message) pairs, in their order, as a recorder would."""
    with BagRecorder(path, TYPES, latched=[TOPICS.prompt]) as recorder:
        for t_ns, sent in arrivals:
            recorder.write(sent.topic, sent.raw, t_ns)


def same(one: Experience, other: Experience) -> bool:
    """Equal in every number."""
    return (
        one.episode == other.episode
        and np.array_equal(one.commands, other.commands)
        and all(
            a.stamp_ns == b.stamp_ns
            and a.prompt == b.prompt
            and np.array_equal(a.state, b.state)
            and a.images.keys() == b.images.keys()
            and all(np.array_equal(a.images[name], b.images[name]) for name in a.images)
            for a, b in ((one.observation, other.observation), (one.next_observation, other.next_observation))
        )
    )
