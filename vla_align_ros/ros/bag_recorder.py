"""The node `bag_recorder`: topics to an mcap bag, where there is no `ros2 bag`. Wiring only; see `experience.recorder`.

Without `topics` it records what an alignment reads: the model's cameras, joints, prompt and sent chunks, what went to
the controllers, and what came of alignments, in the node's namespace and with its remaps. Messages are never
deserialised. The time of each is the node's clock when it came, as `ros2 bag record` does.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rclpy.exceptions import InvalidTopicNameException
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.validate_full_topic_name import validate_full_topic_name
from std_msgs.msg import String

from vla_align_ros.experience.recorder import BagRecorder, RecorderError
from vla_align_ros.observation.codecs import COMPRESSED_IMAGE, IMAGE, JOINT_STATE, JOINT_TRAJECTORY, POSITIONS
from vla_align_ros.params import ParameterError, RecorderParams
from vla_align_ros.ros import process
from vla_align_ros.ros.inputs import Input
from vla_align_ros.ros.parameters import NodeParameters
from vla_align_ros.ros.sensors import CAMERA_TYPES, HEAR_LATCHED_QOS, LATCHED_QOS
from vla_align_ros.ros.steady import STEADY

NAME = "bag_recorder"
DEPTH = 100
REPORT_PERIOD_S = 0.5
BEST_EFFORT_PACKAGE = "sensor_msgs"  # sensor data is often sent best effort, everything else is recorded reliably
_RECORDED = (
    "vla_policy/prompt:std_msgs/msg/String:latched",
    "vla_policy/action_chunk:trajectory_msgs/msg/JointTrajectory",
    "vla_policy/align/report:std_msgs/msg/String:latched",
    "checkpoint_manager/active:std_msgs/msg/String:latched",
)
COMMAND_TYPES = {"joint_trajectory": JOINT_TRAJECTORY, "position_stream": POSITIONS}
_TYPE = re.compile(r"([a-z]\w*)/msg/([A-Z]\w*)")


@dataclass(frozen=True)
class RecordedTopic:
    """One topic to record, as the user named it; message_class is rclpy's."""

    name: str
    msgtype: str
    message_class: type
    latched: bool

    @property
    def profiles(self) -> tuple[QoSProfile, ...]:
        """What subscriptions need to hear sensor data, and latched topics whoever publishes them."""
        if self.latched:
            return HEAR_LATCHED_QOS
        best_effort = self.msgtype.startswith(f"{BEST_EFFORT_PACKAGE}/")
        reliability = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
        return (QoSProfile(depth=DEPTH, reliability=reliability),)


def model_topics(model: str, resolve: Callable[[str], str]) -> str:
    """What an alignment of `model` reads, in the form that `parse_topics` does. resolve: a topic's name after remaps,
    which decides whether a camera's images are compressed. Raises ParameterError.
    """
    # Here, since it imports torch, which takes seconds and is not needed for topics that are named.
    from vla_align_ros.policy.config import ModelConfigError, load_model_config
    from vla_align_ros.zoo import find_model

    try:
        robot = load_model_config(find_model(model)).robot
    except ModelConfigError as error:
        raise ParameterError(f"model: {error}; or say what to record with topics") from None
    topics = {
        camera: COMPRESSED_IMAGE if resolve(camera).endswith("/compressed") else IMAGE
        for camera in robot.cameras.values()
    }
    topics |= {source.topic: JOINT_STATE for source in robot.joint_states}
    topics |= {group.topic: COMMAND_TYPES[group.type] for group in robot.command_groups}
    return " ".join([*(f"{topic}:{msgtype}" for topic, msgtype in topics.items()), *_RECORDED])


def parse_topics(text: str) -> list[RecordedTopic]:
    """`name:type` or `name:type:latched`, separated by spaces. Raises ParameterError that names the wrong one."""
    topics = [_parse_topic(word) for word in text.split()]
    if not topics:
        raise ParameterError("topics: expected at least one topic:type, got nothing")
    return topics


