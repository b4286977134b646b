"""Every check of an alignment, in one list: its statistic, and on which side of its limit it refuses.

No limit is chosen. Each is a quantile of its statistic over the good experience of the model's own validation robots
(`limit_of`), measured at the end of training (`training/limits.py`) and shipped with the model
(`policy/statistics.py`). A user may set another one: `guard.<name>`. Chosen is, once, how much of good experience a
check may refuse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

REFUSED: Final = 0.04
"""What a check may refuse of robots whose experience is good."""
LEFT_OUT: Final = 0.05
"""What `joint_strays` may leave out of good experience."""
KEPT: Final = 0.05
"""What `already_aligned` may keep of robots that have nothing to gain."""


@dataclass(frozen=True)
class Check:
    """name: the code of the reason, and `guard.<name>`. statistic: what is compared with the limit. most: the largest
    limit that a user may set. sentence: what a refusal means. share: of good experience beyond the limit.

    of_aligned: the limit is measured on robots that run their own token already, of which the share may be kept;
    otherwise on all, of which the share may be refused. leaves_out: experience is left out beyond the limit, and
    nothing refused.
    """

    name: str
    statistic: str
    refuses: Literal["above", "below"]
    most: float
    sentence: str
    share: float = REFUSED
    of_aligned: bool = False
    leaves_out: bool = False

    @property
    def no_limit(self) -> float:
        """One that refuses nothing."""
        return 1e9 if self.refuses == "above" else -1e9

    def beyond(self, value: float, limit: float) -> bool:
        """Whether a value is on the refused side of a limit; NaN always is."""
        return not (value <= limit if self.refuses == "above" else value >= limit)

    @property
    def _rising(self) -> bool:
        """Whether the share is of the largest values: those refused above, or those of aligned robots kept below."""
        return (self.refuses == "above") != self.of_aligned

    def worst(self, values: Sequence[float]) -> float:
        """Of several values of one robot the one that most likely belongs to the share."""
        return max(values) if self._rising else min(values)

    def share_of(self, robots: int) -> float:
        """The share of new robots, at most, that is beyond a limit measured on so many."""
        return max(self.share, 1.0 / (robots + 1))

    @property
    def robots_needed(self) -> int:
        """How many it takes for no more than `share`."""
        return round(1.0 / self.share) - 1

    def limit_of(self, values: Sequence[float]) -> float:
        """The limit beyond which a new robot is with probability `share` at most, from one value of each of n robots;
        for `of_aligned` the limit within which it is.

        Split-conformal: in order, the most unlikely value last, the ceil((n + 1) * (1 - share))-th. Where n is smaller
        than 1 / share - 1 there is none, and it is the last one, beyond which a new robot is with probability
        1 / (n + 1) (`share_of`). Raises ValueError without a value, and for one that is not finite.
        """
        if not values or not all(math.isfinite(value) for value in values):
            raise ValueError(f"{self.name}: expected a finite number of each robot, got {list(values)}")
        ordered = sorted(values, reverse=not self._rising)
        return ordered[min(math.ceil((len(ordered) + 1) * (1.0 - self.share)), len(ordered)) - 1]


CHECKS: Final = (
    Check(
        "joint_strays",
        "how much too far, or the wrong way, a joint went in one experience, over what it is mostly sent",
        "above",
        10.0,
        "No refusal: an experience in which a joint strays is left out, as after a lost command or a push.",
        LEFT_OUT,
        leaves_out=True,
    ),
    Check(
        "joints_do_not_follow",
        "how much joints stray in all but a quarter of the experiences",
        "above",
        10.0,
        "In many experiences a joint goes too far for its command, or the wrong way: commands that are late or not "
        "this robot's, two robots, or a robot that changed.",
    ),
    Check(
        "too_little_experience",
        "experiences that can be used",
        "below",
        1000.0,
        "Fewer experiences than the limits were measured with, once those are left out in which a joint was held or "
        "strayed, or that came before the robot changed: record more, or see why they are left out.",
    ),
    Check(
        "robot_changed",
        "how surely the new token gains more from one point of the experience on",
        "above",
        100.0,
        "No refusal: experience from before that point is left out, as after an accident.",
        leaves_out=True,
    ),
    Check(
        "perception_high",
        "perception loss with the new token",
        "above",
        10.0,
        "The images do not show the joints where they were measured: a camera is faulty, exchanged or mirrored.",
    ),
    Check(
        "images_do_not_fit",
        "perception loss with the states of other experiences over that with the true ones",
        "below",
        10.0,
        "The images hardly tell where the joints were: a camera is covered, frozen, or shows another robot, or the "
        "images and the joint states are of different times.",
    ),
    Check(
        "actions_do_not_fit",
        "inverse-dynamics loss with shuffled commands over that with the true ones",
        "below",
        10.0,
        "The commands explain the frames hardly better than shuffled ones: frozen frames, a robot that stands still, "
        "or commands that are not this robot's.",
    ),
    Check(
        "frames_late",
        "inverse-dynamics loss with the commands of half a horizon before over that with the true ones",
        "below",
        10.0,
        "The commands sent a little before explain the frames better: frames come late, or are stamped late.",
    ),
    Check(
        "already_aligned",
        "standard errors by which the loss on later experience is lower with the new token than with the running one",
        "below",
        100.0,
        "The new token explains later experience hardly better than the running one, no more surely than new tokens do "
        "for robots that are aligned already: nothing to gain.",
        KEPT,
        of_aligned=True,
    ),
)
BY_NAME: Final = {check.name: check for check in CHECKS}


@dataclass(frozen=True)
class Refusal:
    """A check whose value is beyond its limit."""

    check: Check
    value: float
    limit: float

    @property
    def sentence(self) -> str:
        least = "the limit is" if self.check.refuses == "above" else "at least needed is"
        return f"{self.check.statistic}: {self.value:.4g}, {least} {self.limit:.4g} (guard.{self.check.name})"


def first_refusal(values: Mapping[str, float], limits: Mapping[str, float]) -> Refusal | None:
    """Of the first check, in the order of CHECKS, that refuses what is beyond its limit. Checks without a value are not
    asked."""
    for check in CHECKS:
        if check.name in values and not check.leaves_out and check.beyond(values[check.name], limits[check.name]):
            return Refusal(check, values[check.name], limits[check.name])
    return None
