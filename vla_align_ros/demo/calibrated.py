"""The simplest rival of an alignment: a least-squares line a joint, by commands and joint states alone, that wraps the
commands of the policy that ships.

    position where a joint ends up = gain * commanded position + offset          (`alignment.diagnosis`)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.alignment.diagnosis import FieldDiagnosis
from vla_align_ros.bench.evaluate import Act
from vla_align_ros.bench.port import Episodes, FloatArray
from vla_align_ros.robot.description import RobotDescription

LEAST_GAIN = 0.1  # a joint that seems to move less is not sped up any further


def calibrated(act: Act, found: Sequence[FieldDiagnosis], robot: RobotDescription) -> Act:
    """The chunks of `act` as they must be sent for each joint to do what they say. found: a diagnosis each field; what
    it does not know stays as it is."""
    gain = np.array([1.0 if field.gain is None else field.gain for field in found])
    gain = np.where(np.abs(gain) < LEAST_GAIN, np.copysign(LEAST_GAIN, gain), gain)
    offset = np.where(robot.kinds == "position", [field.offset or 0.0 for field in found], 0.0)

    def acting(going: Episodes, rows: NDArray[np.intp]) -> FloatArray:
        return np.asarray((act(going, rows) - offset) / gain)

    return acting
