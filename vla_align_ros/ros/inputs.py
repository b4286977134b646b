"""One topic that the policy listens to: raw subscriptions of the type that is published, and why nothing comes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from rclpy.clock import ROSClock
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo

from vla_align_ros.observation.assemble import ObservationRefused
from vla_align_ros.observation.codecs import MessageRefused
from vla_align_ros.ros.steady import THROTTLED

Receive = Callable[[bytes, str, int, int], None]
"""(a message's bytes, its type's name, when it was sent in ns since 1970, when it came in ns of the node's clock)."""
REMEMBERED = 16  # messages, to know one again that came through another subscription


def who(info: TopicEndpointInfo) -> str:
    """The full name of the node that has a publisher or a subscription."""
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


class Input:
    """Bytes of one topic, after remapping, in whichever of several message types it is published.

    problem: why something or all of the topic does not arrive, in a sentence; empty when all is well.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        topic: str,
        kinds: Mapping[str, type],
        profiles: Sequence[QoSProfile],
        receive: Receive,
        expected: bool = True,
    ) -> None:
        """name: for people, as `camera base_0_rgb`. kinds: type name -> class of what can be read; the first is
        subscribed where neither the graph nor the topic's name tells. profiles: one subscription each, so that
        publishers which no single profile fits are all heard; a message that comes through two is received once.
        receive: what it refuses is logged, throttled. expected: whether it is a problem when nobody publishes.
        """
        self.topic, self.problem = node.resolve_topic_name(topic), ""
        self._node, self._name, self._kinds, self._profiles = node, name, kinds, profiles
        self._receive, self._expected = receive, expected
        self._subscriptions: list[Subscription] = []
        self._heard: deque[tuple[int, bytes]] = deque(maxlen=REMEMBERED)
        self._came = False
        by_name = [kind for kind in kinds if self.topic.endswith("/compressed") and kind.endswith("CompressedImage")]
        self._subscribe(next(iter(by_name or kinds)))
        self.check()

    def check(self) -> None:
        """Follow the type of the publishers, and look for what keeps their messages from arriving. Called in turns."""
        came, self._came = self._came, False
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        published = {info.topic_type for info in publishers}
        readable = [kind for kind in self._kinds if kind in published]
        if readable and self._kind not in readable:
            self._node.get_logger().info(f"{self._name}: {self.topic} is published as {readable[0]}")
            self._subscribe(readable[0])
        problems = self._problems(publishers, came)
        problem = f"{self._name}: {'; '.join(problems)}" if problems else ""
        if problem and problem != self.problem and publishers:  # that nobody is there yet is no news while all start
            self._node.get_logger().warning(problem)
        self.problem = problem

    def close(self) -> None:
        """Hear nothing any more."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def _subscribe(self, kind: str) -> None:
        self.close()
        self._kind = kind
        quiet = SubscriptionEventCallbacks(use_default_callbacks=False)  # `check` knows more, and names the publisher
        for profile in self._profiles:
            self._subscriptions.append(
                self._node.create_subscription(
                    self._kinds[kind], self.topic, self._take, profile, raw=True, event_callbacks=quiet
                )
            )

    def _take(self, raw: bytes, info: dict[str, int]) -> None:
        self._came = True
        if len(self._profiles) > 1:
            message = (info["source_timestamp"], raw)
            if message in self._heard:
                return
            self._heard.append(message)
        try:
            self._receive(raw, self._kind, info["source_timestamp"], self._came_ns(info))
        except (MessageRefused, ObservationRefused) as refused:
            self._node.get_logger().warning(f"{self.topic}: {refused}", **THROTTLED)

    def _came_ns(self, info: dict[str, int]) -> int:
        """By the node's clock. A busy node hears a message late, but Fast DDS says when it came. The time is now with a
        simulated clock, which has nothing to do with the machine's, and where the middleware does not say (0)."""
        clock, received_ns = self._node.get_clock(), info["received_timestamp"]
        now_ns = int(clock.now().nanoseconds)
        simulated = isinstance(clock, ROSClock) and clock.ros_time_is_active
        return now_ns if simulated or not received_ns else min(received_ns, now_ns)

    def _problems(self, publishers: Sequence[TopicEndpointInfo], came: bool) -> list[str]:
        if not publishers:
            return [f"nobody publishes {self.topic}"] if self._expected and not came else []
        problems = []
        for info in publishers:
            if info.topic_type != self._kind:
                wanted = self._kind if info.topic_type in self._kinds else " or ".join(self._kinds)
                problems.append(
                    f"{who(info)} publishes {info.topic_type} on {self.topic}, expected {wanted}: remap one of them"
                )
                continue
            answers = [qos_check_compatible(info.qos_profile, profile) for profile in self._profiles]
            if all(compatibility == QoSCompatibility.ERROR for compatibility, _ in answers):
                reason = answers[-1][1].removeprefix("ERROR: ").strip(" ;")
                problems.append(
                    f"the QoS of {who(info)} on {self.topic} does not fit, nothing of it is heard: {reason}"
                )
        return problems
