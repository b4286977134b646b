"""A robot with several controllers, over DDS: what each gets, when, and what `/diagnostics` says of it."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from live import LATCHED, RELIABLE, Listener, Ros
from made_up import SPREAD, MadeUpRobot, described, write_robot_model
from policy_live import ParameterClient, PolicyProcess, stamp_ns
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from vla_align_ros.action.trajectory import hold_trajectory
from vla_align_ros.observation.codecs import decode_trajectory, encode_trajectory

pytestmark = [pytest.mark.ros, pytest.mark.slow]

NAME = "aloha_bimanual"
ROBOT = described(NAME)
ARMS = [group for group in ROBOT.command_groups if group.type == "joint_trajectory"]
GRIPPERS = [group for group in ROBOT.command_groups if group.type == "position_stream"]
CLOSED, BLOCKED = 0.03822, 0.03


class Controllers:
    """The robot's controllers and sensors, in the test's node. deaf: whose joint states are not sent.

    heard: what came for each group.
    """

    def __init__(self, ros: Ros) -> None:
        self._ros, self.plant = ros, MadeUpRobot(ROBOT)
        self.deaf, self.blocked = False, False
        self.said = deque[dict[str, float]](maxlen=100)  # positions in the last joint states
        self.heard: dict[str, Listener] = {}
        self.subscriptions = {}
        for group in ROBOT.command_groups:
            kind = JointTrajectory if group.type == "joint_trajectory" else Float64MultiArray
            self.heard[group.topic] = Listener(group.topic)
            self.subscriptions[group.topic] = ros.node.create_subscription(
                kind,
                group.topic,
                lambda message, group=group: self._take(group, message),
                RELIABLE,
                raw=kind is JointTrajectory,
            )
        node, topics = ros.node, [source.topic for source in ROBOT.joint_states]
        self._joints = {topic: node.create_publisher(JointState, topic, RELIABLE) for topic in topics}
        self._images = {
            camera: node.create_publisher(Image, topic, RELIABLE) for camera, topic in ROBOT.cameras.items()
        }
        node.create_timer(0.02, self._sense)

    def of(self, group) -> Listener:
        return self.heard[group.topic]

    def _now_ns(self) -> int:
        return int(self._ros.node.get_clock().now().nanoseconds)

    def _take(self, group, message) -> None:
        if group in ARMS:
            trajectory = decode_trajectory(message, group.wire_names)
            self.plant.take_trajectory(group, trajectory)
            self.of(group).receive(trajectory)
        else:
            self.plant.take_positions(group, np.array(message.data))
            self.of(group).receive(message)

    def _sense(self) -> None:
        now_ns = self._now_ns()
        self.plant.move(now_ns)
        if self.blocked:
            self.plant.position.update({joint: BLOCKED for group in GRIPPERS for joint in group.joints})
        self.said.append(dict(self.plant.position))
        for topic, _, raw in () if self.deaf else self.plant.joint_states(now_ns):
            self._joints[topic].publish(raw)
        for camera, _, raw in self.plant.images(now_ns):
            self._images[camera].publish(raw)


@pytest.fixture(scope="module")
def robot(shared_ros):
    return Controllers(shared_ros)


@pytest.fixture(scope="module")
def node(shared_ros, robot, tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    params = {"prompt": "touch red", "experience_stride_ticks": 1, "num_steps": 2}
    made = PolicyProcess(
        shared_ros, folder, model=str(write_robot_model(folder / "model", NAME, stands=True)), **params
    )
    made.chunks.wait()
    return made


@pytest.fixture(autouse=True)
def _all_is_well_again(node, robot):
    yield
    robot.deaf = robot.blocked = False
    node.bring_to("active")
    node.chunks.wait_for_new()
    assert node.process.running


def publishers(node) -> list[str]:
    """Topics of the groups on which the node has a publisher."""
    topics = [group.topic for group in ROBOT.command_groups]
    return [topic for topic in topics if node.ros.node.get_publishers_info_by_topic(topic)]


def one_more_second(node) -> None:
    """Of the node: two reports of its health."""
    for _ in range(2):
        node.wait_for_status("inference")


def test_all_groups_of_a_chunk_get_their_part_with_its_stamp(node, robot):
    parts = [robot.of(group).wait_for_new() for group in ARMS]
    for group, part in zip(ARMS, parts, strict=True):
        whole = node.chunks.wait(lambda chunk, part=part: stamp_ns(chunk) == part.stamp_ns)
        assert tuple(whole.joint_names) == ROBOT.action_joints
        columns = [ROBOT.action_joints.index(joint) for joint in group.joints]
        points = np.array([[point.positions, point.velocities] for point in whole.points])
        np.testing.assert_array_equal(np.stack([part.positions, part.velocities], axis=1), points[:, :, columns])
    for group in GRIPPERS:
        positions = robot.of(group).wait_for_new().data
        assert list(positions) == pytest.approx([CLOSED] * len(group.joints), abs=10 * SPREAD)


def test_a_stream_sends_between_the_chunks_and_ends_after_the_last_one(node, robot):
    stream = robot.of(GRIPPERS[0])
    first_chunk, first = len(node.chunks.messages), len(stream.messages)
    node.chunks.wait(lambda _: len(node.chunks.messages) >= first_chunk + 3)
    assert len(stream.messages) - first > 2 * 3, "once a chunk would be 3"
    robot.deaf = True
    node.wait_for_status("inference", lambda status: "stale_joints" in status.message)
    one_more_second(node)
    sent = {group.topic: len(robot.of(group).messages) for group in ROBOT.command_groups}
    one_more_second(node)
    assert {group.topic: len(robot.of(group).messages) for group in ROBOT.command_groups} == sent
    last = node.chunks.messages[-1]
    columns = [ROBOT.action_joints.index(joint) for joint in GRIPPERS[0].joints]
    np.testing.assert_allclose(stream.messages[-1].data, np.array(last.points[-1].positions)[columns], atol=SPREAD)


def test_a_stop_holds_every_group_once_and_a_gripper_keeps_what_it_holds(node, robot):
    robot.blocked = True
    for _ in range(3):
        node.chunks.wait_for_new()
    assert len(publishers(node)) == len(ROBOT.command_groups)
    assert node.transition("deactivate")
    hold = node.chunks.wait(lambda chunk: len(chunk.points) == 1)
    held_at = dict(zip(ROBOT.action_joints, hold.points[0].positions, strict=True))
    arms = [joint for joint, must_follow in zip(ROBOT.action_joints, ROBOT.must_follow, strict=True) if must_follow]
    measured = np.array([[said[joint] for joint in arms] for said in robot.said])
    off = np.abs(measured - [held_at[joint] for joint in arms])
    assert off.min(0).max() < 1e-6, "each where a joint state said that it was"
    for joint in set(ROBOT.action_joints) - set(arms):
        assert held_at[joint] == pytest.approx(CLOSED, abs=10 * SPREAD)
    for group in ARMS:
        part = robot.of(group).wait(lambda part: len(part.times_ns) == 1)
        assert part.stamp_ns == stamp_ns(hold)
    for group in GRIPPERS:
        goals = [held_at[joint] for joint in group.joints]
        held = robot.of(group).wait(lambda message, goals=goals: list(message.data) == goals)
        assert list(held.data) == list(robot.of(group).messages[-1].data)
    sent = {group.topic: len(robot.of(group).messages) for group in ROBOT.command_groups}
    one_more_second(node)
    assert {group.topic: len(robot.of(group).messages) for group in ROBOT.command_groups} == sent
    robot.blocked = False
    assert node.transition("cleanup")
    node.ros.wait_until(lambda: not publishers(node), "no group has a publisher of the node")
    parameters = ParameterClient(node.ros, "vla_policy")
    assert not parameters.set(other_command_topics=GRIPPERS[0].topic)
    assert not node.transition("configure")
    node.logged(f"['/{GRIPPERS[0].topic}'] take position streams")
    assert not parameters.set(other_command_topics="")


def test_the_own_parts_on_the_wire_are_nobody_elses_commands_and_others_there_are(node, robot, shared_ros):
    for _ in range(4):
        node.chunks.wait_for_new()
    before = node.wait_for_status("experience")
    after = node.wait_for_status("experience", lambda status: status.number("total") > before.number("total"))
    assert after.refused("foreign_command") == before.refused("foreign_command")
    now_ns = int(shared_ros.node.get_clock().now().nanoseconds)
    positions = [robot.plant.position[joint] for joint in ARMS[0].joints]
    raw = encode_trajectory(hold_trajectory(positions, now_ns, ROBOT.period_ns, ARMS[0].wire_names))
    shared_ros.publisher(ARMS[0].topic, JointTrajectory, subscribers=2).publish(raw)
    node.wait_for_status(
        "experience", lambda status: status.refused("foreign_command") > before.refused("foreign_command")
    )


def test_diagnostics_name_who_hears_each_group_and_which_nobody_hears(node, robot, shared_ros, ros):
    """ros: another process's node, for DDS lets one have a topic with one type only."""
    well = node.wait_for_status("commands", lambda status: status.level == DiagnosticStatus.OK)
    assert set(well.values) == {f"/{group.topic}" for group in ROBOT.command_groups}
    kinds = {
        "joint_trajectory": "trajectory_msgs/msg/JointTrajectory",
        "position_stream": "std_msgs/msg/Float64MultiArray",
    }
    listener = shared_ros.node.get_fully_qualified_name()
    for group in ROBOT.command_groups:
        assert well.values[f"/{group.topic}"] == f"{kinds[group.type]}, heard by {listener}"
    group = ARMS[-1]
    shared_ros.node.destroy_subscription(robot.subscriptions.pop(group.topic))
    lost = node.wait_for_status("commands", lambda status: status.level == DiagnosticStatus.WARN)
    assert lost.message == f"nobody hears /{group.topic}: does its controller run, and is the topic called so?"
    wrong = ros.node.create_subscription(Float64MultiArray, group.topic, lambda _: None, RELIABLE)
    node.wait_for_status("commands", lambda status: f"expects {kinds['position_stream']}" in status.message)
    ros.node.destroy_subscription(wrong)
    latched = shared_ros.node.create_subscription(JointTrajectory, group.topic, lambda _: None, LATCHED)
    node.wait_for_status("commands", lambda status: "asks for latched messages" in status.message)
    shared_ros.node.destroy_subscription(latched)
