"""The node `bag_recorder` as a real process over DDS; what it leaves on disk however it ends."""

import json
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from live import LATCHED, RELIABLE
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from vla_align_ros.action.trajectory import hold_trajectory
from vla_align_ros.experience.recording import bag_messages
from vla_align_ros.observation.codecs import (
    COMPRESSED_IMAGE,
    IMAGE,
    encode_image,
    encode_joint_state,
    encode_string,
    encode_trajectory,
)
from vla_align_ros.params import ParameterError
from vla_align_ros.ros.bag_recorder import model_topics, parse_topics
from vla_align_ros.zoo import find_model

pytestmark = pytest.mark.ros

MODULE = "vla_align_ros.ros.bag_recorder"
JOINT_NAMES = ("shoulder", "elbow")
TYPES = {"/joints": JointState, "/chunk": JointTrajectory, "/prompt": String}
SENT = {
    "/joints": [encode_joint_state(JOINT_NAMES, np.array([0.1, n]), 10**18 + n) for n in range(5)],
    "/chunk": [encode_trajectory(hold_trajectory([0, n], 10**18, 10**8, JOINT_NAMES)) for n in (1, 2)],
    "/prompt": [encode_string("touch red")],
}
WORDS = (
    "/joints:sensor_msgs/msg/JointState chunk:trajectory_msgs/msg/JointTrajectory prompt:std_msgs/msg/String:latched"
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_bag_holds_every_byte_and_is_whole_after_a_signal(ros, tmp_path: Path, number):
    path = tmp_path / "bag"
    process = ros.run_node(MODULE, {"path": str(path), "topics": WORDS})
    recorded = ros.listen("/bag_recorder/recorded", String, LATCHED)
    publishers = {
        topic: ros.publisher(topic, message_type, LATCHED if topic == "/prompt" else RELIABLE)
        for topic, message_type in TYPES.items()
    }
    # Joints are heard best effort, and the first messages of such a pair can be lost: send some until one comes.
    first = encode_joint_state(JOINT_NAMES, np.zeros(2), 1)
    ros.wait_until(lambda: publishers["/joints"].publish(first) or len(counts(recorded)) > 0, "a joint state came")
    for topic, raws in SENT.items():
        for raw in raws:
            publishers[topic].publish(raw)
    ros.wait_until(lambda: sum(counts(recorded).get(t, 0) for t in ("/chunk", "/prompt")) == 3, "the others came")
    joints_came = counts(recorded)["/joints"]
    before_ns = ros.node.get_clock().now().nanoseconds
    assert process.stop(number, timeout_s=5.0) == 0, process.output

    messages = list(bag_messages(path))
    for topic, raws in SENT.items():
        assert [message.raw for message in messages if message.topic == topic and message.raw != first] == list(
            map(on_the_wire, raws)
        )
    assert len([message for message in messages if message.topic == "/joints"]) >= joints_came
    assert all(before_ns - 60 * 10**9 < message.t_ns <= before_ns for message in messages), "time of arrival"
    metadata = yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert metadata["message_count"] == len(messages)
    described = {
        item["topic_metadata"]["name"]: item["topic_metadata"] for item in metadata["topics_with_message_count"]
    }
    assert "transient_local" in str(described["/prompt"]["offered_qos_profiles"])


def on_the_wire(raw: bytes) -> bytes:
    """DDS pads a message to a multiple of 4 bytes."""
    return raw + bytes(-len(raw) % 4)


def counts(recorded) -> dict[str, int]:
    """Topic -> messages in the bag, as the recorder said last."""
    return json.loads(recorded.messages[-1].data) if recorded.messages else {}


def test_prompt_that_was_latched_before_the_recorder_came_is_in_the_bag(ros, tmp_path: Path):
    publisher = ros.node.create_publisher(String, "/prompt", LATCHED)
    publisher.publish(encode_string("touch blue"))
    process = ros.run_node(MODULE, {"path": str(tmp_path / "bag"), "topics": "prompt:std_msgs/msg/String:latched"})
    recorded = ros.listen("/bag_recorder/recorded", String, LATCHED)
    recorded.wait(lambda message: json.loads(message.data) == {"/prompt": 1})
    # And once what somebody says who latches nothing, as `ros2 topic pub` does.
    ros.publisher("/prompt", String, subscribers=1).publish(encode_string("touch red"))
    recorded.wait(lambda message: json.loads(message.data) == {"/prompt": 2})
    assert process.stop() == 0
    said = [on_the_wire(encode_string(text)) for text in ("touch blue", "touch red")]
    assert [message.raw for message in bag_messages(tmp_path / "bag")] == said


def test_full_disk_ends_it_with_a_sentence_and_what_is_whole_can_be_read(ros, tmp_path: Path):
    path = tmp_path / "bag"
    process = ros.run_node(MODULE, {"path": str(path), "topics": "image:sensor_msgs/msg/Image"})
    publisher = ros.publisher("/image", Image)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
    pixels = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    ros.wait_until(lambda: publisher.publish(encode_image(pixels, 10**18)) or not process.running, "the recorder ends")
    assert process.wait() == 1
    assert "the bag ends here: [Errno 27] File too large" in process.output
    assert "Traceback" not in process.output
    assert "Exception ignored" not in process.output
    assert list(bag_messages(path))


def test_whole_messages_can_be_read_after_a_kill(ros, tmp_path: Path):
    path = tmp_path / "bag"
    process = ros.run_node(MODULE, {"path": str(path), "topics": "image:sensor_msgs/msg/Image"})
    publisher = ros.publisher("/image", Image)
    rng = np.random.default_rng(0)
    sent = []

    def written() -> bool:
        """Another image on the way; true when a good part of them is on disk."""
        sent.append(encode_image(rng.integers(0, 256, (240, 320, 3), np.uint8), 10**18 + len(sent)))
        publisher.publish(sent[-1])
        return sum(file.stat().st_size for file in path.glob("*.mcap")) > 3_000_000

    ros.wait_until(written, "the bag has 3 MB")
    process.send(signal.SIGKILL)
    process.wait()
    assert not (path / "metadata.yaml").exists()
    found = [message.raw for message in bag_messages(path)]
    assert len(found) >= 5
    assert set(found) <= set(map(on_the_wire, sent))


@pytest.mark.parametrize(
    ("topics", "words"),
    [
        ("", "at least one"),
        ("joints", "'joints'"),
        ("joints:sensor_msgs/JointState", "sensor_msgs/msg/JointState"),
        ("joints:sensor_msgs/msg/JointState:late", "latched"),
        ("joints:sensor_msgs/msg/JointStat", "no message type"),
        ("a//b:std_msgs/msg/String", "a//b"),
        ("a b:std_msgs/msg/String", "'a'"),
        ("4:std_msgs/msg/String", "'4'"),
        ("joints:no_such_msgs/msg/JointState", "no message type"),
    ],
)
def test_topics_that_cannot_be_read_are_refused_with_a_sentence(topics, words):
    with pytest.raises(ParameterError, match=r"^topics: ") as refused:
        parse_topics(topics)
    assert words in str(refused.value)


def test_topics_of_a_model_can_be_read_and_latched_ones_are_marked():
    remap = {"left_wrist_0_rgb/image_raw": "/wrist/compressed"}
    topics = {topic.name: topic for topic in parse_topics(model_topics("tiny", lambda name: remap.get(name, name)))}
    assert topics["vla_policy/prompt"].latched
    assert not topics["joint_states"].latched
    assert topics["vla_policy/action_chunk"].message_class is JointTrajectory
    assert topics["base_0_rgb/image_raw"].message_class is Image
    assert topics["left_wrist_0_rgb/image_raw"].message_class is CompressedImage
    with pytest.raises(ParameterError, match=r"model: no model is set.*say what to record with topics"):
        model_topics("", str)


def test_a_robot_with_several_topics_is_recorded_whole(tmp_path: Path):
    model = yaml.safe_load((find_model("tiny") / "model.yaml").read_text())
    model["robot"]["joint_states"] = [{"topic": "arm/joint_states", "prefix": "sh"}, {"topic": "/hand", "prefix": "el"}]
    model["robot"]["command_groups"] = [
        {"topic": "arm/joint_trajectory", "type": "joint_trajectory", "joints": ["shoulder"]},
        {"topic": "hand/commands", "type": "position_stream", "joints": ["elbow"]},
    ]
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model))
    topics = {topic.name: topic for topic in parse_topics(model_topics(str(tmp_path), str))}
    assert "joint_states" not in topics
    assert {topics[name].message_class for name in ("arm/joint_states", "/hand")} == {JointState}
    assert topics["arm/joint_trajectory"].message_class is JointTrajectory
    assert topics["hand/commands"].message_class is Float64MultiArray


