"""Messages and sent chunks -> experiences: what was seen at tick k, the H commands sent from k, what was seen at k+H.

Everything follows from stamps. The command of tick t is point floor((t - stamp) / period) of the chunk with the largest
stamp <= t (the rule of `action.chunk_queue`), ramp points included. A tick is judged `lag_s` after the end of its
experience, when every message with an earlier stamp has come, so a bag and the live run that it recorded give the same
experiences, sample for sample.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import zip_longest
from typing import Final

import numpy as np

from vla_align_ros.action.trajectory import ActionKind, Trajectory, commands_of, positions_of
from vla_align_ros.observation.assemble import ObservationAssembler, ObservationReason, ObservationRefused
from vla_align_ros.observation.codecs import MessageReason, MessageRefused, RawMessage, decode_trajectory
from vla_align_ros.types import Experience, Float32Array, Observation

EPISODE_GAP_NS: Final = 1_000_000_000
STILL_RAD: Final = 0.02  # a joint that moved no farther stood still
ASKED_RAD: Final = 0.2  # one that was asked to go this far and stood still is held by something: its stop, the table


class ExperienceReason(Enum):
    """Why a tick at which a chunk was running gave no experience."""

    NO_COMMAND = "no_command"  # The commands end, or pause, before H ticks are over.
    JOINT_HELD = "joint_held"  # A joint was asked to go far and stood still (`joint_held`).
    PROMPT_CHANGED = "prompt_changed"  # The prompt at the end is not the one at the start.
    CLOCK_JUMP = "clock_jump"  # The clock fell back by more than the history: everything from later is forgotten.


class ExperienceBuilder:
    """Joins what an assembler saw with the chunks that were sent; thread-safe.

    horizon: H, ticks in one experience. stride_ticks: an experience starts at every tick k (counted from the epoch)
    that is a multiple of it. lag_s: longest time from a message's stamp to its arrival, chunks included: what comes
    later is not used. What the assembler's history has beyond lag, horizon and stale limit is how late `advance` may be
    called.
    """

    def __init__(
        self,
        assembler: ObservationAssembler,
        joint_names: Sequence[str],
        period_ns: int,
        horizon: int,
        action_kind: ActionKind,
        lag_s: float,
        stride_ticks: int = 4,
    ) -> None:
        """Raises ValueError for numbers that are not positive, and for a history that would forget too early."""
        if min(period_ns, horizon, stride_ticks) < 1 or not lag_s > 0:
            text = f"period_ns {period_ns}, horizon {horizon}, stride_ticks {stride_ticks}, lag_s {lag_s}"
            raise ValueError(f"all must be above 0: {text}")
        limits = assembler.limits
        needed_s = lag_s + horizon * period_ns * 1e-9 + max(limits.image_stale_s, limits.joint_stale_s)
        if limits.history_s < needed_s:
            text = "to look back over lag, horizon and the oldest usable message"
            raise ValueError(f"history_s must be at least {needed_s:.3f} {text}, got {limits.history_s:g}")
        self._skipped: Counter[ExperienceReason | ObservationReason | MessageReason] = Counter()
        self._assembler = assembler
        self._joint_names = tuple(joint_names)
        self._period_ns = period_ns
        self._horizon = horizon
        self._action_kind = action_kind
        self._lag_ns = round(lag_s * 1e9)
        self._history_ns = round(limits.history_s * 1e9)
        self._stride = stride_ticks
        self._chunks: list[Trajectory] = []  # by rising stamp: the one running at the next tick, and later ones
        self._observed: dict[int, Observation | None] = {}  # by tick; None was refused
        self._next_tick = 0
        self._now_ns = 0
        self._last: Experience | None = None
        self._lock = threading.Lock()

    @property
    def skipped(self) -> Counter[ExperienceReason | ObservationReason | MessageReason]:
        """How often each reason cost an experience (an observation's counts once a tick) or a chunk; a copy."""
        with self._lock:
            return self._skipped.copy()

    def push_chunk(self, raw: RawMessage) -> None:
        """A JointTrajectory as sent; from its stamp on it replaces earlier ones. Raises MessageRefused, counted."""
        try:
            chunk = decode_trajectory(raw, self._joint_names)
        except MessageRefused as error:
            with self._lock:
                self._skipped[error.reason] += 1
            raise
        with self._lock:
            self._chunks = [held for held in self._chunks if held.stamp_ns < chunk.stamp_ns] + [chunk]

    def advance(self, now_ns: int) -> list[Experience]:
        """The experiences that have become complete by `now_ns` (ROS time), oldest first, each once."""
        with self._lock:
            if now_ns < self._now_ns - self._history_ns:
                self._fall_back_to(now_ns)
            self._now_ns = max(now_ns, self._now_ns)
            newest = (now_ns - self._lag_ns) // self._period_ns - self._horizon
            experiences = [made for tick in self._commanded_ticks(newest) if (made := self._experience(tick))]
            self._next_tick = max(self._next_tick, newest + 1)
            self._forget_before(self._next_tick)
            return experiences

    def _commanded_ticks(self, newest: int) -> Iterator[int]:
        """Ticks of the stride up to `newest`, not judged yet, at which a chunk is running. Pauses cost no time."""
        for chunk, later in zip_longest(self._chunks, self._chunks[1:]):
            end_ns = chunk.stamp_ns + len(chunk.times_ns) * self._period_ns
            if later is not None:
                end_ns = min(end_ns, later.stamp_ns)
            first = max(self._next_tick, _ceil_div(chunk.stamp_ns, self._period_ns))
            end = min(newest + 1, _ceil_div(end_ns, self._period_ns))
            yield from range(_ceil_div(first, self._stride) * self._stride, end, self._stride)

    def _experience(self, tick: int) -> Experience | None:
        observation, after = self._observation(tick), self._observation(tick + self._horizon)
        if observation is None or after is None:
            return None
        if observation.prompt != after.prompt:
            self._skipped[ExperienceReason.PROMPT_CHANGED] += 1
            return None
        commands = self._commands(tick, observation.state)
        if commands is None:
            self._skipped[ExperienceReason.NO_COMMAND] += 1
            return None
        self._last = Experience(observation, commands, after, self._episode(observation))
        if joint_held(self._last, self._action_kind, self._period_ns):
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

    def _commands(self, tick: int, state: Float32Array) -> Float32Array | None:
        """The commands (H, A) of `tick` and the ticks after it; changes of position count from `state`."""
        rows = []
        for t_ns in range(tick * self._period_ns, (tick + self._horizon) * self._period_ns, self._period_ns):
            place = bisect_right(self._chunks, t_ns, key=lambda chunk: chunk.stamp_ns) - 1
            if place < 0:
                return None
            chunk = self._chunks[place]
            point = (t_ns - chunk.stamp_ns) // self._period_ns
            if point >= len(chunk.times_ns):
                return None
            rows.append(commands_of(chunk, self._action_kind, state)[point])
        commands = np.stack(rows)
        commands.flags.writeable = False
        return commands

    def _episode(self, observation: Observation) -> int:
        if self._last is None:
            return 0
        gap_ns = observation.stamp_ns - self._last.observation.stamp_ns
        same_prompt = observation.prompt == self._last.observation.prompt
        goes_on = same_prompt and 0 <= gap_ns <= max(EPISODE_GAP_NS, self._stride * self._period_ns)
        return self._last.episode if goes_on else self._last.episode + 1

    def _forget_before(self, tick: int) -> None:
        self._observed = {seen: observation for seen, observation in self._observed.items() if seen >= tick}
        running = bisect_right(self._chunks, tick * self._period_ns, key=lambda chunk: chunk.stamp_ns)
        del self._chunks[: max(0, running - 1)]

    def _fall_back_to(self, now_ns: int) -> None:
        self._skipped[ExperienceReason.CLOCK_JUMP] += 1
        self._chunks = [chunk for chunk in self._chunks if chunk.stamp_ns <= now_ns]
        self._observed.clear()
        self._next_tick, self._now_ns = 0, now_ns


def joint_held(item: Experience, action_kind: ActionKind, period_ns: int) -> bool:
    """Whether a joint stood still that was asked to go far, as at its stop: commands that do nothing say nothing about
    the robot, and would look like actions that do not fit the frames."""
    start, end = item.observation.state, item.next_observation.state
    shapes = {start.shape, end.shape, item.commands.shape[1:]}
    if len(shapes) != 1 or len(item.commands) == 0 or not np.isfinite([start, end]).all():
        return False  # the alignment says what is wrong
    goal = positions_of(item.commands, start, action_kind, period_ns * 1e-9)[-1]
    return bool(((np.abs(goal - start) > ASKED_RAD) & (np.abs(end - start) < STILL_RAD)).any())


def without_held(experiences: Sequence[Experience], action_kind: ActionKind, period_ns: int) -> list[Experience]:
    """Those in which no joint was held: a builder has left out the others, experience from elsewhere may have them."""
    return [item for item in experiences if not joint_held(item, action_kind, period_ns)]


def _ceil_div(number: int, divisor: int) -> int:
    return -(-number // divisor)
