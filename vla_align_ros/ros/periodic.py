"""When the policy aligns by itself, and in words why it does not yet. On steady time: a ROS clock may stand."""

from __future__ import annotations

import time

from vla_align_ros.alignment.waiting import AlignmentWait
from vla_align_ros.params import AlignParams, PolicyParams
from vla_align_ros.ros.experience_source import ExperienceSource


class PeriodicAlignment:
    """Of one configured node."""

    def __init__(self, source: ExperienceSource) -> None:
        self._source = source
        self._last_s = -float("inf")
        self.rest()

    def rest(self) -> None:
        """The time until now is no waiting: the node is inactive, or aligns."""
        self._wait = AlignmentWait(time.monotonic(), self._source.refused)

    def begin(self) -> None:
        """An attempt begins, on request or by itself."""
        self._last_s = time.monotonic()
        self.rest()

    def due(self, params: AlignParams) -> bool:
        """Whether it is time, and enough experience is new."""
        if params.align_frequency_hz <= 0 or time.monotonic() - self._last_s < 1.0 / params.align_frequency_hz:
            return False
        return self._source.new_experiences >= params.align_min_experiences

    def why_waiting(self, params: PolicyParams, period_ns: int) -> str:
        """Why no alignment begins that is overdue; else empty. period_ns: of control."""
        source, pace_s = self._source, params.experience_stride_ticks * period_ns * 1e-9
        return self._wait.problem(
            time.monotonic(), source.new_experiences, source.refused, params.align, pace_s, source.nothing
        )
