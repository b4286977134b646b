"""Serialised ROS 2 messages <-> numpy, without ROS: the one way in for live topics and for bags.

`decode_*` take the CDR bytes of one message and either return finite, well-shaped numbers or raise `MessageRefused`; no
other exception leaves them, whatever the bytes are. `encode_*` make such bytes. `rgb8` images are views on the message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rosbags.serde import SerdeError
from rosbags.serde.utils import check_string
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.stores import ros2_jazzy as ros

from vla_align_ros.observation.images import decompressed, to_rgb
from vla_align_ros.observation.refusal import MessageReason as MessageReason
from vla_align_ros.observation.refusal import MessageRefused as MessageRefused
from vla_align_ros.types import NOT_SAID, STANDS_RAD_S, Trajectory, TrajectoryError, UInt8Array

TYPESTORE: Final = get_typestore(Stores.ROS2_JAZZY)
IMAGE: Final = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE: Final = "sensor_msgs/msg/CompressedImage"
JOINT_STATE: Final = "sensor_msgs/msg/JointState"
STRING: Final = "std_msgs/msg/String"
JOINT_TRAJECTORY: Final = "trajectory_msgs/msg/JointTrajectory"
POSITIONS: Final = "std_msgs/msg/Float64MultiArray"

RawMessage = bytes | bytearray | memoryview
Message = TypeVar("Message")
_NS: Final = 1_000_000_000


@dataclass(frozen=True)
class StampedImage:
    """image: (height, width, 3) uint8 RGB, possibly a read-only view on the message. stamp_ns: header.stamp."""

    stamp_ns: int
    image: UInt8Array


def decode_image(raw: RawMessage, msgtype: str) -> StampedImage:
    """A `sensor_msgs/msg/Image` (`images.ENCODINGS`; rows may be padded) or `CompressedImage` (JPEG, PNG).

    Raises MessageRefused: malformed, wrong_type, bad_stamp, empty_data, wrong_encoding, wrong_step, wrong_size,
    torn_image, undecodable.
    """
    if msgtype == IMAGE:
        message = deserialise(raw, ros.sensor_msgs__msg__Image)
        image = to_rgb(message.data, message.width, message.height, message.step, message.encoding)
        return StampedImage(header_stamp_ns(message.header), image)
    if msgtype == COMPRESSED_IMAGE:
        compressed = deserialise(raw, ros.sensor_msgs__msg__CompressedImage)
        return StampedImage(header_stamp_ns(compressed.header), decompressed(compressed.data, compressed.format))
    raise MessageRefused(
        MessageReason.WRONG_TYPE, f"a camera topic must be {IMAGE} or {COMPRESSED_IMAGE}, got {msgtype}"
    )


def decode_string(raw: RawMessage) -> str:
    """The text of a `std_msgs/msg/String`. Raises MessageRefused: malformed."""
    return deserialise(raw, ros.std_msgs__msg__String).data


def decode_positions(raw: RawMessage, count: int) -> NDArray[np.float64]:
    """The `count` numbers of a `std_msgs/msg/Float64MultiArray`, read as forward_command_controller does, whatever its
    layout says. Raises MessageRefused: malformed, length_mismatch, non_finite."""
    data = np.array(deserialise(raw, ros.std_msgs__msg__Float64MultiArray).data, np.float64)
    if len(data) != count:
        raise MessageRefused(MessageReason.LENGTH_MISMATCH, f"expected {count} positions, got {len(data)}")
    if not np.isfinite(data).all():
        raise MessageRefused(MessageReason.NON_FINITE, f"positions with NaN or infinity: {data.tolist()}")
    return data


def decode_trajectory(raw: RawMessage, joint_names: Sequence[str] | None = None) -> Trajectory:
    """A `trajectory_msgs/msg/JointTrajectory` for exactly `joint_names` (in any order), columns in that order; None:
    for those that it names. Every point has positions; all of them or none have velocities, and accelerations. A stamp
    of 0 means now.

    Raises MessageRefused: malformed, bad_stamp, missing_joint, unknown_joint, duplicate_joint, empty_trajectory,
    empty_position, effort_point, length_mismatch, non_finite, still_moving, bad_trajectory.
    """
    message = deserialise(raw, ros.trajectory_msgs__msg__JointTrajectory)
    stamp_ns = header_stamp_ns(message.header, zero_means_now=True)
    joint_names = message.joint_names if joint_names is None else joint_names
    columns = _columns(message.joint_names, joint_names)
    if extra := sorted(set(message.joint_names) - set(joint_names)):
        raise MessageRefused(
            MessageReason.UNKNOWN_JOINT, f"{extra} are no joints of the model, which has {list(joint_names)}"
        )
    points = message.points
    if not points:
        raise MessageRefused(MessageReason.EMPTY_TRAJECTORY, "a trajectory without points says no motion")
    if empty := [index for index, point in enumerate(points) if not len(point.positions)]:
        text = f"points {empty} have no positions; velocities, accelerations or efforts alone cannot be read"
        raise MessageRefused(MessageReason.EMPTY_POSITION, text)
    if any(len(point.effort) for point in points):
        raise MessageRefused(MessageReason.EFFORT_POINT, "points with efforts; positions and velocities can be read")
    rows = {
        name: _rows([getattr(point, name) for point in points], name, columns)
        for name in ("positions", "velocities", "accelerations")
    }
    if rows["velocities"].size and (np.abs(rows["velocities"][-1]) > STANDS_RAD_S).any():
        text = f"the last point must have velocity 0, got {rows['velocities'][-1].tolist()} rad/s"
        raise MessageRefused(MessageReason.STILL_MOVING, text)
    times_ns = [point.time_from_start.sec * _NS + point.time_from_start.nanosec for point in points]
    try:
        return Trajectory(stamp_ns, tuple(joint_names), np.array(times_ns, np.int64), **rows)
    except TrajectoryError as error:
        raise MessageRefused(MessageReason.BAD_TRAJECTORY, str(error)) from None


def encode_image(image: UInt8Array, stamp_ns: int) -> bytes:
    """An (height, width, 3) uint8 RGB image as the CDR bytes of an rgb8 `sensor_msgs/msg/Image`."""
    height, width, _ = image.shape
    pixels = np.ascontiguousarray(image).reshape(-1)
    return _serialise(ros.sensor_msgs__msg__Image(_header(stamp_ns), height, width, "rgb8", 0, 3 * width, pixels))


def encode_joint_state(
    names: Sequence[str], position: ArrayLike, stamp_ns: int, velocity: ArrayLike = (), effort: ArrayLike = ()
) -> bytes:
    """The CDR bytes of a `sensor_msgs/msg/JointState`: position, velocity and effort in ROS's units, one a name each,
    or empty."""
    entries = [np.array(entry, np.float64) for entry in (position, velocity, effort)]
    return _serialise(ros.sensor_msgs__msg__JointState(_header(stamp_ns), list(names), *entries))


def encode_string(text: str) -> bytes:
    """The CDR bytes of a `std_msgs/msg/String`."""
    return _serialise(ros.std_msgs__msg__String(text))


def encode_trajectory(trajectory: Trajectory) -> bytes:
    """The CDR bytes of a `trajectory_msgs/msg/JointTrajectory`."""
    said = [
        [np.array(row) for row in rows] if rows.size else [np.zeros(0)] * len(trajectory.times_ns)
        for rows in (trajectory.positions, trajectory.velocities, trajectory.accelerations)
    ]
    points = [
        ros.trajectory_msgs__msg__JointTrajectoryPoint(
            position,
            velocity,
            acceleration,
            np.zeros(0),
            ros.builtin_interfaces__msg__Duration(*divmod(int(time_ns), _NS)),
        )
        for time_ns, position, velocity, acceleration in zip(trajectory.times_ns, *said, strict=True)
    ]
    return _serialise(
        ros.trajectory_msgs__msg__JointTrajectory(_header(trajectory.stamp_ns), list(trajectory.joint_names), points)
    )


def _accept_empty_strings() -> None:
    """In the readers that rosbags generated for our messages: some DDS vendors write an empty string as length 0,
    without the NUL that rosbags insists on."""

    def check(raw: bytes | memoryview, pos: int, length: int, *, cdr: bool) -> None:
        if length:
            check_string(raw, pos, length, cdr=cdr)

    for msgtype in ("std_msgs/msg/Header", IMAGE, COMPRESSED_IMAGE, JOINT_STATE, STRING, JOINT_TRAJECTORY, POSITIONS):
        readers = TYPESTORE.get_msgdef(msgtype)
        for reader in (readers.deserialize_cdr_le, readers.deserialize_cdr_be):
            reader.__globals__["check_string"] = check


_accept_empty_strings()


def deserialise(raw: RawMessage, message_class: Callable[..., Message]) -> Message:
    """One message of a class of rosbags. Raises MessageRefused: malformed."""
    msgtype: str = message_class.__msgtype__  # type: ignore[attr-defined]
    try:  # a memoryview, because slicing bytes copies them
        message: Message = TYPESTORE.deserialize_cdr(memoryview(raw), msgtype)  # type: ignore[assignment]
    except SerdeError as error:
        raise MessageRefused(
            MessageReason.MALFORMED, f"{len(raw)} bytes are not one whole {msgtype}: {error}"
        ) from None
    return message


def _serialise(message: object) -> bytes:
    return bytes(TYPESTORE.serialize_cdr(message, message.__msgtype__))  # type: ignore[attr-defined]


def _header(stamp_ns: int) -> ros.std_msgs__msg__Header:
    return ros.std_msgs__msg__Header(ros.builtin_interfaces__msg__Time(*divmod(stamp_ns, _NS)), "")


def _rows(points: Sequence[NDArray[np.float64]], name: str, columns: Sequence[int]) -> NDArray[np.float64]:
    """The numbers of all points, one row each, by the model's joints; NOT_SAID where no point has any."""
    lengths = {len(row) for row in points}
    if lengths == {0}:
        return NOT_SAID
    if lengths != {len(columns)}:
        text = f"every point needs {len(columns)} {name}, or all none, got lengths {sorted(lengths)}"
        raise MessageRefused(MessageReason.LENGTH_MISMATCH, text)
    rows = np.array(points, np.float64)[:, columns]
    with np.errstate(over="ignore"):  # beyond float32, which actions are in, counts as infinite
        if not np.isfinite(rows.astype(np.float32)).all():
            raise MessageRefused(MessageReason.NON_FINITE, f"{name} with NaN or infinity: {rows.tolist()}")
    return rows


def header_stamp_ns(header: ros.std_msgs__msg__Header, *, zero_means_now: bool = False) -> int:
    """The time of a header, in ns. Raises MessageRefused: bad_stamp."""
    sec, nanosec = header.stamp.sec, header.stamp.nanosec
    if sec < 0 or nanosec >= _NS or (sec == nanosec == 0 and not zero_means_now):
        text = f"header.stamp is {sec} s {nanosec} ns: the publisher must set it to the time of the measurement"
        raise MessageRefused(MessageReason.BAD_STAMP, text)
    return sec * _NS + nanosec


def _columns(names: Sequence[str], joint_names: Sequence[str]) -> list[int]:
    """Where each of `joint_names` is in `names`."""
    column = {name: index for index, name in enumerate(names)}
    if missing := [name for name in joint_names if name not in column]:
        raise MessageRefused(MessageReason.MISSING_JOINT, f"{missing} not in the message, which has {list(names)}")
    if len(column) != len(names) and (twice := [name for name in joint_names if names.count(name) > 1]):
        raise MessageRefused(MessageReason.DUPLICATE_JOINT, f"{twice} more than once in {list(names)}")
    return [column[name] for name in joint_names]
