"""Whatever must answer or warn runs on steady time: ROS time stands in a paused simulation, falls back when that is
reset, and never begins without /clock."""

from __future__ import annotations

from typing import Any, Final

from rclpy.clock import Clock, ClockType

WARN_EVERY_S: Final = 5.0
STEADY: Final = Clock(clock_type=ClockType.STEADY_TIME)
"""The clock of every timer."""
THROTTLED: Final[dict[str, Any]] = {"throttle_duration_sec": WARN_EVERY_S, "throttle_time_source_type": STEADY}
"""Keywords of a log call for what may happen with every message. rclpy's own throttle follows the system clock."""
