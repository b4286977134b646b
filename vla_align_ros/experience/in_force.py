"""Which command of which sender was in force when, and what it asked for in each control tick.

A command of ours (`put`: of whoever's commands experience is made) is in force from its stamp, or from its arrival
where that is 0, until the next one's or its last point. Somebody else's (`put_foreign`) takes the arm from its stamp or
its arrival, whichever is earlier:

- While it lasts there is no experience, whatever of ours came meanwhile: who of the two had the arm nobody can tell.
- Whatever of ours was stamped, or came, before it is over from then on, also after its last point; a later one counts.
- One that cannot be read may move the arm all the same. It lasts until a later command of ours has come and begun. That
  goes for a command of ours that is refused, too, as a controller may have obeyed or stopped. Only bytes that are no
  message at all change nothing.
- One that turns out to be a copy of ours or a part of it, which came first (the way into a relay, a multiplexer or a
  command group's controller), is nobody else's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from vla_align_ros.action.running import RunningTrajectory, begin, says_start
from vla_align_ros.action.timeline import Timeline
from vla_align_ros.experience.own_commands import columns_of
from vla_align_ros.observation.assemble import ObservationReason, ObservationRefused
from vla_align_ros.observation.codecs import MessageReason, MessageRefused, RawMessage, decode_trajectory
from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.types import Float32Array, Float64Array, Trajectory

_FOREVER_NS = 2**63


@dataclass
class _Command:
    """One of ours, in force from `start_ns` to `until_ns`. earliest_ns: of its start and its arrival. running: None
    until it is known where the arm was when it began, or that this cannot be known (`problem`)."""

    trajectory: Trajectory
    start_ns: int
    until_ns: int
    earliest_ns: int
    running: RunningTrajectory | None = None
    problem: ObservationReason | None = None


@dataclass
class _Foreign:
    """Somebody else's, come at `came_ns`, which may have moved the arm from `from_ns` to `until_ns`. columns: what
    it says of each joint (`columns_of`); None for one that cannot be read."""

    from_ns: int
    came_ns: int
    until_ns: int
    columns: frozenset[int] | None = None


class _Part(NamedTuple):
    """The part of a tick in which `running` is in force. start, end: (A,) where it leads to by then, rad or m."""

    from_ns: int
    until_ns: int
    running: RunningTrajectory

    @property
    def start(self) -> Float64Array:
        return self.running.position_at(self.from_ns)

    @property
    def end(self) -> Float64Array:
        return self.running.position_at(self.until_ns)


class CommandsInForce:
    """Not thread-safe. state_at: the state (S,) at a time, as an assembler has it; asked `lag_ns` after a command
    began, when all messages are in."""

    def __init__(self, robot: RobotDescription, lag_ns: int, state_at: Callable[[int], Float32Array]) -> None:
        self._robot, self._period_ns, self._lag_ns, self._state_at = robot, robot.period_ns, lag_ns, state_at
        self._commands = Timeline[_Command]()
        self._foreign: list[_Foreign] = []

    def put(self, raw: RawMessage, now_ns: int) -> None:
        """A command of ours that came at `now_ns`. Raises MessageRefused."""
        try:
            trajectory = self._read(raw, now_ns, self._robot.action_joints)
        except MessageRefused as error:
            self._take_over(error, now_ns)
            raise
        start_ns = trajectory.start_ns(now_ns)
        command = _Command(trajectory, start_ns, start_ns + int(trajectory.times_ns[-1]), min(start_ns, now_ns))
        if says_start(trajectory, self._period_ns):
            command.running = begin(trajectory, start_ns, self._period_ns)
        self._commands.put(start_ns, command)
        said = columns_of(raw)
        self._foreign = [
            held
            for held in self._foreign
            if held.columns is None or not held.columns <= said or now_ns - held.came_ns > self._lag_ns
        ]
        for foreign in self._foreign:
            _end(command, foreign)
            if foreign.until_ns == _FOREVER_NS and command.earliest_ns >= foreign.came_ns:
                foreign.until_ns = max(start_ns, now_ns)

    def put_foreign(self, raw: RawMessage, now_ns: int) -> None:
        """Somebody else's command that came at `now_ns`, of whichever joints: who moves some of them moves the robot.
        Raises MessageRefused, having taken note of it."""
        try:
            trajectory = self._read(raw, now_ns)
        except MessageRefused as error:
            self._take_over(error, now_ns)
            raise
        start_ns = trajectory.start_ns(now_ns)
        until_ns = start_ns + int(trajectory.times_ns[-1])
        self._add(_Foreign(min(start_ns, now_ns), now_ns, until_ns, columns_of(raw)))

    def measure_starts(self, now_ns: int) -> None:
        """Note where the arm was when the commands began that do not say it, once that is known and before it is
        forgotten. To be called often."""
        for command in self._commands:
            start_ns = command.start_ns
            if command.running is None and command.problem is None and start_ns + self._lag_ns <= now_ns:
                try:
                    measured = (start_ns, self._robot.measured(self._state_at(start_ns)))
                except ObservationRefused as error:
                    command.problem = error.reason
                else:
                    command.running = begin(command.trajectory, start_ns, self._period_ns, measured)

    def spans(self) -> Iterator[tuple[int, int]]:
        """When a command of ours is in force, (from, until) in ns, oldest first."""
        commands = list(self._commands)
        for command, later in zip_longest(commands, commands[1:]):
            yield command.start_ns, min(command.until_ns, _FOREVER_NS if later is None else later.start_ns)

    def disturbed(self, start_ns: int, end_ns: int) -> bool:
        """Whether somebody else's command, or one that cannot be read, lasts in a part of this time."""
        return any(foreign.from_ns < end_ns and foreign.until_ns > start_ns for foreign in self._foreign)

    def actions(self, start_ns: int, count: int, origin: Float64Array) -> Float32Array | None:
        """What was asked for in `count` control ticks from `start_ns` on, (count, A) float32, read-only: of each, how
        far the commands lead in it, over their seams, or where to by its end. None where at the start of one of them
        nothing is in force.

        origin: (A,) what changes of position count from. Raises ObservationRefused where it is not known from where
        a command began.
        """
        ticks = range(start_ns, start_ns + count * self._period_ns, self._period_ns)
        if not all((command := self._commands.at(t_ns)) is not None and t_ns < command.until_ns for t_ns in ticks):
            return None
        kinds, parts = self._robot.kinds, [self._parts(t_ns) for t_ns in ticks]
        with np.errstate(over="ignore"):
            goals = np.stack([of_tick[-1].end for of_tick in parts])
            asked = goals - np.where(kinds == "delta_position", origin, 0.0)
            if "velocity" in kinds:
                ways = np.stack([np.sum([part.end - part.start for part in of_tick], axis=0) for of_tick in parts])
                asked = np.where(kinds == "velocity", ways / (self._period_ns * 1e-9), asked)
            actions = asked.astype(np.float32)
        actions.flags.writeable = False
        return actions

    def forget_before(self, t_ns: int) -> None:
        """Drop what plays no part from `t_ns` on."""
        self._commands.forget_before(t_ns)
        self._foreign = [foreign for foreign in self._foreign if foreign.until_ns > t_ns]

    def forget_after(self, t_ns: int) -> None:
        """Drop what begins or came after `t_ns`."""
        self._commands.forget_after(t_ns)
        self._foreign = [foreign for foreign in self._foreign if foreign.came_ns <= t_ns]

    def _read(self, raw: RawMessage, now_ns: int, joints: Sequence[str] | None = None) -> Trajectory:
        trajectory = decode_trajectory(raw, joints)
        start_ns = trajectory.start_ns(now_ns)
        over_s = (now_ns - start_ns - int(trajectory.times_ns[-1])) * 1e-9
        if over_s >= 0:
            text = f"it came {over_s:.3f} s after its last point; are the clocks of sender and receiver the same?"
            raise MessageRefused(MessageReason.TRAJECTORY_OVER, text)
        if (ahead_s := (start_ns - now_ns) * 1e-9) > self._lag_ns * 1e-9:
            text = f"it starts {ahead_s:.3f} s after it came; are the clocks of sender and receiver the same?"
            raise MessageRefused(MessageReason.TRAJECTORY_AHEAD, text)
        return trajectory

    def _take_over(self, error: MessageRefused, now_ns: int) -> None:
        """A message that cannot be read came at `now_ns`."""
        if error.reason is MessageReason.MALFORMED:
            return
        foreign = next((held for held in self._foreign if held.until_ns == _FOREVER_NS), None)
        if foreign is None:
            self._add(_Foreign(now_ns, now_ns, _FOREVER_NS))
        else:  # many of them are one
            foreign.from_ns, foreign.came_ns = min(foreign.from_ns, now_ns), max(foreign.came_ns, now_ns)
            self._foreign.remove(foreign)
            self._add(foreign)

    def _add(self, foreign: _Foreign) -> None:
        self._foreign.append(foreign)
        for command in self._commands:
            _end(command, foreign)

    def _parts(self, t_ns: int) -> list[_Part]:
        """Of the tick from `t_ns` on, one for each command in it, oldest first."""
        return [
            _Part(from_ns, until_ns, _begun(command))
            for from_ns, until_ns, command in self._commands.between(t_ns, t_ns + self._period_ns)
            if command is not None
        ]


def _begun(command: _Command) -> RunningTrajectory:
    if command.running is None:
        assert command.problem is not None  # a tick is judged lag after its end
        raise ObservationRefused(command.problem, "it is not known where the arm was when its command began")
    return command.running


def _end(command: _Command, foreign: _Foreign) -> None:
    """Let `foreign` end `command`, unless that is a later word."""
    if command.earliest_ns < foreign.came_ns:
        command.until_ns = min(command.until_ns, foreign.from_ns)
