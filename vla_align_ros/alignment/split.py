"""Which experience is learned from, which judges, and which is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.action.trajectory import positions_of
from vla_align_ros.experience.builder import ASKED_RAD, STILL_RAD, readable, without_held
from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.types import Experience

LEAST_TO_LEARN, LEAST_TO_JUDGE = 8, 4
JUDGE_SHARE = 0.25
EPISODE_PART_S, LEAST_OF_PART = 6.4, 4  # of one episode, looked at together; experiences of a part that counts
# A joint strays that ends farther from where it should than this and a fifth. Gears that go farther miss by more.
FOLLOW_RAD, FOLLOW_FACTOR = 0.15, 0.2
# So does all of a part in three quarters of which it goes too far, or not far enough, by a third of that.
PART_MISS, PART_SHARE = 1 / 3, 0.75
STOP_SHARE = 0.02  # of all positions of a joint, which lie beyond what counts as its farthest
LEAST_CLEAR = 8  # experiences in which a joint was asked to go far, to say how far it goes


@dataclass(frozen=True)
class Split:
    """learn, judged: an earlier part and a later one. left_out: how many are in neither, since a joint was held or
    strayed. strays: what `straying` says of those in which none was held, (N, A)."""

    learn: Sequence[Experience]
    judged: Sequence[Experience]
    strays: NDArray[np.bool_]
    left_out: int

    @property
    def enough(self) -> bool:
        """Whether there is enough to learn from and to judge by."""
        return len(self.learn) >= LEAST_TO_LEARN and len(self.judged) >= LEAST_TO_JUDGE


def split(experiences: Sequence[Experience], robot: RobotDescription) -> Split:
    """Of experiences in order of time."""
    moved = without_held(experiences, robot)
    strays = straying(moved, robot)
    usable = [item for item, stray in zip(moved, strays, strict=True) if not stray.any()]
    return Split(*split_by_episode(usable), strays, len(experiences) - len(usable))


def split_by_episode(experiences: Sequence[Experience]) -> tuple[list[Experience], list[Experience]]:
    """An earlier part to learn from and a later one to judge by: the last quarter, or what comes after an episode's
    border that leaves at least half as much and at most half of all. Experiences that reach over the cut in time belong
    to neither."""
    count = len(experiences)
    if count < 2:
        return list(experiences), []
    judging = max(1, round(count * JUDGE_SHARE))
    wanted, least = count - judging, min(judging, max(LEAST_TO_JUDGE, (judging + 1) // 2))
    near = range(max(1, count // 2), count - least + 1)
    borders = [i for i in near if experiences[i].episode != experiences[i - 1].episode]
    cut = min(borders, key=lambda border: abs(border - wanted), default=wanted)
    judged = list(experiences[cut:])
    learn = [item for item in experiences[:cut] if item.next_observation.stamp_ns <= judged[0].observation.stamp_ns]
    return learn, judged


def parts_of(experiences: Sequence[Experience]) -> list[list[int]]:
    """Rows of each part of an episode: EPISODE_PART_S long, with LEAST_OF_PART experiences or more."""
    first_ns, parts = dict[int, int](), dict[tuple[int, int], list[int]]()
    for row, item in enumerate(experiences):
        since_ns = item.observation.stamp_ns - first_ns.setdefault(item.episode, item.observation.stamp_ns)
        parts.setdefault((item.episode, int(since_ns * 1e-9 // EPISODE_PART_S)), []).append(row)
    return [rows for rows in parts.values() if len(rows) >= LEAST_OF_PART]


def straying(experiences: Sequence[Experience], robot: RobotDescription) -> NDArray[np.bool_]:
    """Which joints did not go as far as they mostly go for what was asked of them, of each experience (N, A).

    How far is the median of moved / asked, which a reversed motor or another gear changes. Not asked of a joint that
    starts or ends at its farthest, where it may have met a stop, nor of a joint that is seldom sent far. In all of a
    part of an episode it strays where it goes another distance in most of what says so clearly, for which less is
    enough: that is another robot. Needs neither pictures nor a model, and sees commands of another time or robot.
    False of `position` fields, which do not ask for a distance, of joints that an object may block, and of everything
    where an experience has another shape or a state is not finite.
    """
    strays = np.zeros((len(experiences), len(robot.action)), bool)
    if not experiences or not all(readable(item, robot) for item in experiences):
        return strays  # the alignment says what is wrong
    ends = robot.measured(np.array([(item.observation.state, item.next_observation.state) for item in experiences]))
    start, end = ends.swapaxes(0, 1)
    period_s = robot.period_ns * 1e-9
    goals = [
        positions_of(e.commands, before, robot.kinds, period_s)[-1]
        for e, before in zip(experiences, start, strict=True)
    ]
    asked, moved = np.array(goals) - start, end - start
    low, high = np.quantile(ends, (STOP_SHARE, 1 - STOP_SHARE), axis=(0, 1))
    inside = (low + STILL_RAD <= start) & (start <= high - STILL_RAD)
    inside &= (low + STILL_RAD <= end) & (end <= high - STILL_RAD)
    clear = inside & (np.abs(asked) > ASKED_RAD)
    parts = [np.array(rows) for rows in parts_of(experiences)]
    asks_distance = (robot.kinds != "position") & robot.must_follow
    for joint in np.flatnonzero(asks_distance & (clear.sum(0) >= LEAST_CLEAR)):
        which = clear[:, joint]
        gain = np.median(moved[which, joint] / asked[which, joint])
        should = gain * asked[:, joint]
        missed = (moved[:, joint] - should) / (FOLLOW_RAD * max(1.0, abs(gain)) + FOLLOW_FACTOR * np.abs(should))
        strays[:, joint] = inside[:, joint] & (np.abs(missed) > 1.0)
        too_far = missed * np.sign(should)
        for rows in parts:
            told = too_far[rows[which[rows]]]
            if len(told) >= max(LEAST_OF_PART, len(rows) / 4):
                agree = max((told > PART_MISS).mean(), (told < -PART_MISS).mean())
                strays[rows, joint] |= agree >= PART_SHARE
    return strays
