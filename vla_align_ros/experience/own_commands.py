"""Which trajectories on other topics are somebody else's: those that are neither copies of ours (a relay) nor parts of
them (a command group's).
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from rosbags.serde import SerdeError

from vla_align_ros.observation.codecs import JOINT_TRAJECTORY, TYPESTORE, RawMessage
from vla_align_ros.robot.description import RobotDescription


def columns_of(raw: RawMessage) -> frozenset[int]:
    """What a JointTrajectory says of each joint, as one hash a joint: its stamp, and when it is to be where. A part of
    the trajectory has some of them, whatever names the joints have there. Empty for bytes that are no JointTrajectory.

    Without a stamp only all of it tells whose it is.
    """
    message = _read(raw)
    return frozenset() if message is None else _columns(message)


def is_foreign(raw: RawMessage, ours: Set[int], robot: RobotDescription) -> bool:
    """Whether a trajectory on another topic than the command's is somebody else's, and for this robot's joints, by
    their own names or by a controller's. ours: `columns_of` the commands that are not."""
    message = _read(raw)
    if message is None or robot.wire_names.isdisjoint(message.joint_names):
        return False
    said = _columns(message)
    return not said or not said <= ours


def _columns(message: Any) -> frozenset[int]:
    stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
    times_ns = tuple(point.time_from_start.sec * 10**9 + point.time_from_start.nanosec for point in message.points)
    columns = tuple(zip(*(point.positions.tolist() for point in message.points), strict=False))
    whole = () if stamp_ns else (tuple(message.joint_names), columns)
    return frozenset(hash((stamp_ns, whole, times_ns, column)) for column in columns)


def _read(raw: RawMessage) -> Any:
    try:
        return TYPESTORE.deserialize_cdr(memoryview(raw), JOINT_TRAJECTORY)
    except SerdeError:
        return None
