"""`JointState` messages -> numbers of the state: which names in a message are the robot's, which of their numbers the
state reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rosbags.typesys.stores import ros2_jazzy as ros

from vla_align_ros.observation.codecs import RawMessage, deserialise, header_stamp_ns
from vla_align_ros.observation.refusal import MessageReason, MessageRefused
from vla_align_ros.robot.description import StateField
from vla_align_ros.types import Float32Array

_LAYOUTS: Final = 64  # kinds of messages that are remembered; a robot's publishers send a few
_EMPTY: Final = {
    "position": MessageReason.EMPTY_POSITION,
    "velocity": MessageReason.EMPTY_VELOCITY,
    "effort": MessageReason.EMPTY_EFFORT,
}


@dataclass(frozen=True)
class Layout:
    """What all messages with the same names under the same prefix have in common.

    names: in the message, with the prefix before each. joints: of the state, that are among them, in its order; none is
    possible. columns: of the state, rising, that such a message fills. positions: where among `columns` those of
    positions are. sources: entry -> where among `columns` its numbers go, and where in the message's array they are.
    twice: joints of the state that are there more than once. sensor, what: names for diagnostics and for sentences.
    """

    names: tuple[str, ...]
    joints: tuple[str, ...]
    columns: tuple[int, ...]
    positions: NDArray[np.intp]
    sources: dict[str, tuple[NDArray[np.intp], NDArray[np.intp]]]
    twice: tuple[str, ...]
    sensor: str
    what: str


@dataclass(frozen=True)
class StampedJoints:
    """stamp_ns: header.stamp, 0 for a message without a joint of the state. values: (N,) float32 in ROS's units,
    finite, read-only, one a column of the layout."""

    stamp_ns: int
    layout: Layout
    values: Float32Array


class JointStateReader:
    """fields: the state, field by field."""

    def __init__(self, fields: Sequence[StateField]) -> None:
        self.fields = tuple(fields)
        self._layout = lru_cache(maxsize=_LAYOUTS)(self._make_layout)

    def read(self, raw: RawMessage, prefix: str = "") -> StampedJoints:
        """The numbers that the state reads, found by name. prefix: comes before each name in the message. Other joints
        are ignored, whatever their numbers are, and so are entries that no field reads.

        Raises MessageRefused: malformed, and for a message with a joint of the state, or without names, bad_stamp,
        empty_position, empty_velocity, empty_effort, length_mismatch, duplicate_joint, non_finite.
        """
        message = deserialise(raw, ros.sensor_msgs__msg__JointState)
        layout = self._layout(prefix, tuple(message.name))
        if not layout.columns and layout.names:
            return StampedJoints(0, layout, np.zeros(0, np.float32))
        stamp_ns = header_stamp_ns(message.header)
        values = np.empty(len(layout.columns), np.float32)
        for entry, (places, indices) in layout.sources.items():
            numbers = getattr(message, entry)
            if len(numbers) != len(layout.names) or not len(numbers):
                raise self._wrong_length(entry, len(numbers), layout)
            with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, refused below
                values[places] = numbers[indices]
        if layout.twice:
            text = f"{list(layout.twice)} more than once in {list(layout.names)}"
            raise MessageRefused(MessageReason.DUPLICATE_JOINT, text)
        if not np.isfinite(values).all():
            fields = [self.fields[column] for column in layout.columns]
            wrong = [
                f"the {field.entry} of {field.joint}"
                for field, value in zip(fields, values, strict=True)
                if not np.isfinite(value)
            ]
            raise MessageRefused(MessageReason.NON_FINITE, f"{', '.join(wrong)} is NaN or infinite")
        values.flags.writeable = False
        return StampedJoints(stamp_ns, layout, values)

    def _make_layout(self, prefix: str, on_wire: tuple[str, ...]) -> Layout:
        names = tuple(f"{prefix}{name}" for name in on_wire)
        index = {name: place for place, name in enumerate(names)}
        columns = tuple(column for column, field in enumerate(self.fields) if field.joint in index)
        found = [self.fields[column] for column in columns]
        sources = {}
        for entry in dict.fromkeys(field.entry for field in found) or ["position"]:
            places = [place for place, field in enumerate(found) if field.entry == entry]
            indices = [index[found[place].joint] for place in places]
            sources[entry] = np.array(places, np.intp), np.array(indices, np.intp)
        joints = tuple(dict.fromkeys(field.joint for field in found))
        whole = set(joints) == {field.joint for field in self.fields if field.joint.startswith(prefix)}
        part = prefix if whole else "+".join(joints)
        of = "" if part == "" else f" of {part if whole else list(joints)}"
        return Layout(
            names,
            joints,
            columns,
            np.array([place for place, field in enumerate(found) if field.entry == "position"], np.intp),
            sources,
            tuple(joint for joint in joints if names.count(joint) > 1),
            f"joints.{part}" if part else "joints",
            f"the joint state{of}",
        )

    def _wrong_length(self, entry: str, count: int, layout: Layout) -> MessageRefused:
        if count:
            text = f"expected one {entry} a name, got {count} for {len(layout.names)} names"
            return MessageRefused(MessageReason.LENGTH_MISMATCH, text)
        text = f"a joint state with {len(layout.names)} names and no {entry}"
        fields = [self.fields[column] for column in layout.columns]
        needed = [field.joint for field in fields if field.entry == entry]
        return MessageRefused(_EMPTY[entry], text + (f"; the state reads that of {needed}" if needed else ""))
