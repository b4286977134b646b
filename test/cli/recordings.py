"""A run of the shipped model on its arm, and bags of it, for the tests of the commands that read bags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from clocked import run_clocked

from vla_align_ros.bench.reach2.bench import BENCH
from vla_align_ros.bench.reach2.embodiment import Embodiments
from vla_align_ros.bench.robot import CHUNK_TOPIC, JOINTS_TOPIC, PROMPT_TOPIC, SimulatedRobot, topics_of
from vla_align_ros.experience.recorder import BagRecorder
from vla_align_ros.observation.codecs import JOINT_TRAJECTORY
from vla_align_ros.policy import load_policy
from vla_align_ros.zoo import find_model

T0 = 17_000_000_000 * 10**8
TOPICS = {**topics_of(BENCH.robot), CHUNK_TOPIC: JOINT_TRAJECTORY}
TYPES = {
    f"/{topic.lstrip('/')}": kind for topic, kind in {**topics_of(BENCH.robot), CHUNK_TOPIC: JOINT_TRAJECTORY}.items()
}
BASE, JOINTS, PROMPT, COMMANDS = (
    f"/{topic.lstrip('/')}" for topic in (BENCH.robot.cameras["base_0_rgb"], JOINTS_TOPIC, PROMPT_TOPIC, CHUNK_TOPIC)
)

Sent = tuple[str, int, bytes]


def run_of(
    arm: Embodiments | None = None, seconds: float = 12.0, episode_s: float = 60.0, latency_s: float = 0.05
) -> list[Sent]:
    """What was sent on each topic, with its stamp; a prompt at the start of each episode."""
    sent: list[Sent] = []
    robot = SimulatedRobot(BENCH, arm or BENCH.embodiment(0), T0, 3, image_size=64, episode_s=episode_s)
    run_clocked(
        load_policy(find_model("tiny"), "cpu"),
        robot,
        seconds,
        latency_s=latency_s,
        tap=lambda message: sent.append((f"/{message.topic.lstrip('/')}", message.stamp_ns, message.raw)) or message,
    )
    return sorted(sent, key=lambda item: item[1])


def record(path: Path, run: Sequence[Sent], late_ns: int = 0, names: Mapping[str, str] | None = None) -> Path:
    """Into a bag, received `late_ns` after the stamps, under other topic names."""
    renamed = {topic: (names or {}).get(topic, topic) for topic in TYPES if any(item[0] == topic for item in run)}
    with BagRecorder(path, {name: TYPES[topic] for topic, name in renamed.items()}) as recorder:
        for topic, stamp_ns, raw in run:
            recorder.write(renamed[topic], raw, stamp_ns + late_ns)
    return path
