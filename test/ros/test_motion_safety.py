"""What could move the arm wrongly, over DDS: faulty images and joint states, stamps of another clock, an old command,
joints in several messages, a camera without noise."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from policy_live import (
    CAMERA,
    JOINTS,
    PERIOD_NS,
    ParameterClient,
    PolicyProcess,
    stamp_ns,
    start_of,
)
from rclpy.qos import DurabilityPolicy, QoSProfile
from trajectory_msgs.msg import JointTrajectory

from vla_align_ros.observation.codecs import IMAGE, JOINT_STATE, TYPESTORE, decode_image, encode_image

pytestmark = [pytest.mark.ros, pytest.mark.slow]


@pytest.fixture(scope="module")
def node(shared_ros, robot, tmp_path_factory):
    limits = {"image_stale_s": 0.4, "joint_stale_s": 0.3, "frozen_s": 0.6}
    varied = {"exploration_fraction": 0.9}  # so that the arm moves on
    made = PolicyProcess(shared_ros, tmp_path_factory.mktemp("policy"), **limits, **varied)
    made.chunks.wait()
    return made


@pytest.fixture(autouse=True)
def _all_is_well_again(node, robot):
    yield
    robot.change.clear()
    robot.say_the_task()
    node.bring_to("active")
    node.chunks.wait_for_new()
    assert node.process.running


def changed(kind, change):
    """A message of that type with the fields that `change` gives for it."""

    def apply(message):
        read = TYPESTORE.deserialize_cdr(message.raw, kind)
        return bytes(TYPESTORE.serialize_cdr(replace(read, **change(read)), kind))

    return apply


def ahead(kind, seconds):
    """As of a sensor with a clock of its own."""

    def later(read):
        stamp = replace(read.header.stamp, sec=read.header.stamp.sec + seconds)
        return {"header": replace(read.header, stamp=stamp)}

    return changed(kind, later)


def image_with(**fields):
    return changed(IMAGE, lambda _: fields)


def joints_with(**fields):
    return changed(JOINT_STATE, lambda _: fields)


# --- bad input ---


def silent(message):
    return None


def frozen():
    """The picture of the moment, for ever, with stamps that go on."""
    picture = []

    def again(message):
        picture[:] = picture or [decode_image(message.raw, IMAGE).image]
        return encode_image(picture[0], message.stamp_ns)

    return again


def cut_off(message):
    return message.raw[: len(message.raw) // 2]


def in_turn(*changes):
    """Each message with another fault."""
    turns = itertools.cycle(changes)
    return lambda message: next(turns)(message)


BAD_IMAGES = {
    "wrong_encoding": image_with(encoding="bayer_rggb16"),
    "empty_data": image_with(data=np.zeros(0, np.uint8), width=0, height=0),
    "wrong_step": image_with(step=10),
    "wrong_size": image_with(height=63),
    "malformed": cut_off,
}
BAD_JOINTS = {
    "duplicate_joint": joints_with(name=["shoulder", "elbow", "elbow"], position=np.zeros(3)),
    "non_finite": joints_with(position=np.array([0.1, np.nan])),
    "empty_position": joints_with(position=np.zeros(0)),
    "length_mismatch": joints_with(position=np.zeros(3)),
    "malformed": cut_off,
}
FAULTS = {
    "camera silent": (CAMERA, silent, "stale_image", ()),
    "camera frozen": (CAMERA, frozen(), "frozen_image", ()),
    "bad images": (CAMERA, in_turn(*BAD_IMAGES.values()), "stale_image", BAD_IMAGES),
    "joints silent": (JOINTS, silent, "stale_joints", ()),
    "bad joint states": (JOINTS, in_turn(*BAD_JOINTS.values()), "stale_joints", BAD_JOINTS),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_refused_with_a_reason_and_chunks_come_again_when_it_is_over(node, robot, fault):
    topic, change, reason, message_reasons = FAULTS[fault]
    before = node.wait_for_status("observation")
    robot.change[topic] = change

    def seen(status):
        counted = all(status.refused(item) > before.refused(item) for item in (reason, *message_reasons))
        return counted and status.message.startswith(reason) and status.level == DiagnosticStatus.WARN

    node.wait_for_status("observation", seen)
    last = node.chunks.messages[-1]
    node.wait_for_status("observation", seen)
    assert node.chunks.messages[-1] is last, "no chunk goes out meanwhile"
    robot.change.clear()
    node.chunks.wait_for_new()
    node.wait_for_status("observation", lambda status: status.level == DiagnosticStatus.OK)


def test_reordered_and_foreign_joints_are_matched_by_name(node, robot):
    mixed = joints_with(name=["gripper", "elbow", "shoulder"], position=np.array([9.0, 0.5, -0.25]))
    robot.change[JOINTS] = mixed
    node.chunks.wait_for_new(lambda chunk: np.allclose(start_of(chunk), [-0.25, 0.5], atol=1e-6))


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (" \n", "prompt_empty"),
        ("red " * 5000, "prompt_too_long"),
        ("touch the red target with the tip of the arm and then come back", "prompt_too_long"),
    ],
    ids=["empty", "huge", "too many tokens"],
)
def test_prompt_that_cannot_be_used_is_refused_and_the_old_one_stays(node, robot, prompt, reason):
    before = node.wait_for_status("observation").refused(reason)
    robot.say(prompt)
    node.wait_for_status("observation", lambda status: status.refused(reason) == before + 1)
    node.chunks.wait_for_new()


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


def test_the_gate_asks_where_the_arm_is_now(node, robot, shared_ros):
    """Every 20 ms the arm is elsewhere: chunks begin where it was, by their own observation. Many steps, so that also a
    fast machine hears of the arm while it samples."""
    parameters = ParameterClient(shared_ros, "vla_policy")
    assert not parameters.set(num_steps=50)
    before = node.wait_for_status("inference").refused("jump")
    positions = np.array([[0.0, 0.0], [1.2, 0.0], [-1.2, 0.0]])

    def thrown(message):
        return joints_with(name=["shoulder", "elbow"], position=positions[message.stamp_ns // 20_000_000 % 3])(message)

    robot.change[JOINTS] = thrown
    node.wait_for_status("inference", lambda status: status.refused("jump") > before)
    assert not parameters.set(num_steps=10)


# --- commands ---


def test_nothing_is_published_unless_active_but_one_hold_where_the_arm_was_measured(node, robot):
    robot.change[JOINTS] = joints_with(name=["shoulder", "elbow"], position=np.array([0.25, 0.5]))
    node.chunks.wait_for_new(lambda chunk: np.allclose(start_of(chunk), [0.25, 0.5], atol=1e-6))
    before_ns = node.ros.node.get_clock().now().nanoseconds
    assert node.transition("deactivate")
    hold = node.chunks.wait(lambda chunk: len(chunk.points) == 1 and stamp_ns(chunk) > before_ns)
    assert not any(hold.points[0].velocities)
    np.testing.assert_allclose(hold.points[0].positions, [0.25, 0.5])
    assert node.chunks.messages[-1] is hold, "no chunk may come behind the hold"
    for _ in range(2):
        status = node.wait_for_status("inference", lambda status: status.message == "inactive")
        assert status.level == DiagnosticStatus.OK
    assert node.chunks.messages[-1] is hold
    assert node.transition("activate")
    node.chunks.wait_for_new(lambda chunk: len(chunk.points) > 1)


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
    arm = joints_with(
        name=["gripper", "shoulder"], position=np.array([np.nan, 0.25]), effort=np.array([np.nan, np.nan])
    )
    elbow = joints_with(name=["elbow"], position=np.array([-0.5]))
    wheels = joints_with(name=["wheel_left", "wheel_right"], position=np.array([np.inf, 1.0]))
    before = node.wait_for_status("observation").values
    turns = {0: arm, 1: elbow, 2: wheels}
    robot.change[JOINTS] = lambda message: turns[message.stamp_ns // 20_000_000 % 3](message)
    node.chunks.wait_for_new(lambda chunk: np.allclose(start_of(chunk), [0.25, -0.5], atol=1e-6))
    after = node.wait_for_status("observation").values
    assert {key for key in after if key.startswith("refused.")} == {key for key in before if key.startswith("refused.")}


def test_joints_that_are_missing_are_named(node, robot):
    robot.change[JOINTS] = joints_with(name=["shoulder"], position=np.array([0.25]))
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
