"""Policy and simulated robot in one closed loop on a simulated clock: the live system's bytes, no ROS.

robot -> messages -> assembler -> controller -> trajectory (bytes), `latency_s` later -> robot
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from vla_align_ros.action.limits import ChunkReason, ChunkRefused
from vla_align_ros.bench.robot import CHUNK_TOPIC, Episode, SimMessage, SimulatedRobot, topics_of
from vla_align_ros.bench.sampling import check_fits
from vla_align_ros.experience.bag import push_sensed
from vla_align_ros.experience.bag_topics import bag_topics
from vla_align_ros.experience.storage import BagMessage
from vla_align_ros.observation.assemble import ObservationReason, ObservationRefused
from vla_align_ros.observation.codecs import MessageRefused, encode_trajectory
from vla_align_ros.params import PolicyParams
from vla_align_ros.policy import Policy
from vla_align_ros.runtime import make_assembler, make_controller

Tap = Callable[[SimMessage], SimMessage | None]


@dataclass(frozen=True)
class ClockedRun:
    """What came of it. distance_m: to the target, at the end. episodes: those that ended. refused: why no chunk."""

    distance_m: float
    episodes: tuple[Episode, ...]
    chunks: int
    late_chunks: int
    refused: Counter[ObservationReason | ChunkReason]


def run_clocked(
    policy: Policy,
    robot: SimulatedRobot,
    seconds: float,
    *,
    latency_s: float = 0.05,
    seed: int = 0,
    tap: Tap | None = None,
) -> ClockedRun:
    """Let `policy` (with its running token) control `robot` for `seconds` of the robot's time.

    latency_s: from a control tick to the arrival of its chunk. seed: of the sampling noise. tap: sees every message,
    the chunks (CHUNK_TOPIC) too, and says what arrives in its place; None is a lost message. PolicyError: the model is
    of another robot.
    """
    check_fits(policy, robot.description)
    params = PolicyParams()
    assembler = make_assembler(policy, params)
    controller = make_controller(policy, replace(params, seed=seed), assembler)
    refused: Counter[ObservationReason | ChunkReason] = Counter()
    period_ns, latency_ns = controller.period_ns, round(latency_s * 1e9)
    end_ns = robot.now_ns + round(seconds * 1e9)
    first_episode, chunks = len(robot.episodes), 0

    topics, kinds = bag_topics(robot.description, str), topics_of(robot.description)

    def hear(messages: list[SimMessage]) -> None:
        """What a node's callbacks do."""
        for message in messages:
            arrived = message if tap is None else tap(message)
            if arrived is not None:
                sensed = BagMessage(arrived.topic, kinds[arrived.topic], message.stamp_ns, arrived.raw)
                with suppress(MessageRefused, ObservationRefused):  # the assembler counts what it refuses
                    push_sensed(sensed, topics, assembler)

    def made() -> int:
        """Time goes on while a chunk is made."""
        now_ns = min(robot.now_ns + latency_ns, end_ns)
        hear(robot.advance(now_ns))
        return now_ns

    hear([robot.prompt_message()])
    tick_ns = -(-robot.now_ns // period_ns) * period_ns
    while tick_ns < end_ns:
        hear(robot.advance(tick_ns))
        if controller.tick(tick_ns) is not None:
            try:
                published = controller.make(tick_ns, policy.config.recommended.num_steps, 0.0, made)
            except (ObservationRefused, ChunkRefused) as error:
                refused[error.reason] += 1
            else:
                sent = SimMessage(CHUNK_TOPIC, tick_ns, encode_trajectory(published.trajectory))
                arrived = sent if tap is None else tap(sent)
                if arrived is not None:
                    robot.receive(arrived.raw)
                controller.sent(published, robot.now_ns)
                chunks += 1
        tick_ns = robot.now_ns // period_ns * period_ns + period_ns
    hear(robot.advance(end_ns))
    return ClockedRun(robot.body.distance_m(), tuple(robot.episodes[first_episode:]), chunks, controller.late, refused)
