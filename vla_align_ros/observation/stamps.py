"""How old sensor data may be. Is a message's stamp possible, by the node's clock? And does that clock go on?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vla_align_ros.observation.refusal import ObservationReason

FALL_BACK_NS: Final = 100_000_000  # a clock that falls back farther has jumped; less is a correction (NTP)
LATE_NS: Final = 100_000_000  # from stamp to arrival; a sensor on a quick way takes less
STANDS_S: Final = 1.0  # a clock that has not gone on for longer stands: paused, or without a publisher
WAITING: Final = "waiting for /clock, which use_sim_time:=true asks for and nobody has published yet"
_S: Final = 1e-9


@dataclass(frozen=True)
class AssemblerLimits:
    """How old and how unchanging sensor data may be.

    image_stale_s, joint_stale_s: oldest message that still counts at a tick.
    frozen_s: how long a camera may send the very same pixels after a joint has moved; 0 switches the check off. The
        motion must be later than any difference between the two clocks that the other limits let through.
    history_s: how far back ticks can be asked about, reckoned from each stream's newest message.
    stamp_ahead_max_s: how far a stamp may lie ahead of the clock at its arrival.
    """

    image_stale_s: float
    joint_stale_s: float
    frozen_s: float
    history_s: float
    stamp_ahead_max_s: float

    def __post_init__(self) -> None:
        for name in ("image_stale_s", "joint_stale_s", "history_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        for name in ("frozen_s", "stamp_ahead_max_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be at least 0 and finite, got {getattr(self, name)}")
        if max(self.image_stale_s, self.joint_stale_s) > self.history_s:
            raise ValueError(f"history_s must be at least image_stale_s and joint_stale_s, got {self}")


@dataclass(frozen=True)
class _Arrival:
    """The last message of one sensor, come at `now_ns`. delay_ns: from its stamp until then, negative for a clock that
    is ahead. fault: why its stamp was refused, or empty."""

    now_ns: int
    delay_ns: int
    fault: str


class StampWatch:
    """Compares stamps with the node's clock. Not thread-safe."""

    def __init__(self, limits: AssemblerLimits) -> None:
        self._ahead_max_ns = round(limits.stamp_ahead_max_s / _S)
        self._history_ns = round(limits.history_s / _S)
        self._arrivals: dict[str, _Arrival] = {}
        self._read_ns: dict[str, int] = {}

    def fell_back(self, reader: str, now_ns: int) -> bool:
        """Whether the clock has fallen back since the same reader's last reading. Readers are compared with themselves
        only: they may be nodes of one process, one of which is late with /clock; said once, not by each of them."""
        before_ns = self._read_ns.get(reader, now_ns)
        fell = now_ns < before_ns - FALL_BACK_NS
        if fell:
            self._read_ns = {name: min(read_ns, now_ns) for name, read_ns in self._read_ns.items()}
        else:
            self._read_ns[reader] = max(before_ns, now_ns)
        return fell

    def judge(self, sensor: str, what: str, stamp_ns: int, now_ns: int) -> tuple[ObservationReason, str] | None:
        """Why a message of `sensor` that comes at `now_ns` cannot be used, in words about `what`; None when it can."""
        fault = self._fault(what, stamp_ns, now_ns)
        self._arrivals[sensor] = _Arrival(now_ns, now_ns - stamp_ns, fault[1] if fault else "")
        return fault

    def fault(self, now_ns: int) -> str:
        """What is wrong with the last messages' stamps; empty when nothing is. One that came long ago, or before the
        clock fell back, says nothing about now."""
        recent = [item for item in self._arrivals.values() if abs(now_ns - item.now_ns) <= self._history_ns]
        return "; ".join(item.fault for item in recent if item.fault)

    def delays_ns(self) -> dict[str, int]:
        """Per sensor, from its last message's stamp to its arrival."""
        return {sensor: item.delay_ns for sensor, item in self._arrivals.items()}

    def last_words(self, sensor: str) -> str:
        """About the last message of a sensor, or of each of its parts ("joints.gripper"): why it was refused, or that
        it was late; nothing about one that was all right."""
        found = [item for name, item in self._arrivals.items() if name == sensor or name.startswith(f"{sensor}.")]
        late = "the last message came {:.3f} s after its stamp: a slow way, or a clock that is behind"
        words = [
            item.fault or late.format(item.delay_ns * _S) for item in found if item.fault or item.delay_ns > LATE_NS
        ]
        return "".join(f" ({text})" for text in words)

    def _fault(self, what: str, stamp_ns: int, now_ns: int) -> tuple[ObservationReason, str] | None:
        if now_ns <= 0:
            return ObservationReason.NO_CLOCK, f"{what} cannot be used: {WAITING}"
        ahead_ns = stamp_ns - now_ns
        ahead_s = ahead_ns * _S
        if ahead_ns > self._ahead_max_ns:
            text = f"{what} is stamped {ahead_s:.2f} s ahead of this node's clock: are both clocks set (chrony, PTP), "
            return ObservationReason.STAMP_AHEAD, text + "or does one side use simulation time?"
        if -ahead_ns > self._history_ns:
            text = f"{what} is stamped {-ahead_s:.2f} s behind this node's clock, too late for any use: are both clocks"
            hint = "A replayed bag needs `ros2 bag play --clock`, and use_sim_time:=true here."
            return ObservationReason.STAMP_BEHIND, f"{text} set (chrony, PTP)? {hint}"
        return None


class ClockWatch:
    """Notices a clock that never comes or stands; asked now and then on steady time."""

    def __init__(self) -> None:
        self._read_ns = -1
        self._since_s = 0.0

    def problem(self, now_ns: int, steady_s: float) -> str:
        """What is wrong with a clock that reads `now_ns` at `steady_s` (time.monotonic()); empty when it goes on."""
        if now_ns != self._read_ns:
            self._read_ns, self._since_s = now_ns, steady_s
        if now_ns == 0:
            return WAITING
        stands_s = steady_s - self._since_s
        if stands_s <= STANDS_S:
            return ""
        why = "the simulation or the replay is paused or gone"
        return f"/clock stands at {now_ns * _S:.3f} s since {stands_s:.0f} s: {why}"
