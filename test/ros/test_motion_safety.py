"""What could move the arm wrongly, over DDS: stamps of another clock, an old command, joints in several messages, a
camera without noise."""

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from policy_live import (
    CAMERA,
    JOINTS,
    PERIOD_NS,
    Feed,
    PolicyProcess,
    stamp_ns,
    start_of,
)
from rclpy.qos import DurabilityPolicy, QoSProfile
from trajectory_msgs.msg import JointTrajectory

from vla_align_ros.observation.codecs import IMAGE, JOINT_STATE, TYPESTORE

pytestmark = [pytest.mark.ros, pytest.mark.slow]


@pytest.fixture(scope="module")
def robot(shared_ros):
    return Feed(shared_ros)


@pytest.fixture(scope="module")
def node(shared_ros, robot, tmp_path_factory):
    limits = {"frozen_s": 0.6, "exploration_fraction": 0.9}  # so that the arm moves on
    made = PolicyProcess(shared_ros, tmp_path_factory.mktemp("policy"), **limits)
    made.chunks.wait()
    return made


@pytest.fixture(autouse=True)
def _all_is_well_again(node, robot):
    yield
    robot.change.clear()
    node.bring_to("active")
    node.chunks.wait_for_new()


def changed(kind, change):
    """A message of that type with `change` done to it."""

    def apply(message):
        read = TYPESTORE.deserialize_cdr(message.raw, kind)
        change(read)
        return bytes(TYPESTORE.serialize_cdr(read, kind))

    return apply


def ahead(kind, seconds):
    """As of a sensor with a clock of its own."""

    def set_ahead(message):
        object.__setattr__(message.header.stamp, "sec", message.header.stamp.sec + seconds)

    return changed(kind, set_ahead)


def joint_state(names, position, effort=()):
    def set_joints(message):
        for name, value in (("name", names), ("position", np.array(position)), ("effort", np.array(effort))):
            object.__setattr__(message, name, value)

    return changed(JOINT_STATE, set_joints)


# --- stamps ---


@pytest.mark.parametrize(
    ("topic", "kind", "what"),
    [(CAMERA, IMAGE, "camera 'base_0_rgb'"), (JOINTS, JOINT_STATE, "the joint state")],
    ids=["camera", "joints"],
)
def test_a_sensor_whose_clock_is_ahead_moves_nothing_and_is_named_with_its_offset(node, robot, topic, kind, what):
    before = node.wait_for_status("observation").refused("stamp_ahead")
    robot.change[topic] = ahead(kind, 2)

    def named(status):
        words = f"{what} is stamped" in status.message and "s ahead of this node's clock" in status.message
        return words and status.refused("stamp_ahead") > before and status.level == DiagnosticStatus.WARN

    status = node.wait_for_status("observation", named)
    key = "arrival_delay_ms." + ("joints" if topic == JOINTS else "base_0_rgb")
    assert -2000.0 <= float(status.values[key]) < -1000.0
    last = node.chunks.messages[-1]
    node.wait_for_status("observation", named)
    assert node.chunks.messages[-1] is last, "no chunk goes out meanwhile"
    robot.change.clear()
    node.chunks.wait_for_new()
    status = node.wait_for_status("observation", lambda status: status.level == DiagnosticStatus.OK)
    assert {"age_ms.joints", "age_ms.base_0_rgb", "age_ms.left_wrist_0_rgb"} <= status.values.keys()


def test_the_gate_asks_where_the_arm_is_now(node, robot):
    """Every 20 ms the arm is elsewhere: chunks begin where it was, by their own observation."""
    before = node.wait_for_status("inference").refused("jump")
    positions = [[0.0, 0.0], [1.2, 0.0], [-1.2, 0.0]]

    def thrown(message):
        return joint_state(["shoulder", "elbow"], positions[message.stamp_ns // 20_000_000 % 3])(message)

    robot.change[JOINTS] = thrown
    node.wait_for_status("inference", lambda status: status.refused("jump") > before)


# --- commands ---


def test_a_late_subscriber_gets_no_old_command(node, shared_ros):
    assert node.transition("deactivate")
    node.chunks.wait(lambda chunk: len(chunk.points) == 1)
    [publisher] = shared_ros.node.get_publishers_info_by_topic(node.chunks.topic)
    assert publisher.qos_profile.durability == DurabilityPolicy.VOLATILE
    offered = QoSProfile(depth=10, durability=publisher.qos_profile.durability)  # as `ros2 topic echo` subscribes
    late = shared_ros.listen(node.chunks.topic, JointTrajectory, offered)
    latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    never = shared_ros.listen(node.chunks.topic, JointTrajectory, latched)
    since_ns = shared_ros.node.get_clock().now().nanoseconds
    node.bring_to("active")
    assert stamp_ns(late.wait()) >= since_ns - PERIOD_NS
    assert not never.messages


# --- joints ---


def test_joints_in_several_messages_are_merged(node, robot):
    arm = joint_state(["gripper", "shoulder"], [np.nan, 0.25], effort=[np.nan, np.nan])
    elbow = joint_state(["elbow"], [-0.5])
    wheels = joint_state(["wheel_left", "wheel_right"], [np.inf, 1.0])
    before = node.wait_for_status("observation").values
    turns = {0: arm, 1: elbow, 2: wheels}
    robot.change[JOINTS] = lambda message: turns[message.stamp_ns // 20_000_000 % 3](message)
    node.chunks.wait_for_new(lambda chunk: np.allclose(start_of(chunk), [0.25, -0.5], atol=1e-6))
    after = node.wait_for_status("observation").values
    assert {key for key in after if key.startswith("refused.")} == {key for key in before if key.startswith("refused.")}


def test_joints_that_are_missing_are_named(node, robot):
    robot.change[JOINTS] = joint_state(["shoulder"], [0.25])
    node.wait_for_status("observation", lambda status: "joint state of ['elbow'] is" in status.message)


# --- cameras without noise ---


def test_a_simulator_without_noise_does_not_deadlock(node, robot, monkeypatch):
    monkeypatch.setattr("vla_align_ros.bench.robot.with_sensor_noise", lambda image, noise: image)
    assert node.transition("deactivate")
    for _ in range(4):  # seconds, in which nothing moves and every picture is the same
        node.wait_for_status("inference", lambda status: status.message == "inactive")
    node.bring_to("active")
    first = len(node.chunks.messages)
    node.chunks.wait(lambda _: len(node.chunks.messages) >= first + 5)
