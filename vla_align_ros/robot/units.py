"""The model's numbers <-> ROS's: per field one straight line, ros = offset + factor * model.

A `position` goes through the whole line; a change of position, a velocity and an effort go through its factor alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Unit = Literal["rad", "m", "degrees", "percent", "signed_percent", "fraction"]
ROS_UNIT: Final[dict[str, str]] = {"rad": "rad", "degrees": "rad", "m": "m"}  # the others are a share of any range
_FACTOR: Final = {"rad": 1.0, "m": 1.0, "degrees": math.pi / 180.0}
# Share of the range, and where in it 0 lies. lerobot calls these RANGE_0_100 and RANGE_M100_100.
_SHARE: Final = {"percent": (0.01, 0.0), "signed_percent": (0.005, 0.5), "fraction": (1.0, 0.0)}


def line(unit: Unit, span: tuple[float, float] | None, scale: float, offset: float) -> tuple[float, float]:
    """(factor, offset) with ros = offset + factor * model.

    span: the ROS positions at the lower and the upper end of the model's range; for percent, signed_percent and
    fraction, and only for them. It may fall: (0.8, 0.0) is a gripper whose model says 0 where ROS says 0.8.
    scale, offset: for rad, m and degrees, and only for them: ros = offset + scale * model, the latter in ROS's unit.
    Raises ValueError that says which of them is missing or out of place.
    """
    if unit in _SHARE:
        if span is None:
            raise ValueError(f"unit {unit} needs range: [position at the lower end, at the upper end], in ROS's unit")
        if span[0] == span[1] or not all(map(math.isfinite, span)):
            raise ValueError(f"range must be two different finite positions, got {list(span)}")
        if (scale, offset) != (1.0, 0.0):
            raise ValueError(f"unit {unit} is said by its range alone: leave scale and offset out")
        share, zero = _SHARE[unit]
        width = span[1] - span[0]
        return share * width, span[0] + zero * width
    if span is not None:
        raise ValueError(f"range belongs to {', '.join(_SHARE)}, not to unit {unit}")
    if scale == 0 or not math.isfinite(scale) or not math.isfinite(offset):
        raise ValueError(f"scale must be finite and not 0 and offset finite, got {scale} and {offset}")
    return scale * _FACTOR[unit], offset


@dataclass(frozen=True)
class Scale:
    """The lines of a vector's D fields. factor, offset: (D,) float64."""

    factor: NDArray[np.float64]
    offset: NDArray[np.float64]

    def to_ros(self, numbers: NDArray[np.floating]) -> NDArray[np.float64]:
        """(..., D) in the model's units -> ROS's."""
        return self.offset + self.factor * np.asarray(numbers, np.float64)

    def to_model(self, numbers: NDArray[np.floating]) -> NDArray[np.float64]:
        """(..., D) in ROS's units -> the model's."""
        return (np.asarray(numbers, np.float64) - self.offset) / self.factor
