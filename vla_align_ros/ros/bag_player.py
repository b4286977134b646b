"""The node `bag_player`: a bag back onto its topics with /clock, where there is no `ros2 bag play`. Wiring only; see
`experience.playback`.

It plays what a policy observes. What moves a robot is played only when asked for, and nothing is played on a topic of
cameras, joints or commands on which somebody else publishes: a real robot may be there.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from pathlib import Path

from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock as ClockMessage

from vla_align_ros.experience.playback import batches
from vla_align_ros.experience.recording import Recording
from vla_align_ros.experience.storage import BagError
from vla_align_ros.observation.codecs import COMPRESSED_IMAGE, IMAGE, JOINT_STATE, STRING
from vla_align_ros.params import ParameterError, PlayerParams
from vla_align_ros.ros import process
from vla_align_ros.ros.bag_recorder import COMMAND_TYPES, parse_topics
from vla_align_ros.ros.parameters import NodeParameters
from vla_align_ros.ros.sensors import LATCHED_QOS

NAME = "bag_player"
OBSERVED = (IMAGE, COMPRESSED_IMAGE, JOINT_STATE, STRING)
PLAYED_QOS = QoSProfile(depth=100)  # reliable: heard by best-effort subscriptions too
HEARD_S = 5.0  # how long to wait for somebody who hears each topic, and until the last messages are heard
LOOK_S = 0.05  # how often to look for them, and while playing for others who publish
EXACT_S = 0.15  # the clock stands so long around a message whose time of arrival matters
BURST, BURST_S = 10, 0.02  # so many messages of a topic at once, as after a stall of the recorder; then a pause
BEHIND_S = 0.02  # what a step may be late; more than that is not caught up in a burst that would be lost


class PlayError(RuntimeError):
    """The bag is not played, or not to its end; the message says why."""


class BagPlayerNode(Node):
    """Plays one bag once, then sets `done`. `failure`: why it was not played; or empty."""

    def __init__(self, done: threading.Event) -> None:
        """Raises ParameterError for a bag that cannot be read, or has nothing to play."""
        super().__init__(NAME)
        self._params = params = NodeParameters(self, PlayerParams).values
        self._done = done
        self.failure = ""
        self._path = Path(params.path).expanduser()
        try:
            if not params.path:
                raise BagError("expected the folder of a bag, got nothing")
            self._recording = Recording([self._path])
        except BagError as error:
            raise ParameterError(f"path: {error}") from error
        for lost in self._recording.lost:
            self.get_logger().warning(lost)
        found = {topic: types.most_common(1)[0][0] for topic, types in self._recording.counts.items()}
        if unknown := sorted(set(params.topics.split()) - set(found)):
            raise ParameterError(f"topics: {unknown} are not in {self._path}, which has {sorted(found)}")
        played = (*OBSERVED, *COMMAND_TYPES.values()) if params.commands else OBSERVED
        chosen = {topic: found[topic] for topic in params.topics.split() or found}
        self._types = {topic: kind for topic, kind in chosen.items() if kind in played}
        if left_out := {topic: kind for topic, kind in chosen.items() if kind not in played}:
            self.get_logger().warning(f"not played: {left_out}; commands only with commands: true")
        for topic, kind in self._types.items():
            others = {other: n for other, n in self._recording.counts[topic].items() if other != kind}
            if others:
                self.get_logger().warning(f"{topic} is played as {kind}; not played, of other types: {others}")
        if not self._types:
            raise ParameterError(f"topics: nothing to play in {self._path}, which has {found}")
        self._clock = self.create_publisher(ClockMessage, "/clock", 10)

    def play(self) -> None:
        """Play to the end, or until `done` is set."""
        try:
            self._wait_for_listeners()
            if not self._params.topics:
                self._pass_over_texts_of_others()
            self._refuse_others(ours=0)
            publishers = {topic: self._publisher(topic, kind) for topic, kind in self._types.items()}
            self._wait_for_matches([self._clock, *publishers.values()])
            self.get_logger().info(f"playing {sorted(publishers)} of {self._path}, {self._params.rate:g} s in a second")
            self._play(publishers)
            self._wait_until_heard([self._clock, *publishers.values()])
        except (PlayError, BagError, ParameterError) as error:
            self.failure = str(error)
            self.get_logger().error(self.failure)
        finally:
            self._recording.close()
            self._done.set()

    def _wait_for_listeners(self) -> None:
        deadline_s = time.monotonic() + HEARD_S
        while unheard := [topic for topic in self._types if not self.count_subscribers(self.resolve_topic_name(topic))]:
            if time.monotonic() > deadline_s:
                self.get_logger().warning(f"nobody hears {unheard}")
                return
            if self._done.wait(LOOK_S):
                return

    def _wait_for_matches(self, publishers: list[Publisher]) -> None:
        """What is sent before a subscription is matched is lost to it."""
        deadline_s = time.monotonic() + HEARD_S
        while any(
            self.count_subscribers(publisher.topic_name) and not publisher.get_subscription_count()
            for publisher in publishers
        ):
            if time.monotonic() > deadline_s or self._done.wait(LOOK_S):
                return

    def _wait_until_heard(self, publishers: list[Publisher]) -> None:
        """What has not arrived when the process ends is lost. Of best-effort subscriptions nobody knows."""
        deadline_s = time.monotonic() + HEARD_S
        # Asked without a timeout: rclpy would wait with Python's lock held.
        while unheard := [each.topic_name for each in publishers if not each.wait_for_all_acked(Duration(seconds=0))]:
            if time.monotonic() > deadline_s:
                self.get_logger().warning(f"nobody confirms the last messages on {unheard}")
                return
            if self._done.wait(LOOK_S):
                return

    def _pass_over_texts_of_others(self) -> None:
        """What running nodes report goes before what those of the bag did."""
        for topic in [topic for topic, kind in self._types.items() if kind == STRING]:
            if self.count_publishers(self.resolve_topic_name(topic)):
                self.get_logger().info(f"{topic} is not played: somebody publishes there")
                del self._types[topic]

    def _refuse_others(self, *, ours: int) -> None:
        """ours: how many publishers this node has on each topic that it plays."""
        if self.count_publishers("/clock") > 1:
            raise PlayError("somebody else publishes /clock: play the bag in a ROS_DOMAIN_ID of its own")
        for topic in [topic for topic, kind in self._types.items() if kind != STRING]:
            if self.count_publishers(self.resolve_topic_name(topic)) > ours:
                raise PlayError(
                    f"somebody else publishes on {topic}, perhaps a robot: play the bag in a ROS_DOMAIN_ID of its own, "
                    f"or remap the topic"
                )

    def _publisher(self, topic: str, msgtype: str) -> Publisher:
        message_class = parse_topics(f"{topic}:{msgtype}")[0].message_class
        return self.create_publisher(message_class, topic, LATCHED_QOS if msgtype == STRING else PLAYED_QOS)

    def _play(self, publishers: dict[str, Publisher]) -> None:
        params, began_s, first_ns, looked_s = self._params, time.monotonic(), 0, time.monotonic()
        messages = self._recording.messages()
        played = (message for message in messages if self._types.get(message.topic, message.msgtype) == message.msgtype)
        for batch in batches(played, self._types, params.from_ns, params.until_ns):
            first_ns = first_ns or batch.clock_ns
            early_s = began_s + (batch.clock_ns - first_ns) * 1e-9 / params.rate - time.monotonic()
            if self._done.wait(max(0.0, early_s)):
                return
            if early_s < -BEHIND_S:
                began_s -= early_s
            # The clock goes first: no message is stamped ahead of it. It stands around one without a stamp.
            seconds, nanoseconds = divmod(batch.clock_ns, 1_000_000_000)
            self._clock.publish(ClockMessage(clock=Time(sec=seconds, nanosec=nanoseconds)))
            if batch.exact and self._done.wait(EXACT_S):
                return
            sent = Counter[str]()
            for message in batch.messages:
                publishers[message.topic].publish(message.raw)
                sent[message.topic] += 1
                if sent[message.topic] % BURST == 0 and self._done.wait(BURST_S):
                    return
            if batch.exact and self._done.wait(EXACT_S):
                return
            if time.monotonic() - looked_s > LOOK_S:
                looked_s = time.monotonic()
                self._refuse_others(ours=1)
        if not first_ns:
            raise PlayError(f"{self._path} has no message between from_ns and until_ns")


def main() -> None:
    """Play until the end, SIGINT or SIGTERM; exit code 0, 1 when the bag was not played, 2 for a wrong parameter."""
    made: list[BagPlayerNode] = []
    done = threading.Event()

    def make() -> list[list[Node]]:
        made.append(BagPlayerNode(done))
        return [list(made)]

    code = process.run(make, goodbye=lambda: None, started=lambda: made[0].play(), stop=done)
    sys.exit(code or (1 if made and made[0].failure else 0))


if __name__ == "__main__":
    main()
