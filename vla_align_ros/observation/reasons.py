"""Why there is no observation, and how old and how unchanging sensor data may be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ObservationReason(Enum):
    """Why there is no observation at a tick, or why a well-formed message was not taken."""

    NO_PROMPT = "no_prompt"  # No prompt had come by the tick.
    NO_JOINTS = "no_joints"  # Of some joints, no state in the history is as old as the tick.
    STALE_JOINTS = "stale_joints"  # Some joint's newest state is older than joint_stale_s.
    NO_IMAGE = "no_image"  # No image of a camera in the history is as old as the tick.
    STALE_IMAGE = "stale_image"  # A camera's newest image is older than image_stale_s.
    FROZEN_IMAGE = "frozen_image"  # A camera's pixels are still the same, frozen_s after a joint moved.
    PROMPT_EMPTY = "prompt_empty"  # A prompt without words; the old one stays.
    PROMPT_TOO_LONG = "prompt_too_long"  # A prompt of more tokens than the model reads; the old one stays.
    DUPLICATE_STAMP = "duplicate_stamp"  # A second message with the same stamp; the first one stays.
    STAMP_AHEAD = "stamp_ahead"  # A stamp later than the node's clock by more than stamp_ahead_max_s.
    STAMP_BEHIND = "stamp_behind"  # A stamp so far behind the node's clock that the message is of no use.
    NO_CLOCK = "no_clock"  # use_sim_time is set and no /clock has come, so that no stamp can be judged.
    CLOCK_JUMP = "clock_jump"  # The node's clock fell back: all that was sensed before it is forgotten.


class ObservationRefused(ValueError):
    """No observation can be had, or a message was not taken. `reason` is for counters, the text for people."""

    def __init__(self, reason: ObservationReason, text: str) -> None:
        super().__init__(f"{reason.value}: {text}")
        self.reason = reason


@dataclass(frozen=True)
class AssemblerLimits:
    """How old and how unchanging sensor data may be.

    image_stale_s, joint_stale_s: oldest message that still counts at a tick.
    frozen_s: how long a camera may send the very same pixels after a joint has moved; 0 switches the check off.
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
