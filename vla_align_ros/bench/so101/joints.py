"""The six joints, and the numbers that people command them with: rad in ROS, degrees or -100..100 in lerobot."""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

JOINT_NAMES = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
NUM_JOINTS, GRIPPER = 6, 5
JOINT_MIN_RAD = np.array([-1.919862, -1.745329, -1.69, -1.658063, -2.743847, -0.174533])
JOINT_MAX_RAD = np.array([1.919862, 1.745329, 1.69, 1.658063, 2.841206, 1.745329])
HOME_RAD = np.array([0.0, -0.6, 0.7, 1.1, 0.0, 0.6])  # where episodes start: jaw over the table, pointing down


class JointUnit(Enum):
    """What a joint's position is counted in."""

    RAD = "rad"  # as in ROS, the gripper too
    DEGREES = "degrees"  # lerobot's `use_degrees`: from the middle of the joint's range; the gripper 0 (closed) to 100
    RANGE = "range_m100_100"  # lerobot's default: the joint's range is -100 to 100; the gripper 0 (closed) to 100


_MIDDLE_RAD, _HALF_RAD = (JOINT_MIN_RAD + JOINT_MAX_RAD) / 2, (JOINT_MAX_RAD - JOINT_MIN_RAD) / 2
_RAD_OF_ONE = {
    JointUnit.DEGREES: np.append(np.full(GRIPPER, np.pi / 180), _HALF_RAD[GRIPPER] / 50),
    JointUnit.RANGE: np.append(_HALF_RAD[:GRIPPER] / 100, _HALF_RAD[GRIPPER] / 50),
}
_ZERO_RAD = np.append(_MIDDLE_RAD[:GRIPPER], JOINT_MIN_RAD[GRIPPER])


def from_rad(angle_rad: FloatArray, unit: JointUnit) -> FloatArray:
    """Joint positions (..., 6) in rad -> in `unit`."""
    return angle_rad.copy() if unit is JointUnit.RAD else (angle_rad - _ZERO_RAD) / _RAD_OF_ONE[unit]


def to_rad(position: FloatArray, unit: JointUnit) -> FloatArray:
    """Joint positions (..., 6) in `unit` -> in rad."""
    return position.copy() if unit is JointUnit.RAD else position * _RAD_OF_ONE[unit] + _ZERO_RAD
