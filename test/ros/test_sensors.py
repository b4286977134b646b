"""Two arms whose drivers call their joints the same, each on a topic of its own, one of them remapped: over DDS."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState

from vla_align_ros.observation.assemble import AssemblerLimits, ObservationAssembler, ObservationRefused
from vla_align_ros.observation.codecs import encode_joint_state
from vla_align_ros.observation.refusal import MessageReason
from vla_align_ros.robot.description import JointStateTopic, load_description
from vla_align_ros.ros.sensors import SensorNode

pytestmark = pytest.mark.ros

ALOHA = load_description(Path(__file__).parents[2] / "config" / "robots" / "aloha_bimanual.yaml")
T0 = 10**18
LEFT, RIGHT = "/left_driver/joint_states", "/cell/follower_right/joint_states"
NAMES = (*ALOHA.names_on(ALOHA.joint_states[0]), "right_finger")  # which only mimics the left one


@pytest.fixture
def assembler() -> ObservationAssembler:
    limits = AssemblerLimits(60.0, 60.0, 0.0, 120.0, 0.2)
    return ObservationAssembler(ALOHA, tuple(ALOHA.cameras), 8, limits, str)


@pytest.fixture
def sensors(assembler: ObservationAssembler) -> Iterator[SensorNode]:
    """Connected, and spinning in a thread."""
    remaps = ["-r", "__ns:=/cell", "-r", f"follower_left/joint_states:={LEFT}"]
    rclpy.init(args=["--ros-args", *remaps])
    policy = Node("vla_policy")
    made = SensorNode(policy)
    executor = SingleThreadedExecutor()
    executor.add_node(made)
    closing = threading.Event()

    def spin() -> None:
        while not closing.is_set():
            executor.spin_once(timeout_sec=0.1)

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    made.connect(assembler, None)
    yield made
    closing.set()
    thread.join()
    made.disconnect()
    executor.shutdown()
    made.destroy_node()
    policy.destroy_node()
    rclpy.shutdown()


@pytest.fixture
def policy() -> Iterator[Node]:
    rclpy.init()
    node = Node("vla_policy")
    yield node
    node.destroy_node()
    rclpy.shutdown()


def test_a_clock_that_is_changed_while_it_runs_is_that_of_the_sensors_too(policy: Node) -> None:
    made = SensorNode(policy)
    for simulated in (True, False):
        policy.set_parameters([Parameter("use_sim_time", value=simulated)])
        assert made.get_clock().ros_time_is_active == policy.get_clock().ros_time_is_active == simulated
    made.destroy_node()


def test_two_arms_of_equal_joint_names_are_told_apart_by_their_topics(
    ros, assembler: ObservationAssembler, sensors: SensorNode
) -> None:
    assert f"joints follower_left/joint_states: nobody publishes {LEFT}" in sensors.problems
    assert f"joints follower_right/joint_states: nobody publishes {RIGHT}" in sensors.problems
    left, right = (ros.publisher(topic, JointState) for topic in (LEFT, RIGHT))

    def state() -> list[float]:
        try:
            return [round(value, 6) for value in assembler.measured(sensors.get_clock().now().nanoseconds).tolist()]
        except ObservationRefused:
            return []

    def send(publisher, value: float) -> None:
        where = [*value + 0.1 * np.arange(7), np.nan]
        publisher.publish(encode_joint_state(NAMES, where, sensors.get_clock().now().nanoseconds))

    # Best effort: the first messages of a pair may be lost.
    ros.wait_until(
        lambda: send(left, 1.0) or assembler.diagnose(sensors.get_clock().now().nanoseconds)[1], "the left arm is felt"
    )
    assert state() == []
    ros.wait_until(lambda: send(right, 2.0) or state(), "both arms are felt")
    expected = [value + 0.1 * number for value in (1.0, 2.0) for number in range(7)]
    np.testing.assert_allclose(state(), expected, atol=1e-6)
    ros.wait_until(lambda: send(right, 3.0) or state()[7] == 3.0, "the right arm has moved")
    assert state()[0] == 1.0, "the left one has not"
    empty = encode_joint_state(NAMES, (), T0)
    ros.wait_until(lambda: left.publish(empty) or assembler.refused[MessageReason.EMPTY_POSITION] > 0, "it is refused")
    ros.wait_until(lambda: not any(problem.startswith("joints") for problem in sensors.problems), "all is heard")
    same = replace(ALOHA, joint_states=(ALOHA.joint_states[0], JointStateTopic(LEFT, "right/")))
    with pytest.raises(ValueError, match=rf"are remapped to \['{LEFT}'\]"):
        sensors.connect(ObservationAssembler(same, tuple(ALOHA.cameras), 8, assembler.limits, str), None)
