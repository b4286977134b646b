"""What goes out of the node: the whole chunk on `~/action_chunk`, and each command group to its controller."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from rclpy.duration import Duration
from rclpy.lifecycle import LifecyclePublisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.timer import Timer
from rclpy.topic_endpoint_info import TopicEndpointInfo
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from vla_align_ros.action.groups import PositionStream, group_trajectory
from vla_align_ros.observation.codecs import JOINT_TRAJECTORY, POSITIONS, encode_trajectory
from vla_align_ros.robot.description import CommandGroup
from vla_align_ros.ros.diagnostics import CommandStatus
from vla_align_ros.ros.inputs import who
from vla_align_ros.ros.lifecycle import SafeLifecycleNode
from vla_align_ros.ros.steady import STEADY
from vla_align_ros.types import Trajectory

OUTPUT_TOPIC = "~/action_chunk"
# The newest command only, and to nobody who comes later. DDS's own default for a publisher is transient local: an old
# motion would be carried out by a controller that starts.
COMMAND_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE)
REPEAT_S = 0.2  # a datagram that got lost would be noticed by DDS's next heartbeat, after up to 3 s
POLL_S = 0.005
_TYPE = {JointTrajectory: JOINT_TRAJECTORY, Float64MultiArray: POSITIONS}


class Commands:
    """Lifecycle publishers: nothing leaves a node that is not active. Thread-safe.

    A stream's timer runs on steady time; the positions that it sends are those that are due by the node's clock.
    """

    def __init__(
        self,
        node: SafeLifecycleNode,
        groups: Sequence[CommandGroup],
        period_ns: int,
        now_ns: Callable[[], int],
        own_ears: str,
    ) -> None:
        """period_ns: of control. now_ns: reads the node's clock. own_ears: full name of the node that listens for other
        commands on the same topics, and moves no robot."""
        self._node, self._now_ns, self._own_ears = node, now_ns, own_ears
        self._whole = node.create_lifecycle_publisher(JointTrajectory, OUTPUT_TOPIC, COMMAND_QOS)
        self._parts: list[tuple[CommandGroup, LifecyclePublisher]] = []
        self._streams: list[tuple[PositionStream, LifecyclePublisher]] = []
        self._timers: list[Timer] = []
        self._lock = threading.Lock()  # no position may go out behind a hold
        for group in groups:
            if group.type == "joint_trajectory":
                publisher = node.create_lifecycle_publisher(JointTrajectory, group.topic, COMMAND_QOS)
                self._parts.append((group, publisher))
            else:
                publisher = node.create_lifecycle_publisher(Float64MultiArray, group.topic, COMMAND_QOS)
                self._add_stream(PositionStream(group, period_ns), publisher, group.stream_rate_hz)
        self._publishers = [self._whole, *(publisher for _, publisher in (*self._parts, *self._streams))]
        self._newest: dict[LifecyclePublisher, bytes | Float64MultiArray] = {}

    def _add_stream(self, stream: PositionStream, publisher: LifecyclePublisher, rate_hz: float) -> None:
        def tick() -> None:
            with self._lock:
                self._send_due(stream, publisher)

        self._streams.append((stream, publisher))
        self._timers.append(self._node.create_timer(1.0 / rate_hz, tick, clock=STEADY))

    def publish(self, raw: bytes, trajectory: Trajectory) -> None:
        """A trajectory over all commanded joints, and what it is on the wire: to all at once."""
        with self._lock:
            self._send(self._whole, raw)
            for group, publisher in self._parts:
                self._send(publisher, encode_trajectory(group_trajectory(trajectory, group)))
            for stream, publisher in self._streams:
                stream.put(trajectory)
                self._send_due(stream, publisher)

    def stop(self) -> None:
        """No stream sends before the next trajectory."""
        with self._lock:
            for stream, _ in self._streams:
                stream.stop()

    def wait_until_heard(self, timeout_s: float) -> list[str]:
        """Wait until all who listen have acknowledged the newest commands, which are sent again to those who have not.
        The topics where somebody has not in time. For what must arrive: a publisher that is freed, or whose process
        ends, takes along what is still on its way."""
        deadline_s, unheard = time.monotonic() + timeout_s, []
        with self._lock:
            newest = list(self._newest.items())
        for publisher, message in newest:
            repeat_s = time.monotonic() + REPEAT_S
            # Asked without a timeout: rclpy would wait with Python's lock held.
            while not publisher.wait_for_all_acked(Duration(seconds=0)):
                now_s = time.monotonic()
                if now_s > deadline_s:
                    unheard.append(publisher.topic_name)
                    break
                if now_s > repeat_s:
                    publisher.publish(message)
                    repeat_s = now_s + REPEAT_S
                time.sleep(POLL_S)
        return unheard

    def close(self) -> None:
        """Free publishers and timers."""
        self.stop()
        for timer in self._timers:
            self._node.destroy_timer(timer)
        for publisher in self._publishers:
            self._node.destroy_lifecycle_publisher(publisher)

    def status(self) -> CommandStatus:
        """Who hears each command group; of a robot without any, the whole chunk."""
        found = [self._heard(publisher) for publisher in self._publishers[1:] or self._publishers]
        return CommandStatus("; ".join(filter(None, (problem for _, _, problem in found))), {t: v for t, v, _ in found})

    def _heard(self, publisher: LifecyclePublisher) -> tuple[str, str, str]:
        """A topic, its type and who hears it, and what is wrong with that."""
        topic, kind = publisher.topic_name, _TYPE[publisher.msg_type]
        there = [info for info in self._node.get_subscriptions_info_by_topic(topic) if who(info) != self._own_ears]
        hearing = [info for info in there if _misfit(info, kind) == ""]
        if hearing:
            return topic, f"{kind}, heard by {', '.join(sorted(map(who, hearing)))}", ""
        problem = "; ".join(f"{who(info)} on {topic} {_misfit(info, kind)}" for info in there)
        nobody = f"nobody hears {topic}: does its controller run, and is the topic called so?"
        return topic, f"{kind}, heard by nobody", problem or nobody

    def _send_due(self, stream: PositionStream, publisher: LifecyclePublisher) -> None:
        positions = stream.due(self._now_ns())
        if positions is not None:
            self._send(publisher, Float64MultiArray(data=positions.tolist()))

    def _send(self, publisher: LifecyclePublisher, message: bytes | Float64MultiArray) -> None:
        publisher.publish(message)
        self._newest[publisher] = message


def _misfit(info: TopicEndpointInfo, kind: str) -> str:
    """Why this subscription does not hear messages of `kind`; empty when it does."""
    if info.topic_type != kind:
        return f"expects {info.topic_type}, the commands are {kind}: is the group's type right?"
    latched = info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    return "hears nothing: it asks for latched messages (transient local), and commands are volatile" if latched else ""
