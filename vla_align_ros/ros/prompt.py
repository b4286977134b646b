"""The prompt of a parameter, said on the topic where prompts come from."""

from __future__ import annotations

import time

from rclpy.node import Node
from std_msgs.msg import String

from vla_align_ros.observation.codecs import decode_string
from vla_align_ros.ros.sensors import LATCHED_QOS


class OwnPrompt:
    """A prompt that is latched on `topic`, so that recorders and other late comers hear it, until somebody else says
    another one there: who comes after that must not hear the old one.
    """

    def __init__(self, node: Node, topic: str, text: str) -> None:
        self._node, self._text = node, text
        self._publisher = node.create_publisher(String, topic, LATCHED_QOS)
        self._publisher.publish(String(data=text))
        self._said_ns = time.time_ns()

    def is_echo(self, raw: bytes, sent_ns: int) -> bool:
        """Whether this message on the topic is our own. Raises MessageRefused."""
        return decode_string(raw) == self._text and sent_ns <= self._said_ns

    def give_way(self, raw: bytes) -> None:
        """`raw` is in force now: where it says something else, ours is said no longer."""
        if decode_string(raw) != self._text:
            self.withdraw()

    def withdraw(self) -> None:
        """Say it no longer."""
        self._node.destroy_publisher(self._publisher)
