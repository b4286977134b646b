"""A small motion of each commanded field around where the robot stands, for experience where nobody explores.

    position at tick k = base + size * unit(k),   unit from 0 over random places in [-1, 1], not near 0, back to 0

It goes from place to place smoothly, at rest in each, a horizon long: two observations a horizon apart then tell how
far a command moved each joint. Places of different joints have nothing to do with each other. Size, velocity,
acceleration and braking distance all grow with one number a joint, so that its limits are kept by making that small
enough. Where a joint has room to one side only, its places lie there.

A velocity is commanded as it was planned, never corrected by where the joint is: whatever a joint's gain or sign, the
commands add up to nothing, and a joint that turns the wrong way does not run off.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.types import ActionChunk, Experience, Float64Array

GENTLE: Final = 0.5  # share of velocity_max and acceleration_max; of a velocity's room, as its gain may be above 1
STANDS_FOR_S: Final = 0.5
STANDS_RAD: Final = 0.02  # who moved no farther in that time stands
SETTLES_S: Final = 0.3  # a joint comes to rest so long after its last command


def wiggle(
    base: Float64Array,
    ticks: int,
    horizon: int,
    robot: RobotDescription,
    ramp_ticks: int,
    size_rad: float,
    rng: np.random.Generator,
) -> Float64Array:
    """How far each joint is from `base` (A,) at the start of each tick, and after the last one, (ticks + 1, A).

    Rows 0 and -1 are 0. ticks: at least 2. size_rad: the farthest; a sliding joint's share of it says
    `RobotDescription.scale_of_rad`. A field that an object may block stays, one outside its
    range, and a velocity that has no room to brake.
    """
    by_velocity, period_s = robot.kinds == "velocity", robot.period_ns * 1e-9
    ends = np.array([joint.position for joint in robot.action_limits])
    size = size_rad * robot.scale_of_rad
    room = np.stack([base - ends[:, 0], ends[:, 1] - base]) * np.where(by_velocity, GENTLE, 1.0)
    room = np.where(room.min(0) < 0, 0.0, room)  # out there is no way back to where it began
    lean = np.where(room.min(0) >= size, 0.0, np.where(room[1] > room[0], 0.5, -0.5))
    unit = _unit(ticks, max(2, ticks // horizon), lean, rng)
    steps = np.diff(unit, axis=0)
    braking = np.where(by_velocity, steps * (ramp_ticks - 1) / 2, 0.0)
    reach = np.stack([-np.minimum(unit[1:], unit[1:] + braking), np.maximum(unit[1:], unit[1:] + braking)]).max(1)
    speed = np.abs(steps).max(0) / period_s
    change = np.abs(np.diff(steps, axis=0, prepend=0.0, append=0.0)).max(0) / period_s**2
    acceleration_max = np.array([joint.acceleration_max or np.inf for joint in robot.action_limits])
    most = [size, *_ratio(room, reach), GENTLE * _ratio(robot.velocity_max, speed)]
    most.append(GENTLE * _ratio(acceleration_max, change))
    path: Float64Array = unit * np.where(robot.must_follow, np.min(most, axis=0), 0.0)
    return path


def _unit(ticks: int, ways: int, lean: Float64Array, rng: np.random.Generator) -> Float64Array:
    """(ticks + 1, A): so many ways from random place to random place, from 0 to 0."""
    shape = (ways + 1, len(lean))
    places = lean + (1.0 - np.abs(lean)) * rng.uniform(0.5, 1.0, shape) * rng.choice([-1.0, 1.0], shape)
    places[[0, -1]] = 0.0
    way, gone = np.divmod(np.arange(ticks + 1) * ways / ticks, 1.0)
    way = np.minimum(way.astype(int), ways)
    share = (gone**3 * (10.0 - 15.0 * gone + 6.0 * gone**2))[:, None]  # at rest at both ends
    unit: Float64Array = places[way] + share * (places[np.minimum(way + 1, ways)] - places[way])
    return unit


def _ratio(limit: Float64Array, used: Float64Array) -> Float64Array:
    unlimited = np.full(np.broadcast(limit, used).shape, np.inf)
    ratio: Float64Array = np.divide(limit, used, out=unlimited, where=used > 0)
    return ratio


class Excitation:
    """One, from the wish to its end. `Controller` begins it once the robot stands; one thread at a time changes it.

    begin_ns, until_ns: its span, control ticks; 0 before it begins. over: whether it has ended, or will not begin.
    problem: why it ended early; empty otherwise. still: fields that stay where they are.
    """

    def __init__(self, seconds: float, size_rad: float) -> None:
        self.seconds, self.size_rad = seconds, size_rad
        self.begin_ns = self.until_ns = 0
        self.over, self.problem = False, ""
        self.still: tuple[str, ...] = ()

    def begin(
        self,
        tick_ns: int,
        base: Float64Array,
        robot: RobotDescription,
        horizon: int,
        ramp_ticks: int,
        rng: np.random.Generator,
    ) -> None:
        """From `tick_ns` on, around the positions `base` (A,). It is over at once where no field can move."""
        ticks = max(2, round(self.seconds * 1e9 / robot.period_ns))
        self._base, self._robot, self._horizon = base, robot, horizon
        self._path = wiggle(base, ticks, horizon, robot, ramp_ticks, self.size_rad, rng)
        moves = np.abs(self._path).max(axis=0) > 0.0
        self.still = tuple(
            label for label, moving in zip(robot.action_labels, moves.tolist(), strict=True) if not moving
        )
        self.begin_ns, self.until_ns = tick_ns, tick_ns + ticks * robot.period_ns
        if not moves.any():
            self.end(
                tick_ns,
                "no joint may be moved: each may be blocked, is outside its range, or excite_size_rad is 0",
            )

    def chunk(self, tick_ns: int, start: Float64Array) -> ActionChunk:
        """The actions from `tick_ns` on, inside its span, of a robot that is at `start` (A,); it ends at rest where it
        began."""
        robot, last = self._robot, len(self._path) - 1
        first = (tick_ns - self.begin_ns) // robot.period_ns
        rows = np.minimum(np.arange(first, first + self._horizon + 1), last)
        goals = self._base + self._path[rows[1:]]
        velocities = (self._path[rows[1:]] - self._path[rows[:-1]]) / (robot.period_ns * 1e-9)
        actions = np.where(robot.kinds == "delta_position", goals - start, goals)
        actions = np.where(robot.kinds == "velocity", velocities, actions).astype(np.float32)
        return ActionChunk(actions, start.astype(np.float32), tick_ns, robot.period_ns)

    def end(self, now_ns: int, problem: str = "") -> None:
        """It is over; the first word counts."""
        if not self.over:
            self.until_ns = min(self.until_ns, max(now_ns, self.begin_ns))
            self.problem, self.over = problem, True


def count_excited(experiences: Iterable[Experience], spans_ns: Iterable[tuple[int, int]]) -> int:
    """How many experiences lie wholly inside one of the spans (from, until)."""
    spans = list(spans_ns)
    return sum(
        any(
            begin_ns <= item.observation.stamp_ns and item.next_observation.stamp_ns <= until_ns
            for begin_ns, until_ns in spans
        )
        for item in experiences
    )
