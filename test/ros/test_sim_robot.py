"""The node `sim_robot` as a real process over DDS."""

import json
import signal
from itertools import pairwise

import numpy as np
import pytest
from builtin_interfaces.msg import Duration
from live import LATCHED, SENSOR
from rclpy.qos import QoSProfile
from robots import a_robot
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_align_ros.action.trajectory import to_trajectory
from vla_align_ros.bench.port import find_bench
from vla_align_ros.bench.reach2.arm import JOINT_NAMES
from vla_align_ros.observation.codecs import IMAGE, decode_image, encode_trajectory
from vla_align_ros.observation.joint_states import JointStateReader
from vla_align_ros.types import ActionChunk, Trajectory

pytestmark = pytest.mark.ros

MODULE = "vla_align_ros.ros.sim_robot"
JOINTS, CHUNK = "/joint_states", "/vla_policy/action_chunk"
CAMERAS = ("/base_0_rgb/image_raw", "/left_wrist_0_rgb/image_raw")
PERIOD_NS = 100_000_000
GROUPS, KINDS = find_bench("so101").robot.command_groups, (JointTrajectory, Float64MultiArray)


def trajectory(position: np.ndarray, velocity: np.ndarray, stamp_ns: int) -> bytes:
    """Constant velocity for 8 ticks, and a ramp."""
    actions = np.tile(velocity, (8, 1)).astype(np.float32)
    chunk = ActionChunk(actions, position.astype(np.float32), stamp_ns, PERIOD_NS)
    return encode_trajectory(to_trajectory(chunk, a_robot(), 2))


def to_the_middle(position: np.ndarray) -> np.ndarray:
    """A velocity that does not run into a stop."""
    return np.where(position > np.array([0.0, 1.4]), -1.0, 1.0)


def test_images_joints_and_prompt_arrive_as_the_models_decoders_want_them(ros):
    cameras = [ros.listen(topic, Image, SENSOR, raw=True) for topic in CAMERAS]
    joints = ros.listen(JOINTS, JointState, SENSOR, raw=True)
    ros.run_node(MODULE, {"bench": "reach2", "image_size": 48})
    for camera in cameras:
        camera.wait(lambda _, camera=camera: len(camera.messages) >= 3)
        images = [decode_image(raw, IMAGE) for raw in camera.messages]
        assert images[0].image.shape == (48, 48, 3)
        assert images[0].stamp_ns < images[1].stamp_ns
        assert not np.array_equal(images[0].image, images[1].image), "a standing camera still has noise"
    position = JointStateReader(a_robot().state).read(joints.wait()).values
    assert np.isfinite(position).all()
    assert ros.wait_for_message("/vla_policy/prompt", String, qos=LATCHED).data, "a late joiner is told the prompt"


def of_another_controller(points: list[tuple[float, np.ndarray, np.ndarray | None]]) -> JointTrajectory:
    """A message as MoveIt, a teleoperation or a script makes it: stamp 0, points as (time in s, position, velocity)."""
    message = JointTrajectory(joint_names=JOINT_NAMES[::-1])
    for time_s, position, velocity in points:
        point = JointTrajectoryPoint(positions=position[::-1].tolist())
        point.velocities = [] if velocity is None else velocity[::-1].tolist()
        point.time_from_start = Duration(nanosec=round(time_s * 1e9))
        message.points.append(point)
    return message


def test_published_trajectories_move_the_arm_whoever_wrote_them(ros):
    joints = ros.listen(JOINTS, JointState)
    process = ros.run_node(MODULE, {"bench": "reach2"})
    start = np.array(joints.wait().position)
    way, rest = 0.3 * to_the_middle(start), np.zeros(2)
    publisher = ros.publisher(CHUNK, JointTrajectory)

    def arrive(message: JointTrajectory | bytes, goal: np.ndarray) -> None:
        publisher.publish(message)
        joints.wait_for_new(lambda joint_state: np.allclose(joint_state.position, goal, atol=0.003))

    arrive(of_another_controller([(0.4, start + way, None)]), start + way)
    straight = [(0.05 * tick, start + way * (1 - tick / 8), None) for tick in range(1, 9)]
    arrive(of_another_controller(straight), start)
    curve = [(0.0, start, rest), (0.2, start + way / 2, way / 0.4 * 1.5), (0.4, start + way, rest)]
    arrive(of_another_controller(curve), start + way)
    arrive(of_another_controller([(0.4, start, rest)]), start)
    publisher.publish(trajectory(start, way / 0.3, ros.node.get_clock().now().nanoseconds))
    joints.wait_for_new(lambda message: (np.abs(np.array(message.position) - start) > 0.5).all())
    assert process.running
    assert "not executed" not in process.output


