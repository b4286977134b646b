"""The node `sim_robot`: `bench.robot.SimulatedRobot` in real time, or a stated multiple of it. Wiring only.

It publishes cameras, joint states and the prompt, and executes what it hears: whole chunks, and what the controllers of
its description's command groups would hear.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import cv2
from builtin_interfaces.msg import Time
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from vla_align_ros.bench.robot import CHUNK_TOPIC, PROMPT_TOPIC, SimMessage, make_robot, topics_of
from vla_align_ros.observation.codecs import IMAGE, JOINT_STATE, STRING, MessageRefused
from vla_align_ros.params import SimParams
from vla_align_ros.ros import process
from vla_align_ros.ros.parameters import NodeParameters
from vla_align_ros.ros.sensors import LATCHED_QOS, SENSOR_QOS
from vla_align_ros.ros.steady import STEADY, THROTTLED

NAME = "sim_robot"
POLL_S = 0.005  # how often the simulation catches up with the clock
RELIABLE_QOS = QoSProfile(depth=10)
_CLASSES = {IMAGE: Image, JOINT_STATE: JointState, STRING: String}


class SimRobot(Node):
    """One simulated arm. Topics in `docs/reference.md`; all callbacks run in one thread."""

    def __init__(self) -> None:
        super().__init__(NAME)
        params = NodeParameters(self, SimParams).values
        self._rate = params.rate
        self._wall = Clock(clock_type=ClockType.SYSTEM_TIME)  # not the node's: it may be the one that /clock drives
        self._start_ns = self._wall.now().nanoseconds
        self._robot = make_robot(params, self._start_ns)
        self._dropped = 0
        topics = topics_of(self._robot.description)
        self._own_publishers = {topic: self._publisher(topic, kind) for topic, kind in topics.items()}
        self._publish(self._robot.prompt_message())
        self._clock_publisher = self.create_publisher(ClockMessage, "/clock", 10) if params.publish_clock else None
        self._listen(JointTrajectory, CHUNK_TOPIC, self._robot.receive)
        for group in self._robot.description.command_groups:
            kind = JointTrajectory if group.type == "joint_trajectory" else Float64MultiArray
            self._listen(kind, group.topic, partial(self._robot.receive_group, group))
        self.create_timer(POLL_S, self._catch_up, clock=STEADY)
        self.get_logger().info(
            f"{params.bench}, arm {params.embodiment_seed}, {params.rate:g} simulated seconds a second"
        )

    def _publisher(self, topic: str, kind: str) -> Publisher:
        message_class = _CLASSES[kind]
        qos = {PROMPT_TOPIC: LATCHED_QOS}.get(topic, RELIABLE_QOS if message_class is String else SENSOR_QOS)
        return self.create_publisher(message_class, topic, qos)

    def _catch_up(self) -> None:
        """Advance the robot to now and publish what it sent."""
        elapsed_ns = self._wall.now().nanoseconds - self._start_ns
        now_ns = self._start_ns + round(elapsed_ns * self._rate)
        sent = self._robot.advance(now_ns)
        if self._clock_publisher is not None:  # before the messages, which are not stamped ahead of it then
            seconds, nanoseconds = divmod(self._robot.now_ns, 1_000_000_000)
            self._clock_publisher.publish(ClockMessage(clock=Time(sec=seconds, nanosec=nanoseconds)))
        for message in sent:
            self._publish(message)
        if self._robot.dropped > self._dropped:
            self._dropped = self._robot.dropped
            text = f"{self._dropped} sensor messages so far were due too long ago to be sent: this machine is too busy"
            self.get_logger().warning(text, **THROTTLED)

    def _publish(self, message: SimMessage) -> None:
        self._own_publishers[message.topic].publish(message.raw)

    def _listen(self, kind: type, topic: str, receive: Callable[[bytes], None]) -> None:
        logger = self.get_logger().get_child(topic)  # each throttles by itself

        def arrived(raw: bytes) -> None:
            self._catch_up()  # a command acts from its arrival on, not from the last poll
            try:
                receive(raw)
            except MessageRefused as refused:
                logger.warning(f"command on {topic} not executed: {refused}", **THROTTLED)

        self.create_subscription(kind, topic, arrived, RELIABLE_QOS, raw=True)


def main() -> None:
    """Run until SIGINT or SIGTERM; exit code 0, or 2 for a wrong parameter."""
    cv2.setNumThreads(1)
    sys.exit(process.run(lambda: [[SimRobot()]], goodbye=lambda: None, started=lambda: None))


if __name__ == "__main__":
    main()
