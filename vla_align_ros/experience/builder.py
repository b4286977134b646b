"""Messages and commands -> experiences: what was seen at tick k, the H commands in force from k, what was seen at k+H.

Everything follows from stamps. Which command is in force at a tick, and what it asks for there, says `in_force.py`. A
tick is judged `lag_s` after the end of its experience, when every message with an earlier stamp has come, so a bag and
the live run that it recorded give the same experiences, sample for sample.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Final

import numpy as np

from vla_align_ros.action.trajectory import positions_of
from vla_align_ros.experience.in_force import CommandsInForce
from vla_align_ros.observation.assemble import ObservationAssembler, ObservationReason, ObservationRefused
from vla_align_ros.observation.codecs import MessageReason, MessageRefused, RawMessage
from vla_align_ros.observation.stamps import FALL_BACK_NS
from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.types import Experience, Observation

EPISODE_GAP_NS: Final = 1_000_000_000
STILL_RAD: Final = 0.02  # a joint that moved no farther stood still
ASKED_RAD: Final = 0.2  # one that was asked to go this far and stood still is held by something: its stop, the table


class ExperienceReason(Enum):
    """Why a tick at which a command was in force gave no experience."""

    NO_COMMAND = "no_command"  # The commands end, or pause, before H ticks are over.
    FOREIGN_COMMAND = "foreign_command"  # Somebody else's command, or one that cannot be read, may have moved the arm.
    JOINT_HELD = "joint_held"  # A joint was asked to go far and stood still (`joint_held`).
    PROMPT_CHANGED = "prompt_changed"  # The prompt at the end is not the one at the start.
    CLOCK_JUMP = "clock_jump"  # The clock fell back: everything from later is forgotten.


class ExperienceBuilder:
    """Joins what an assembler saw with the commands that were in force; thread-safe.

    horizon: H, ticks in one experience. stride_ticks: an experience starts at every tick k (counted from the epoch)
    that is a multiple of it. lag_s: longest time from a message's stamp to its arrival, commands included: what comes
    later is not used. What the assembler's history has beyond lag, horizon and stale limit is how late `advance` may be
    called.
    """

    def __init__(
        self,
        assembler: ObservationAssembler,
        robot: RobotDescription,
        horizon: int,
        lag_s: float,
        stride_ticks: int = 4,
    ) -> None:
        """Raises ValueError for numbers that are not positive, and for a history that would forget too early."""
        if min(horizon, stride_ticks) < 1 or not lag_s > 0:
            text = f"horizon {horizon}, stride_ticks {stride_ticks}, lag_s {lag_s}"
            raise ValueError(f"all must be above 0: {text}")
        limits = assembler.limits
        needed_s = lag_s + horizon * robot.period_ns * 1e-9 + max(limits.image_stale_s, limits.joint_stale_s)
        if limits.history_s < needed_s:
            text = "to look back over lag, horizon and the oldest usable message"
            raise ValueError(f"history_s must be at least {needed_s:.3f} {text}, got {limits.history_s:g}")
        self._skipped: Counter[ExperienceReason | ObservationReason | MessageReason] = Counter()
        self._assembler = assembler
        self._robot, self._period_ns = robot, robot.period_ns
        self._horizon = horizon
        self.lag_s = lag_s
        self._lag_ns = round(lag_s * 1e9)
        self._stride = stride_ticks
        self._commands = CommandsInForce(robot, self._lag_ns, assembler.joints_at)
        self._observed: dict[int, Observation | None] = {}  # by tick; None was refused
        self._next_tick = 0
        self._now_ns = 0
        self._last: Experience | None = None
        self._lock = threading.Lock()

    @property
    def skipped(self) -> Counter[ExperienceReason | ObservationReason | MessageReason]:
        """How often each reason cost an experience (an observation's counts once a tick) or a command; a copy."""
        with self._lock:
            return self._skipped.copy()

    def push_command(self, raw: RawMessage, now_ns: int) -> None:
        """A JointTrajectory that is in force from its stamp on, or from `now_ns`, when it came, where the stamp is 0;
        it replaces earlier ones. Raises MessageRefused (as `decode_trajectory`; trajectory_over, trajectory_ahead),
        counted: then there is no experience until the next one, since a controller may have obeyed or stopped."""
        with self._lock:
            try:
                self._commands.put(raw, now_ns)
            except MessageRefused as error:
                self._skipped[error.reason] += 1
                raise

    def push_foreign(self, raw: RawMessage, now_ns: int) -> None:
        """A JointTrajectory by which somebody else commands the arm, come at `now_ns`: while it lasts there is no
        experience (`in_force.py`). One that cannot be read is counted, and lasts until the next command of ours."""
        with self._lock:
            try:
                self._commands.put_foreign(raw, now_ns)
            except MessageRefused as error:
                self._skipped[error.reason] += 1

    def advance(self, now_ns: int) -> list[Experience]:
        """The experiences that have become complete by `now_ns` (ROS time), oldest first, each once."""
        with self._lock:
            self._assembler.follow(now_ns)
            if now_ns < self._now_ns - FALL_BACK_NS:
                self._fall_back_to(now_ns)
            self._now_ns = max(now_ns, self._now_ns)
            self._commands.measure_starts(now_ns)
            newest = (now_ns - self._lag_ns) // self._period_ns - self._horizon
            experiences = [made for tick in self._commanded_ticks(newest) if (made := self._experience(tick))]
            self._next_tick = max(self._next_tick, newest + 1)
            self._forget_before(self._next_tick)
            return experiences

    def _commanded_ticks(self, newest: int) -> Iterator[int]:
        """Ticks of the stride up to `newest`, not judged yet, with a command in force. Pauses cost no time."""
        for start_ns, end_ns in self._commands.spans():
            first = max(self._next_tick, _ceil_div(start_ns, self._period_ns))
            end = min(newest + 1, _ceil_div(end_ns, self._period_ns))
            yield from range(_ceil_div(first, self._stride) * self._stride, end, self._stride)

    def _experience(self, tick: int) -> Experience | None:
        start_ns, end_ns = tick * self._period_ns, (tick + self._horizon) * self._period_ns
        if self._commands.disturbed(start_ns, end_ns):
            self._skipped[ExperienceReason.FOREIGN_COMMAND] += 1
            return None
        observation, after = self._observation(tick), self._observation(tick + self._horizon)
        if observation is None or after is None:
            return None
        if observation.prompt != after.prompt:
            self._skipped[ExperienceReason.PROMPT_CHANGED] += 1
            return None
        try:
            origin = self._robot.measured(observation.state)
            commands = self._commands.actions(start_ns, self._horizon, origin)
        except ObservationRefused as error:
            self._skipped[error.reason] += 1
            return None
        if commands is None:
            self._skipped[ExperienceReason.NO_COMMAND] += 1
            return None
        self._last = Experience(observation, commands, after, self._episode(observation))
        if joint_held(self._last, self._robot):
            self._skipped[ExperienceReason.JOINT_HELD] += 1
            return None
        return self._last

    def _observation(self, tick: int) -> Observation | None:
        if tick not in self._observed:
            try:
                self._observed[tick] = self._assembler.observe(tick * self._period_ns)
            except ObservationRefused as error:
                self._observed[tick] = None
                self._skipped[error.reason] += 1
        return self._observed[tick]

    def _episode(self, observation: Observation) -> int:
        if self._last is None:
            return 0
        gap_ns = observation.stamp_ns - self._last.observation.stamp_ns
        same_prompt = observation.prompt == self._last.observation.prompt
        goes_on = same_prompt and 0 <= gap_ns <= max(EPISODE_GAP_NS, self._stride * self._period_ns)
        return self._last.episode if goes_on else self._last.episode + 1

    def _forget_before(self, tick: int) -> None:
        self._observed = {seen: observation for seen, observation in self._observed.items() if seen >= tick}
        self._commands.forget_before(tick * self._period_ns)

    def _fall_back_to(self, now_ns: int) -> None:
        self._skipped[ExperienceReason.CLOCK_JUMP] += 1
        self._commands.forget_after(now_ns)
        self._observed.clear()
        self._next_tick, self._now_ns = 0, now_ns


def readable(item: Experience, robot: RobotDescription) -> bool:
    """Whether an experience has the robot's shapes and finite states."""
    states = (item.observation.state, item.next_observation.state)
    fits = all(state.shape == (len(robot.state),) and np.isfinite(state).all() for state in states)
    return fits and item.commands.shape[1:] == (len(robot.action),) and len(item.commands) > 0


def joint_held(item: Experience, robot: RobotDescription) -> bool:
    """Whether a joint stood still that was asked to go far, as at its stop: commands that do nothing say nothing about
    the robot, and would look like actions that do not fit the frames. Not a joint that an object may block."""
    if not readable(item, robot):
        return False  # the alignment says what is wrong
    start, end = (robot.measured(seen.state) for seen in (item.observation, item.next_observation))
    goal = positions_of(item.commands, start, robot.kinds, robot.period_ns * 1e-9)[-1]
    scale = robot.scale_of_rad
    held = (np.abs(goal - start) > ASKED_RAD * scale) & (np.abs(end - start) < STILL_RAD * scale)
    return bool((held & robot.must_follow).any())


def without_held(experiences: Sequence[Experience], robot: RobotDescription) -> list[Experience]:
    """Those in which no joint was held: a builder has left out the others, experience from elsewhere may have them."""
    return [item for item in experiences if not joint_held(item, robot)]


def _ceil_div(number: int, divisor: int) -> int:
    return -(-number // divisor)
