"""When a message of a bag came, in the time of the header stamps.

A recorder notes its own clock. Where that is the clock of the stamps, a message came when the recorder says so. Where
it is another one (a second computer, simulated time in the stamps and not in the recorder, a bag that was recorded from
a replay), the stamps of the joints tell the time: those of one topic, the first of the robot description that has any.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Final

import numpy as np

from vla_align_ros.experience.bag_order import FALL_NS
from vla_align_ros.experience.storage import BagMessage
from vla_align_ros.observation.codecs import COMPRESSED_IMAGE, IMAGE, JOINT_STATE, JOINT_TRAJECTORY

STAMPED: Final = {IMAGE, COMPRESSED_IMAGE, JOINT_STATE, JOINT_TRAJECTORY}  # these begin with a header
SAME_CLOCK_S: Final = 0.05  # the quickest messages take less, and none comes before it is stamped
_RECENT: Final = 5  # joint states; the quickest of them tells how far apart the clocks are
_STEP_NS: Final = 500_000_000  # of receive time: a burst of late joint states is over by then, a clock that was set not
_S: Final = 1e-9


def stamp_ns_of(message: BagMessage, joint_names: Mapping[str, Sequence[str]]) -> int | None:
    """header.stamp of a message whose type is in STAMPED; None where there is none, or it is 0 or no time, or it is of
    a joint state with none of its topic's `joint_names`: wheels on the same topic may have a clock of their own."""
    if message.msgtype not in STAMPED or len(message.raw) < 12:
        return None
    order = "<" if message.raw[1] & 1 else ">"
    if message.msgtype == JOINT_STATE and not any(
        _as_cdr(name, order) in message.raw for name in joint_names.get(message.topic, ())
    ):
        return None
    sec, nanosec = struct.unpack_from(f"{order}iI", message.raw, 4)
    return sec * 10**9 + nanosec if sec >= 0 and nanosec < 10**9 and sec + nanosec > 0 else None


@cache
def _as_cdr(text: str, order: str) -> bytes:
    encoded = text.encode() + b"\0"
    return struct.pack(f"{order}I", len(encoded)) + encoded


class BagClock:
    """joint_names: of each joint-state topic, in the description's order. ages_ns: by topic, of all joint states with
    one of those names, receive time minus stamp. lag_s: how late a message may come and still count.

    topic: whose stamps tell the time. sentence: says that and how far the two clocks differ; empty where they do not.
    """

    def __init__(
        self, joint_names: Mapping[str, Sequence[str]], ages_ns: Mapping[str, Sequence[float]], lag_s: float
    ) -> None:
        self.sentence = ""
        self._joint_names = joint_names
        self.topic = next((topic for topic in joint_names if ages_ns.get(topic)), next(iter(joint_names)))
        self._tell(ages_ns.get(self.topic, ()), lag_s)

    def _tell(self, ages_ns: Sequence[float], lag_s: float) -> None:
        self._ages_ns = deque((round(age) for age in ages_ns[:_RECENT]), maxlen=_RECENT)
        self._newest_ns, self._now_ns = -(2**63), -(2**63)
        self._fast_since_ns: int | None = None  # receive time since which the joints come far behind the time
        if len(ages_ns):
            quick, middle, slow = np.quantile(np.asarray(ages_ns), (0.05, 0.5, 0.95)) * _S
            if abs(quick) > SAME_CLOCK_S or slow > lag_s:
                self.sentence = (
                    f"the recorder's clock is not that of the stamps: {self.topic} was received {abs(middle):.3f} s "
                    f"{'later' if middle >= 0 else 'earlier'} (from {quick:.3f} to {slow:.3f} s) than stamped; the "
                    "stamps decide"
                )

    def retimed(self, messages: Iterable[BagMessage]) -> Iterator[BagMessage]:
        """The same messages with `t_ns`, when they came, by the clock of the stamps."""
        if not self.sentence:
            yield from messages
            return
        for message in messages:
            stamp_ns = stamp_ns_of(message, self._joint_names) if message.topic == self.topic else None
            if stamp_ns is not None:
                if stamp_ns < self._newest_ns - FALL_NS:  # the stamps' clock fell back
                    self._ages_ns.clear()
                    self._newest_ns, self._now_ns = stamp_ns, -(2**63)
                self._newest_ns = max(self._newest_ns, stamp_ns)
                self._ages_ns.append(message.t_ns - stamp_ns)
            self._now_ns = max(self._now_ns, message.t_ns - min(self._ages_ns))
            if self._was_set_ahead(message.t_ns):
                self._now_ns = self._newest_ns
            yield message._replace(t_ns=self._now_ns)

    def _was_set_ahead(self, t_ns: int) -> bool:
        """Whether the recorder's clock was set ahead a while ago: the time ran away from all joint states since."""
        if self._now_ns - self._newest_ns <= FALL_NS or self._now_ns - (t_ns - min(self._ages_ns)) <= FALL_NS:
            self._fast_since_ns = None
        elif self._fast_since_ns is None:
            self._fast_since_ns = t_ns
        return self._fast_since_ns is not None and t_ns - self._fast_since_ns > _STEP_NS