def _parse_topic(word: str) -> RecordedTopic:
    name, *rest = word.split(":")
    match = _TYPE.fullmatch(rest[0]) if rest else None
    if not name or match is None or rest[1:] not in ([], ["latched"]):
        example = "joint_states:sensor_msgs/msg/JointState or prompt:std_msgs/msg/String:latched"
        raise ParameterError(f"topics: expected words like {example}, got {word!r}")
    package, message = match.groups()
    try:
        validate_full_topic_name(expand_topic_name(name, NAME, "/"))
        message_class = getattr(importlib.import_module(f"{package}.msg"), message)
    except (InvalidTopicNameException, ValueError) as error:
        raise ParameterError(f"topics: {name!r} is no topic name: {error}") from None
    except (ImportError, AttributeError):
        raise ParameterError(f"topics: {rest[0]} is no message type that is installed here (in {word!r})") from None
    return RecordedTopic(name, rest[0], message_class, latched=len(rest) == 2)


class BagRecorderNode(Node):
    """Records from its start until `finish`. `~/recorded`: JSON {topic: messages in the bag}, latched.

    ended: set when the bag takes no more, as on a full disk; `failed` then says so.
    """

    def __init__(self, ended: threading.Event) -> None:
        """Raises ParameterError for topics that cannot be recorded, and for a path where no bag can be made."""
        super().__init__(NAME)
        self._params = params = NodeParameters(self, RecorderParams).values
        topics = parse_topics(params.topics or model_topics(params.model, self.resolve_topic_name))
        path = Path(params.path).expanduser() if params.path else Path(f"bag_{datetime.now():%Y%m%d_%H%M%S}")
        try:
            resolved = {self.resolve_topic_name(topic.name): topic for topic in topics}
            latched = [name for name, topic in resolved.items() if topic.latched]
            self._bag = BagRecorder(path, {name: topic.msgtype for name, topic in resolved.items()}, latched)
        except RecorderError as error:
            raise ParameterError(f"path {path} with topics {[t.name for t in topics]}: {error}") from error
        self._counts: Counter[str] = Counter()
        self._ended = ended
        self.failed = False
        self._recorded_publisher = self.create_publisher(String, "~/recorded", LATCHED_QOS)
        self._inputs = [self._input(name, topic) for name, topic in resolved.items()]
        self.create_timer(REPORT_PERIOD_S, self._report, clock=STEADY)
        self.get_logger().info(f"recording {len(resolved)} topics to {path.absolute()}")

    def _input(self, name: str, topic: RecordedTopic) -> Input:
        kinds = {topic.msgtype: topic.message_class}
        if topic.message_class in CAMERA_TYPES.values() and not self._params.topics:
            kinds |= CAMERA_TYPES  # as the policy does, whichever is published
        return Input(
            self,
            name,
            topic.name,
            kinds,
            topic.profiles,
            lambda raw, kind, _, ns: self._write(name, raw, kind, ns),
            False,
        )

    def finish(self) -> None:
        """Close the bag; what comes later is not recorded."""
        self._ended.set()
        try:
            self._bag.close()
        except RecorderError as error:
            self._fail(error)
        self.get_logger().info(f"recorded {self._counts.total()} messages")

    def _write(self, topic: str, raw: bytes, msgtype: str, came_ns: int) -> None:
        if self._ended.is_set():
            return
        try:
            self._bag.write(topic, raw, came_ns, msgtype)
            self._counts[topic] += 1
        except RecorderError as error:
            self._fail(error)

    def _fail(self, error: RecorderError) -> None:
        self.failed = True
        self.get_logger().error(str(error))
        self._ended.set()

    def _report(self) -> None:
        self._recorded_publisher.publish(String(data=json.dumps(self._counts)))
        for heard in self._inputs:  # a publisher of another type, or whose QoS does not fit, may come at any time
            heard.check()


def main() -> None:
    """Record until SIGINT or SIGTERM; exit code 0, 1 when the disk took no more, 2 for a wrong parameter."""
    made: list[BagRecorderNode] = []
    ended = threading.Event()

    def make() -> list[list[Node]]:
        made.append(BagRecorderNode(ended))
        return [list(made)]

    code = process.run(make, goodbye=lambda: made[0].finish(), started=lambda: None, stop=ended)
    sys.exit(code or (1 if made and made[0].failed else 0))


if __name__ == "__main__":
    main()
