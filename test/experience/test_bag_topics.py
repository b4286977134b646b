"""Which topics a bag of which robot has, and joints that come on several of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bag_files import arrivals, write_mcap
from robots import a_robot
from rosbags.typesys.stores import ros2_jazzy as ros
from simulated_run import JOINTS, JOINTS_TOPIC, ROBOT, TOPICS, TYPES, Sent, eventful_run, new_pipeline, same

from vla_align_ros.experience.bag import BagReading
from vla_align_ros.experience.bag_topics import BagTopics, bag_topics, in_namespace
from vla_align_ros.experience.storage import BagError
from vla_align_ros.observation.codecs import JOINT_STATE, deserialise, encode_joint_state
from vla_align_ros.robot.description import RobotDescription, StateField, load_description
from vla_align_ros.types import Experience

EXAMPLES = Path(__file__).parents[2] / "config" / "robots"
ALOHA = load_description(EXAMPLES / "aloha_bimanual.yaml")
RUN = eventful_run()
# The same two joints, each from a driver of its own that calls it otherwise.
ARM, HAND = "/arm/joint_states", "/hand/joint_states"
TWO_DRIVERS = a_robot(
    cameras=ROBOT.cameras,
    joint_states=[{"topic": "arm/joint_states", "prefix": "shou"}, {"topic": "hand/joint_states", "prefix": "el"}],
)


def read(path: Path, robot: RobotDescription, topics: BagTopics) -> tuple[list[Experience], BagReading]:
    reading = BagReading(path, topics, *new_pipeline(robot=robot))
    return list(reading), reading


def apart(run: list[Sent], change: Callable[[str, np.ndarray], np.ndarray] = lambda topic, value: value) -> list[Sent]:
    """The joint states as two drivers send them."""
    made = []
    for sent in run:
        if sent.topic != JOINTS_TOPIC:
            made.append(sent)
            continue
        both = deserialise(sent.raw, ros.sensor_msgs__msg__JointState).position
        for topic, names, value in ((ARM, ["wheel", "lder"], both[0]), (HAND, ["bow"], both[1])):
            position = change(topic, np.array([np.nan, value][-len(names) :]))
            made.append(Sent(topic, sent.stamp_ns, encode_joint_state(names, position, sent.stamp_ns)))
    return made


def bag(path: Path, run: list[Sent], late_ns: int = 0) -> Path:
    for topic in (ARM, HAND):
        TYPES.setdefault(topic, JOINT_STATE)
    return write_mcap(path, arrivals(run, late_ns))


def test_joints_on_two_topics_give_the_experiences_of_one_topic(tmp_path: Path) -> None:
    expected, _ = read(bag(tmp_path / "one.mcap", RUN), ROBOT, TOPICS)
    topics = bag_topics(TWO_DRIVERS, prompt="prompt", command="chunk")
    for late_ns in (0, -(3600 * 10**9)):  # also with a recorder whose clock is an hour behind
        found, reading = read(bag(tmp_path / f"two{late_ns}.mcap", apart(RUN), late_ns), TWO_DRIVERS, topics)
        assert len(found) == len(expected) > 5
        assert all(same(one, other) for one, other in zip(found, expected, strict=True))
        lines = "\n".join(reading.summary.lines())
        assert f"joints arm/joint_states: {ARM} (sensor_msgs/msg/JointState), " in lines
        assert f"joints hand/joint_states: {HAND} (sensor_msgs/msg/JointState), " in lines
        assert (f"{ARM} was received 3600.000 s earlier" in lines) is (late_ns != 0)


def test_a_driver_without_a_topic_is_named_with_its_option(tmp_path: Path) -> None:
    topics = bag_topics(TWO_DRIVERS, prompt="prompt", command="chunk")
    half = bag(tmp_path / "half.mcap", [sent for sent in apart(RUN) if sent.topic != HAND])
    hint = f"joints hand/joint_states: no messages on {HAND}, give --joint-topic hand/joint_states=TOPIC"
    with pytest.raises(BagError, match=hint):
        read(half, TWO_DRIVERS, topics)
    renamed = bag_topics(TWO_DRIVERS, joints={"hand/joint_states": "gripper"}, prompt="prompt", command="chunk")
    hint = f"no messages on /gripper, give --joint-topic hand/joint_states={HAND}"
    with pytest.raises(BagError, match=hint):
        read(bag(tmp_path / "whole.mcap", apart(RUN)), TWO_DRIVERS, renamed)


@pytest.mark.parametrize("names", [("hip", "knee"), ("shoulder", "knee")], ids=["all others", "one of them"])
def test_a_bag_of_another_robot_is_refused_with_the_names_of_its_joints(tmp_path: Path, names: tuple[str, str]) -> None:
    renamed = [
        Sent(sent.topic, sent.stamp_ns, encode_joint_state(names, np.zeros(2), sent.stamp_ns))
        if sent.topic == JOINTS_TOPIC
        else sent
        for sent in RUN
    ]
    missing = [name for name in JOINTS if name not in names]
    with pytest.raises(BagError) as error:
        read(bag(tmp_path / "other.mcap", renamed), ROBOT, TOPICS)
    assert f"no joint state of {missing}, is this another robot's bag? /joints names {list(names)}" in str(error.value)
    assert f"the model reads {list(JOINTS)} there" in str(error.value)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_names_its_topics_in_its_namespace(path: Path) -> None:
    robot = load_description(path)
    topics = bag_topics(robot, in_namespace("cell_1/"))
    assert list(topics.joints) == [f"/cell_1/{source.topic}" for source in robot.joint_states]
    assert list(topics.cameras.values()) == [f"/cell_1/{topic}" for topic in robot.cameras.values()]
    assert (topics.prompt, topics.command) == ("/cell_1/vla_policy/prompt", "/cell_1/vla_policy/action_chunk")
    read_there = [
        f"{topics.joints[topic].prefix}{name}" for topic, names in topics.joint_names.items() for name in names
    ]
    assert sorted(read_there) == sorted({field.joint for field in robot.state})
    assert in_namespace("cell_1")("/clock") == "/clock"
    assert in_namespace("")("joint_states") == "/joint_states"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"cameras": {"top": "/top"}}, r"no camera \['top'\], it has \['cam_high'"),
        ({"joints": {"joint_states": "/all"}}, r"no joint-state topic \['joint_states'\], it has \['follower_left/"),
        ({"joints": {"follower_left/joint_states": "follower_right/joint_states"}}, "one topic in two places"),
        ({"prompt": "cam_high/color/image_raw"}, "one topic in two places"),
    ],
)
def test_topics_that_cannot_be_meant_are_refused(given: dict[str, dict[str, str]], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        bag_topics(ALOHA, **given)


def test_a_bag_whose_joint_states_lack_what_the_state_reads_says_so(tmp_path: Path) -> None:
    robot = a_robot(
        cameras=ROBOT.cameras,
        joint_states=[{"topic": "joints"}],
        state=(*ROBOT.state, StateField(joint="elbow", entry="velocity", name="elbow.vel")),
    )
    found, reading = read(bag(tmp_path / "slow.mcap", RUN), robot, bag_topics(robot, prompt="prompt", command="chunk"))
    assert found == []
    text = "\n".join(reading.summary.lines())
    first = "a joint state with 2 names and no velocity; the state reads that of ['elbow']"
    assert f"empty_velocity, the first: empty_velocity: {first}" in text
    assert "at the end of the bag: no_joints: no joint state of ['shoulder', 'elbow']" in text
    assert f"connected? A joint state was refused: empty_velocity: {first}." in text
