"""Which experience is learned from, which judges, and which is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.action.trajectory import positions_of
from vla_align_ros.experience.builder import STILL_RAD, readable, without_held
from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.types import Experience

JUDGE_SHARE = 0.25
UPPER_QUARTILE = 0.75


@dataclass(frozen=True)
class Split:
    """learn, judged: an earlier part and a later one. left_out: how many are in neither, since a joint was held or
    strayed. strays: how far each joint strayed in those in which none was held, (N, A)."""

    learn: Sequence[Experience]
    judged: Sequence[Experience]
    strays: NDArray[np.float64]
    left_out: int

    @property
    def usable(self) -> int:
        """Experiences to learn from and to judge by; 0 where one of both is missing."""
        return len(self.learn) + len(self.judged) if self.learn and self.judged else 0


def split(experiences: Sequence[Experience], robot: RobotDescription, stray_limit: float) -> Split:
    """Of experiences in order of time. stray_limit: beyond which an experience is left out (`joint_strays`)."""
    moved = without_held(experiences, robot)
    strays = straying(moved, robot)
    usable = [item for item, stray in zip(moved, strays, strict=True) if not (stray > stray_limit).any()]
    return Split(*split_by_episode(usable), strays, len(experiences) - len(usable))


def split_by_episode(experiences: Sequence[Experience]) -> tuple[list[Experience], list[Experience]]:
    """An earlier part to learn from and a later one to judge by: the last quarter, or what comes after an episode's
    border that leaves at least half as much and at most half of all. Experiences that reach over the cut in time belong
    to neither."""
    learn, judged = split_rows(experiences)
    return [experiences[row] for row in learn], [experiences[row] for row in judged]


def split_rows(experiences: Sequence[Experience]) -> tuple[list[int], list[int]]:
    """The rows of both parts of `split_by_episode`."""
    count = len(experiences)
    if count < 2:
        return list(range(count)), []
    judging = max(1, round(count * JUDGE_SHARE))
    wanted, least = count - judging, (judging + 1) // 2
    near = range(max(1, count // 2), count - least + 1)
    borders = [i for i in near if experiences[i].episode != experiences[i - 1].episode]
    cut = min(borders, key=lambda border: abs(border - wanted), default=wanted)
    begin_ns = experiences[cut].observation.stamp_ns
    learn = [row for row in range(cut) if experiences[row].next_observation.stamp_ns <= begin_ns]
    return learn, list(range(cut, count))


def straying(experiences: Sequence[Experience], robot: RobotDescription) -> NDArray[np.float64]:
    """How much farther than it should, or in the wrong direction, each joint went in each experience (N, A), over the
    root mean square of how far it should go.

    How far it should go is its gain times what was asked: the gain is the upper quartile of moved / asked, each
    weighted by how far was asked, so that a reversed joint or another gear is no fault, nor are commands against a
    stop or an object, as long as a quarter of what is asked meets none. Going less far than it should is no fault
    either. Needs neither pictures nor a model, and sees commands of another time or robot.
    0 of `position` fields, which do not ask for a distance, of joints that an object may block, and of everything
    where an experience has another shape or a state is not finite.
    """
    if not experiences or not all(readable(item, robot) for item in experiences):
        return np.zeros((len(experiences), len(robot.action)))  # the alignment says what is wrong
    ends = robot.measured(np.array([(item.observation.state, item.next_observation.state) for item in experiences]))
    start, end = ends.swapaxes(0, 1)
    period_s = robot.period_ns * 1e-9
    goals = [
        positions_of(e.commands, before, robot.kinds, period_s)[-1]
        for e, before in zip(experiences, start, strict=True)
    ]
    asked, moved = np.array(goals) - start, end - start
    should = asked * [_gain(*joint) for joint in zip(asked.T, moved.T, strict=True)]
    beyond = np.maximum(np.minimum(should, 0.0) - moved, moved - np.maximum(should, 0.0)).clip(min=0.0)
    mostly = np.sqrt(np.square(should).mean(0))
    asks_distance = (robot.kinds != "position") & robot.must_follow
    noise = STILL_RAD * robot.scale_of_rad  # below is nothing else
    strays: NDArray[np.float64] = asks_distance * beyond / np.maximum(mostly, noise)
    return strays


def _gain(asked: NDArray[np.float64], moved: NDArray[np.float64]) -> float:
    """Of one joint: the upper quartile of moved / asked (N,), in the direction in which it mostly goes."""
    which = asked != 0.0
    if not which.any():
        return 0.0
    ratio, weight = moved[which] / asked[which], np.abs(asked[which])
    sign = -1.0 if _weighted_quantile(ratio, weight, 0.5) < 0 else 1.0
    return sign * _weighted_quantile(sign * ratio, weight, UPPER_QUARTILE)


def _weighted_quantile(values: NDArray[np.float64], weights: NDArray[np.float64], share: float) -> float:
    """The value up to which `share` of the weight lies."""
    order = np.argsort(values)
    up_to = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(up_to, share * up_to[-1])])
