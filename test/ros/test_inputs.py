"""What the policy listens to, over DDS: the type that is published, publishers that do not fit, prompts of any QoS; and
what it says when too little comes of it to align."""

from __future__ import annotations

import threading

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from live import LATCHED, RELIABLE, TIMEOUT_S
from policy_live import CAMERA, JOINTS, OTHER_CAMERA, PROMPT, ParameterClient, PolicyProcess
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String

from vla_align_ros.bench.reach2.arm import JOINT_NAMES
from vla_align_ros.observation.codecs import IMAGE, decode_image, encode_joint_state

pytestmark = [pytest.mark.ros, pytest.mark.slow]

COLOUR, WRIST, WORDS = "/driver/colour", "/driver/wrist", "/operator/words"
REMAPS = {CAMERA: COLOUR, OTHER_CAMERA: WRIST, PROMPT: WORDS}
TASK = "touch the red target"


@pytest.fixture(scope="module")
def node(shared_ros, robot, tmp_path_factory):
    remaps = [part for old, new in REMAPS.items() for part in ("-r", f"{old}:={new}")]
    made = PolicyProcess(shared_ros, tmp_path_factory.mktemp("policy"), *remaps)
    made.wait_for_status("observation", lambda status: "no_prompt" in status.message)
    return made


@pytest.fixture
def publish(shared_ros, robot):
    """Makes publishers that are gone after the test: one participant can have one type on a name."""
    made = []

    def publisher(topic, message_type, qos=RELIABLE):
        made.append(shared_ros.node.create_publisher(message_type, topic, qos))
        return made[-1]

    yield publisher
    beat = threading.Event()  # once the robot has sent without them, it is through with them
    robot.change.clear()
    robot.change[JOINTS] = lambda message: beat.set() or message.raw
    assert beat.wait(TIMEOUT_S)
    robot.change.clear()
    for item in made:
        shared_ros.node.destroy_publisher(item)


def relay(robot, source, publisher, suffix=None):
    """What the simulated camera sends goes out here instead, as a compressed image where there is a suffix."""

    def sent(message):
        if suffix is None:
            publisher.publish(message.raw)
            return None
        stamped = decode_image(message.raw, IMAGE)
        packed = cv2.imencode(suffix, stamped.image[..., ::-1])[1].reshape(-1)
        sec, nanosec = divmod(stamped.stamp_ns, 10**9)
        compressed = CompressedImage(format="rgb8; jpeg compressed bgr8", data=packed.tobytes())
        compressed.header = Header(frame_id="camera")
        compressed.header.stamp.sec, compressed.header.stamp.nanosec = sec, nanosec
        publisher.publish(compressed)
        return None

    robot.change[source] = sent


def observed(node, *words):
    return node.wait_for_status("observation", lambda status: all(word in status.message for word in words))


def test_a_topic_that_nobody_publishes_is_named(node):
    status = observed(node, f"camera base_0_rgb: nobody publishes {COLOUR}", f"nobody publishes {WRIST}")
    assert status.level == DiagnosticStatus.WARN
    assert "nobody publishes /joint_states" not in status.message
    assert WORDS not in status.message


def test_a_topic_of_another_type_is_named_with_who_publishes_it(node, publish):
    publish(WRIST, String)
    sentence = (
        f"camera left_wrist_0_rgb: /test publishes std_msgs/msg/String on {WRIST}, "
        "expected sensor_msgs/msg/Image or sensor_msgs/msg/CompressedImage"
    )
    assert observed(node, sentence).level == DiagnosticStatus.WARN
    node.logged(sentence)


def test_prompts_are_heard_from_a_default_and_from_a_latched_publisher_each_once(node, publish):
    default, latched = publish(WORDS, String, QoSProfile(depth=10)), publish(WORDS, String, LATCHED)
    node.ros.wait_until(lambda: default.get_subscription_count() == 1, "a subscription for a default publisher")
    node.ros.wait_until(lambda: latched.get_subscription_count() == 2, "both hear a latched publisher")
    before = node.wait_for_status("observation").refused("prompt_empty")
    for count, publisher in enumerate((default, latched, latched, default), 1):
        publisher.publish(String(data=""))
        node.wait_for_status("observation", lambda status, due=before + count: status.refused("prompt_empty") == due)
    latched.publish(String(data=TASK))  # would be the fifth if one of them had been counted twice
    observed(node, "no_image")
    assert node.wait_for_status("observation").refused("prompt_empty") == before + 4


def test_a_prompt_of_a_publisher_whose_qos_does_not_fit_is_named(node, publish):
    publish(WORDS, String, QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    words = ("prompt: the QoS of /test on", WORDS, "eliab")
    assert observed(node, *words).level == DiagnosticStatus.WARN
    node.logged("the QoS of /test")


def test_a_camera_that_a_remap_makes_compressed_is_heard_and_so_is_one_that_changes_its_type(node, robot, publish):
    relay(robot, CAMERA, publish(COLOUR, CompressedImage), ".jpg")
    relay(robot, OTHER_CAMERA, publish(WRIST, Image))
    publish(WORDS, String).publish(String(data=TASK))
    chunk = node.chunks.wait_for_new()
    assert np.isfinite([point.positions for point in chunk.points]).all()
    node.logged(f"camera base_0_rgb: {COLOUR} is published as sensor_msgs/msg/CompressedImage")
    node.wait_for_status("observation", lambda status: status.level == DiagnosticStatus.OK)


def test_the_other_way_round(node, robot, publish):
    """The drivers restart: what was compressed is raw, what was raw is compressed."""
    relay(robot, CAMERA, publish(COLOUR, Image))
    relay(robot, OTHER_CAMERA, publish(WRIST, CompressedImage), ".png")
    node.logged(f"camera base_0_rgb: {COLOUR} is published as sensor_msgs/msg/Image")
    node.logged(f"camera left_wrist_0_rgb: {WRIST} is published as sensor_msgs/msg/CompressedImage")
    node.chunks.wait_for_new()
    assert "Traceback" not in node.process.output


def test_periodic_alignment_that_cannot_begin_says_what_is_missing_since_when_and_what_to_do(node, robot, publish):
    relay(robot, CAMERA, publish(COLOUR, Image))
    relay(robot, OTHER_CAMERA, publish(WRIST, Image))
    parameters = ParameterClient(node.ros, "vla_policy")
    start = np.array([0.3, 0.3])
    robot.change[JOINTS] = lambda message: encode_joint_state(JOINT_NAMES, start, message.stamp_ns)  # it never moves
    assert not parameters.set(align_frequency_hz=1.0, align_min_experiences=16, exploration_fraction=1.0)
    words = ("no alignment for ", " of 16 new experiences; left out: ", " joint_held", "free it")

    def said(status):
        return status.level == DiagnosticStatus.WARN and all(word in status.message for word in words)

    node.wait_for_status("alignment", said)
    node.logged("of 16 new experiences; left out: ")
    assert not parameters.set(align_frequency_hz=0.0)
    node.wait_for_status("alignment", lambda status: status.level == DiagnosticStatus.OK)
    assert node.trigger("clear_buffer").success
    answer = node.trigger("align").message
    assert "too_little_experience" in answer
    assert "joint_held" in answer
