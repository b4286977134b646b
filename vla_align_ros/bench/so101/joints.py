"""The six joints, in rad as in ROS."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

JOINT_NAMES = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
NUM_JOINTS, GRIPPER = 6, 5
DELTA = np.array([True] * 5 + [False])  # commanded as a change from where the joint was observed, as openpi does
JOINT_MIN_RAD = np.array([-1.919862, -1.745329, -1.69, -1.658063, -2.743847, -0.174533])
JOINT_MAX_RAD = np.array([1.919862, 1.745329, 1.69, 1.658063, 2.841206, 1.745329])
HOME_RAD = np.array([0.0, -0.6, 0.7, 1.1, 0.0, 0.6])  # where episodes start: jaw over the table, pointing down
