"""The sensor side of the policy: raw subscriptions that hand bytes to the runtime, in an executor of their own.

Messages are deserialised by rosbags, not rclpy: eight times faster, and the very code that reads bags.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from vla_align_ros.observation.assemble import ObservationAssembler
from vla_align_ros.observation.codecs import COMPRESSED_IMAGE, IMAGE, JOINT_STATE, JOINT_TRAJECTORY, STRING
from vla_align_ros.ros.inputs import Input
from vla_align_ros.ros.steady import STEADY

if TYPE_CHECKING:
    from vla_align_ros.ros.prompt import OwnPrompt

SENSOR_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
# As deep as a stall of a second: what a busy machine brings late is used for experience all the same.
CAMERA_QOS = QoSProfile(depth=30, reliability=ReliabilityPolicy.BEST_EFFORT)
JOINTS_QOS = QoSProfile(depth=250, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# What several publishers have said before we listened, and what one with the default QoS (`ros2 topic pub`) says.
HEAR_LATCHED_QOS = (QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL), QoSProfile(depth=10))
CAMERA_TYPES = {IMAGE: Image, COMPRESSED_IMAGE: CompressedImage}
COMMAND_QOS = QoSProfile(depth=100)  # reliable: with a command lost, the one before it would be taken for in force
LOOK_EVERY_S = 1.0  # at the publishers of each topic


class SensorNode(Node):
    """Subscribes while `connect`ed. A refused message is counted by the assembler and logged, throttled."""

    def __init__(self, policy: Node) -> None:
        """`policy`: the node that these topics belong to. Its namespace, its clock and its remaps hold, those of its
        name alone too; the command line's are not applied a second time here.
        """
        super().__init__(
            f"{policy.get_name()}_sensors",
            namespace=policy.get_namespace(),
            use_global_arguments=False,
            parameter_overrides=[policy.get_parameter("use_sim_time")],
        )
        policy.add_post_set_parameters_callback(self._follow)
        self._resolve = policy.resolve_topic_name
        self._inputs: list[Input] = []
        self._lock = threading.Lock()  # lifecycle transitions come from another thread
        self.create_timer(LOOK_EVERY_S, self._look, clock=STEADY)

    def _follow(self, parameters: list[Parameter]) -> None:
        """The clock of a policy is changed while it runs."""
        if clocks := [parameter for parameter in parameters if parameter.name == "use_sim_time"]:
            self.set_parameters(clocks)

    @property
    def problems(self) -> list[str]:
        """Why messages do not arrive, a sentence each: nobody publishes, another type, a QoS that does not fit."""
        return [item.problem for item in list(self._inputs) if item.problem]

    def connect(self, assembler: ObservationAssembler, own_prompt: OwnPrompt | None) -> None:
        """Subscribe cameras (Image or CompressedImage, as they are published), joint states and prompt; feed
        `assembler`. own_prompt: what the policy itself says on ~/prompt, which the assembler has already.

        Raises ValueError for two joint-state topics that are remapped to one: each arm would be felt as the other.
        """
        robot = assembler.robot
        sources = {self._resolve(source.topic): source for source in robot.joint_states}
        if len(sources) < len(robot.joint_states):
            raise ValueError(f"{[source.topic for source in robot.joint_states]} are remapped to {list(sources)}")

        def push_prompt(raw: bytes, msgtype: str, sent_ns: int, came_ns: int) -> None:
            if own_prompt is not None and own_prompt.is_echo(raw, sent_ns):
                return
            assembler.push_prompt(raw, came_ns)
            if own_prompt is not None:
                own_prompt.give_way(raw)

        with self._lock:
            for camera, topic in robot.cameras.items():

                def push_image(raw: bytes, msgtype: str, *_: int, camera: str = camera) -> None:
                    assembler.push_image(camera, raw, msgtype, self._now_ns)

                topic = self._resolve(topic)
                self._inputs.append(Input(self, f"camera {camera}", topic, CAMERA_TYPES, [CAMERA_QOS], push_image))
            for topic, source in sources.items():

                def push_joints(raw: bytes, _: str, *__: int, prefix: str = source.prefix) -> None:
                    assembler.push_joints(raw, self._now_ns, prefix)

                name = "joints" if len(robot.joint_states) == 1 else f"joints {source.topic}"
                kinds = {JOINT_STATE: JointState}
                self._inputs.append(Input(self, name, topic, kinds, [JOINTS_QOS], push_joints))
            prompt, kinds = self._resolve("~/prompt"), {STRING: String}
            self._inputs.append(Input(self, "prompt", prompt, kinds, HEAR_LATCHED_QOS, push_prompt, False))

    def disconnect(self) -> None:
        """Drop all subscriptions."""
        with self._lock:
            for item in self._inputs:
                item.close()
            self._inputs.clear()

    @property
    def _now_ns(self) -> int:
        """When a message is heard that has a stamp. It rises over all of them, as the time at which each came would not
        where many have waited: the assembler would take that for a clock that fell back."""
        return int(self.get_clock().now().nanoseconds)

    def listen_to_commands(self, topic: str, receive: Callable[[bytes, int], None], expected: bool) -> None:
        """Feed `receive` with the JointTrajectory messages of a topic, and with when each came, until `disconnect`.
        expected: whether it is a problem when nobody publishes there."""
        kinds = {JOINT_TRAJECTORY: JointTrajectory}
        with self._lock:
            self._inputs.append(
                Input(self, "commands", topic, kinds, [COMMAND_QOS], lambda raw, _, __, ns: receive(raw, ns), expected)
            )

    def _look(self) -> None:
        with self._lock:
            for item in self._inputs:
                item.check()
