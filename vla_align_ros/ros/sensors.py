"""The sensor side of the policy: raw subscriptions that hand bytes to the runtime, in an executor of their own.

Messages are deserialised by rosbags, not rclpy: eight times faster, and the very code that reads bags.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String

from vla_align_ros.observation.assemble import ObservationAssembler
from vla_align_ros.observation.codecs import COMPRESSED_IMAGE, IMAGE, JOINT_STATE, STRING
from vla_align_ros.ros.inputs import Input
from vla_align_ros.ros.steady import STEADY

SENSOR_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# What was said before we listened, and what a publisher with the default QoS (`ros2 topic pub`) says.
PROMPT_QOS = (LATCHED_QOS, QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE))
CAMERA_TYPES = {IMAGE: Image, COMPRESSED_IMAGE: CompressedImage}
LOOK_EVERY_S = 1.0  # at the publishers of each topic


class SensorNode(Node):
    """Subscribes while `connect`ed. A refused message is counted by the assembler and logged, throttled."""

    def __init__(self, policy_name: str) -> None:
        super().__init__(f"{policy_name}_sensors")
        self._policy_name = policy_name
        self._inputs: list[Input] = []
        self._lock = threading.Lock()  # lifecycle transitions come from another thread
        self.create_timer(LOOK_EVERY_S, self._look, clock=STEADY)

    @property
    def problems(self) -> list[str]:
        """Why messages do not arrive, a sentence each: nobody publishes, another type, a QoS that does not fit."""
        return [item.problem for item in list(self._inputs) if item.problem]

    def connect(self, assembler: ObservationAssembler, camera_topics: Mapping[str, str]) -> None:
        """Subscribe cameras (Image or CompressedImage, as they are published), joints and prompt; feed `assembler`."""

        def now_ns() -> int:
            return int(self.get_clock().now().nanoseconds)

        def push_joints(raw: bytes, msgtype: str, sent_ns: int) -> None:
            assembler.push_joints(raw, now_ns())

        def push_prompt(raw: bytes, msgtype: str, sent_ns: int) -> None:
            assembler.push_prompt(raw, now_ns())

        with self._lock:
            for camera, topic in camera_topics.items():

                def push_image(raw: bytes, msgtype: str, sent_ns: int, camera: str = camera) -> None:
                    assembler.push_image(camera, raw, msgtype, now_ns())

                self._inputs.append(Input(self, f"camera {camera}", topic, CAMERA_TYPES, [SENSOR_QOS], push_image))
            joints = {JOINT_STATE: JointState}
            self._inputs.append(Input(self, "joints", "joint_states", joints, [SENSOR_QOS], push_joints))
            prompt = f"{self._policy_name}/prompt"
            self._inputs.append(Input(self, "prompt", prompt, {STRING: String}, PROMPT_QOS, push_prompt, False))

    def disconnect(self) -> None:
        """Drop all subscriptions."""
        with self._lock:
            for item in self._inputs:
                item.close()
            self._inputs.clear()

    def _look(self) -> None:
        with self._lock:
            for item in self._inputs:
                item.check()
