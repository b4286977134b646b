"""The sensor side of the policy: raw subscriptions that hand bytes to the runtime, in an executor of their own.

Messages are deserialised by rosbags, not rclpy: eight times faster, and the very code that reads bags.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String

from vla_align_ros.observation.assemble import ObservationAssembler, ObservationRefused
from vla_align_ros.observation.codecs import MessageRefused

SENSOR_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
WARN_EVERY_S = 5.0


class SensorNode(Node):
    """Subscribes while `connect`ed. A refused message is counted by the assembler and logged, throttled."""

    def __init__(self, policy_name: str) -> None:
        super().__init__(f"{policy_name}_sensors")
        self._policy_name = policy_name
        self._own_subscriptions: list[Subscription] = []

    def connect(self, assembler: ObservationAssembler, camera_topics: Mapping[str, str]) -> None:
        """Subscribe cameras (CompressedImage where the topic ends in /compressed), joints and prompt; feed
        `assembler`.
        """
        for camera, topic in camera_topics.items():
            kind = CompressedImage if topic.endswith("/compressed") else Image
            msgtype = f"sensor_msgs/msg/{kind.__name__}"
            self._listen(kind, topic, SENSOR_QOS, lambda raw, c=camera, m=msgtype: assembler.push_image(c, raw, m))
        self._listen(JointState, "joint_states", SENSOR_QOS, assembler.push_joints)
        prompt_topic = f"{self._policy_name}/prompt"
        self._listen(
            String,
            prompt_topic,
            LATCHED_QOS,
            lambda raw: assembler.push_prompt(raw, self.get_clock().now().nanoseconds),
        )

    def disconnect(self) -> None:
        """Drop all subscriptions."""
        for subscription in self._own_subscriptions:
            self.destroy_subscription(subscription)
        self._own_subscriptions.clear()

    def _listen(self, kind: type, topic: str, qos: QoSProfile, push: Callable[[bytes], None]) -> None:
        def receive(raw: bytes) -> None:
            try:
                push(raw)
            except (MessageRefused, ObservationRefused) as refused:
                self.get_logger().warning(f"{topic}: {refused}", throttle_duration_sec=WARN_EVERY_S)

        self._own_subscriptions.append(self.create_subscription(kind, topic, receive, qos, raw=True))
