"""Why there is no alignment yet: what is missing, since when, what to do. Free of ROS; time is steady, in seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import Enum
from typing import Final

from vla_align_ros.params import AlignParams

PATIENCE: Final = 2.0  # times as long as the experiences take when none is left out, before anything is said
LEAST_PATIENCE_S: Final = 10.0
SHOWN: Final = 3  # reasons, the most frequent first

ADVICE: Final = {  # by the value of a reason; what is not here is a bad message or stamp
    "no_command": "commands end, or pause, before an action horizon is over: see why chunks are refused or come late "
    "(status `inference`)",
    "joint_held": "a joint stands still that is commanded to go far: free it, check that its controller follows the "
    "commands, or move it away from its stop",
    "prompt_changed": "the prompt changes within one experience: leave it for longer",
    "clock_jump": "the clock falls back: is a bag played in a loop, or a simulation reset?",
    "foreign_command": "somebody else commands the arm: let this policy command it, or set the experience's source",
    "no_prompt": "say what to do on ~/prompt",
    "no_joints": "no joint states arrive: see status `observation`",
    "stale_joints": "joint states come late or with old stamps: see status `observation`",
    "no_image": "a camera sends nothing that can be used: see status `observation`",
    "stale_image": "a camera's images come late or with old stamps: see status `observation`",
    "frozen_image": "a camera sends the same picture while the arm moves: restart it, or set frozen_s to 0 where it "
    "sees no motion",
}
OTHER_ADVICE: Final = "see the log, and the counters of status `observation`"
NOTHING_ADVICE: Final = "no command was in force: is the node active, and do chunks go out (status `inference`)?"


class AlignmentWait:
    """From one attempt, or from the activation, to the next attempt.

    began_s: steady time. skipped: the builder's counters then.
    """

    def __init__(self, began_s: float, skipped: Mapping[Enum, int]) -> None:
        self._began_s, self._skipped = began_s, Counter(skipped)

    def problem(
        self,
        now_s: float,
        new: int,
        skipped: Mapping[Enum, int],
        params: AlignParams,
        pace_s: float,
        nothing: str = NOTHING_ADVICE,
    ) -> str:
        """A sentence when periodic alignment is overdue for want of experience, else empty.

        new: experiences since the last attempt. skipped: the builder's counters now. pace_s: time from one experience
        to the next when none is left out. nothing: what to do when there is none at all, and none was left out.
        """
        waited_s, needed = now_s - self._began_s, params.align_min_experiences
        if params.align_frequency_hz <= 0 or new >= needed:
            return ""
        patience_s = max(LEAST_PATIENCE_S, 1.0 / params.align_frequency_hz, PATIENCE * needed * pace_s)
        if waited_s <= patience_s:
            return ""
        left_out = Counter(skipped) - self._skipped
        if not left_out and new:
            why = f"at this pace it takes {needed * waited_s / new:.0f} s; align_min_experiences may be too large"
        else:
            why = left_out_sentence(left_out) if left_out else nothing
        return f"no alignment for {waited_s:.0f} s: {new} of {needed} new experiences; {why}"


def left_out_sentence(skipped: Mapping[Enum, int]) -> str:
    """What made no experience, by reason, and what to do about the most frequent one."""
    most = Counter(skipped).most_common(SHOWN)
    if not most:
        return NOTHING_ADVICE
    counts = ", ".join(f"{count} {reason.value}" for reason, count in most)
    return f"left out: {counts}; {ADVICE.get(most[0][0].value, OTHER_ADVICE)}"