def test_another_bench_sends_its_own_cameras_and_joints_and_executes_whole_chunks_and_groups(ros):
    bench = find_bench("so101")
    names = bench.robot.action_joints
    cameras = [ros.listen(f"/{topic}", Image, SENSOR, raw=True) for topic in bench.robot.cameras.values()]
    joints = ros.listen(JOINTS, JointState, SENSOR, raw=True)
    process = ros.run_node(MODULE, {"bench": "so101", "episode_s": 600.0})
    for camera in cameras:
        assert decode_image(camera.wait(), IMAGE).image.shape == (64, 64, 3)
    reader = JointStateReader(bench.robot.state)
    goal = reader.read(joints.wait()).values + np.array([0.3, 0.0, 0.0, 0.0, -0.3, 0.3])
    publisher = ros.publisher(CHUNK, JointTrajectory)
    publisher.publish(encode_trajectory(Trajectory(0, names, np.array([10 * PERIOD_NS]), goal[None])))
    joints.wait(lambda raw: np.allclose(reader.read(raw).values, goal, atol=0.03))
    to_arm, to_gripper = (ros.publisher(f"/{group.topic}", kind) for group, kind in zip(GROUPS, KINDS, strict=True))
    goal -= np.array([0.4, 0.0, 0.0, 0.0, 0.0, 0.4])
    to_arm.publish(encode_trajectory(Trajectory(0, names[:5], np.array([5 * PERIOD_NS]), goal[None, :5])))
    joints.wait_for_new(lambda raw: np.allclose(reader.read(raw).values[:5], goal[:5], atol=0.03))
    assert reader.read(joints.messages[-1]).values[5] > goal[5] + 0.3, "the gripper has a controller of its own"
    to_gripper.publish(Float64MultiArray(data=goal[5:].tolist()))
    joints.wait_for_new(lambda raw: np.allclose(reader.read(raw).values, goal, atol=0.03))
    assert "not executed" not in process.output
    to_arm.publish(encode_trajectory(Trajectory(0, names, np.array([PERIOD_NS]), goal[None])))
    to_gripper.publish(Float64MultiArray(data=[0.1, 0.2]))
    ros.wait_until(
        lambda: all(f"command on {group.topic} not executed" in process.output for group in GROUPS), "both refusals"
    )
    assert process.running


def test_bad_trajectories_are_refused_with_a_log_line_and_the_node_goes_on(ros):
    process = ros.run_node(MODULE, {"bench": "reach2"})
    joints = ros.listen(JOINTS, JointState)
    start = np.array(joints.wait().position)
    publisher = ros.publisher(CHUNK, JointTrajectory)
    good = trajectory(start, to_the_middle(start), ros.node.get_clock().now().nanoseconds)
    for bad in (good[:40], good.replace(b"elbow", b"wrist"), good[:4] + b"\xff" * (len(good) - 4)):
        publisher.publish(bad)
    ros.wait_until(lambda: "not executed" in process.output, "the refusal is in the log")
    publisher.publish(trajectory(start, to_the_middle(start), ros.node.get_clock().now().nanoseconds))
    joints.wait(lambda message: (np.abs(np.array(message.position) - start) > 0.3).all())
    assert process.running


def test_episodes_end_with_a_report_and_another_prompt_in_stated_multiple_of_real_time(ros):
    prompts = ros.listen("/vla_policy/prompt", String, LATCHED)
    reports = ros.listen("/sim_robot/episode", String, QoSProfile(depth=50))
    clock = ros.listen("/clock", Clock)
    ros.run_node(MODULE, {"bench": "reach2", "episode_s": 1.0, "rate": 10.0, "publish_clock": True})
    reports.wait(lambda message: json.loads(message.data)["index"] >= 3)
    episodes = [json.loads(message.data) for message in reports.messages]
    for before, after in pairwise(episodes):
        assert after["index"] == before["index"] + 1
        assert after["prompt"] != before["prompt"]
    assert all(episode["success"] == (episode["distance_m"] <= 0.1) for episode in episodes)
    prompt = prompts.wait()
    reports.wait(lambda message: json.loads(message.data)["prompt"] == prompt.data)
    clock.wait(lambda message: message.clock.sec - clock.messages[0].clock.sec > 3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_within_5_s_with_exit_code_0(ros, number):
    process = ros.run_node(MODULE, {"bench": "reach2"})
    ros.wait_for_message(JOINTS, JointState)
    assert process.stop(number, timeout_s=5.0) == 0, process.output
    assert "Traceback" not in process.output


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"rate": 2.0}, "publish_clock"),
        ({"image_hz": 0.0}, "image_hz"),
        ({"image_size": "big"}, "image_size"),
        ({"bench": "so100"}, "so100"),
    ],
)
def test_wrong_parameter_ends_it_with_a_sentence(ros, params, words):
    process = ros.run_node(MODULE, params)
    assert process.wait() == 2
    assert words in process.output
    assert "Traceback" not in process.output