def test_topics_of_the_model_follow_namespace_and_remaps(ros, tmp_path: Path):
    params = {"path": str(tmp_path / "bag"), "model": "tiny"}
    remaps = ("-r", "__ns:=/arm1", "-r", "base_0_rgb/image_raw:=/cam/image_raw", "-r", "joint_states:=/js")
    remaps = (*remaps, "-r", "left_wrist_0_rgb/image_raw:=/wrist/color")
    process = ros.run_node(MODULE, params, *remaps)
    recorded = ros.listen("/arm1/bag_recorder/recorded", String, LATCHED)
    publisher = ros.publisher("/cam/image_raw", Image)
    image = encode_image(np.zeros((8, 8, 3), np.uint8), 1)
    ros.wait_until(lambda: publisher.publish(image) or len(counts(recorded)) > 0, "an image came")
    # Long after the recorder, and of the other type; and one that nothing can be made of.
    wrist = ros.node.create_publisher(CompressedImage, "/wrist/color", RELIABLE)
    ros.wait_until(lambda: wrist.publish(CompressedImage()) or "/wrist/color" in counts(recorded), "it is recorded")
    ros.node.create_publisher(String, "/js", RELIABLE)
    said = "publishes std_msgs/msg/String on /js, expected sensor_msgs/msg/JointState"
    ros.wait_until(lambda: said in process.output, "it names what it cannot record")
    assert process.stop() == 0, process.output
    metadata = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    described = [item["topic_metadata"] for item in metadata["topics_with_message_count"]]
    types = {topic["name"]: topic["type"] for topic in described}
    assert len(described) == len(types)
    assert (types["/cam/image_raw"], types["/wrist/color"]) == (IMAGE, COMPRESSED_IMAGE)
    assert set(types) == {
        "/cam/image_raw",
        "/wrist/color",
        "/js",
        "/arm1/vla_policy/prompt",
        "/arm1/vla_policy/action_chunk",
        "/arm1/vla_policy/align/report",
        "/arm1/checkpoint_manager/active",
    }


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"topics": "/a b:std_msgs/msg/String"}, "'/a'"),
        ({"topics": "a//b:std_msgs/msg/String"}, "a//b"),
        ({"model": "tiny"}, "path"),
        ({}, "model: no model is set"),
    ],
)
def test_wrong_parameter_ends_it_with_a_sentence_and_no_bag(ros, tmp_path: Path, params, words):
    path = tmp_path / "bag"
    if "model" in params:
        path.mkdir()
    process = ros.run_node(MODULE, {"path": str(path), **params})
    assert process.wait() == 2
    assert words in process.output
    assert "Traceback" not in process.output
    assert not any(path.glob("*"))
