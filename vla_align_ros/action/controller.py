"""The control path: at each tick, is a new chunk due? Then observe, sample, check and hand out a trajectory.

tick -> observation -> chunk (policy, exploration or excitation) -> limits -> queue -> trajectory for the wire
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vla_align_ros.action.chunk_queue import ChunkQueue
from vla_align_ros.action.excitation import SETTLES_S, STANDS_FOR_S, STANDS_RAD, Excitation
from vla_align_ros.action.exploration import Exploration, exploring_actions
from vla_align_ros.action.limits import ChunkLimits, ChunkReason, ChunkRefused, check_chunk
from vla_align_ros.action.running import RunningTrajectory, begin
from vla_align_ros.action.trajectory import hold_trajectory, to_trajectory
from vla_align_ros.observation.assemble import ObservationAssembler, ObservationReason, ObservationRefused
from vla_align_ros.policy import Policy
from vla_align_ros.seeds import Stream, rng_of
from vla_align_ros.types import ActionChunk, Float64Array, Observation, Trajectory

REMEMBERED = 1000  # excitations


@dataclass(frozen=True)
class Published:
    """One chunk, and the trajectory that says it on the wire. holds: that there were before it was begun with."""

    trajectory: Trajectory
    chunk: ActionChunk
    holds: int


class Controller:
    """Makes chunks for one policy. `tick` and `make` may be called from different threads, `make` from one only.

    late: chunks that came after the queue had run empty. The first one, and the first after a hold or after a refusal
    (which `refused` counts), is never late.
    excitations: the newest ones, the last of which may be under way.
    """

    def __init__(
        self,
        policy: Policy,
        assembler: ObservationAssembler,
        limits: ChunkLimits,
        seed: int,
        exploration_speed_fraction: float,
    ) -> None:
        self._policy, self._assembler, self._limits = policy, assembler, limits
        robot = policy.config.robot
        self.period_ns, self._execute, self._robot = robot.period_ns, robot.execute, robot
        self.queue = ChunkQueue(robot.period_ns)
        self._refused: Counter[ChunkReason | ObservationReason] = Counter()
        self.late = 0
        self._flowing = False
        self._last_tick: int | None = None
        self._running: RunningTrajectory | None = None  # what was sent last
        self._generator = torch.Generator().manual_seed(seed)
        horizon = policy.model.architecture.action_horizon
        speed = exploration_speed_fraction * robot.velocity_max
        self._exploration = Exploration(1, horizon, robot.execute, speed, np.random.default_rng(seed))
        self._horizon, self._holds = horizon, 0
        self._excitation_rng = rng_of(seed, Stream.EXCITATION)
        self.excitations: deque[Excitation] = deque(maxlen=REMEMBERED)

    @property
    def refused(self) -> Counter[ChunkReason | ObservationReason]:
        """How often each reason kept a chunk back (a copy)."""
        return Counter(self._refused)

    @property
    def excitation(self) -> Excitation | None:
        """The one that is under way, or waits until the robot stands."""
        newest = self.excitations[-1] if self.excitations else None
        return None if newest is None or newest.over else newest

    def excite(self, excitation: Excitation) -> None:
        """Once the running chunk has come to its end, and until this is over, move as `excitation` says, in place of
        policy and exploration. ValueError while another one is under way."""
        if self.excitation is not None:
            raise ValueError("the robot is being excited already: wait, or stop it")
        self.excitations.append(excitation)

    def tick(self, now_ns: int) -> int | None:
        """The control tick (ns) at which a chunk is due now, or None. Call it often; each tick is reported once."""
        self._assembler.follow(now_ns)
        tick_ns = now_ns // self.period_ns * self.period_ns
        if tick_ns == self._last_tick:
            return None
        if self._last_tick is not None and tick_ns < self._last_tick:  # the clock fell back: what is queued is not due
            self._forget()
            self._end_excitation(tick_ns, "the clock fell back")
        self._last_tick = tick_ns
        if self._waits_for_rest(tick_ns):
            self._forget()  # what runs comes to rest by itself, and nothing is late
            return None
        self.queue.command_at(tick_ns)
        return tick_ns if self.queue.remaining(tick_ns) <= self._horizon - self._execute else None

    def make(self, tick_ns: int, num_steps: int, exploration_fraction: float, now_ns: Callable[[], int]) -> Published:
        """A chunk for the observation at `tick_ns`, judged by where the arm is when it is done; now_ns reads the node's
        clock. Raises ObservationRefused or ChunkRefused, both counted."""
        holds = self._holds
        try:
            observation = self._assembler.observe(tick_ns)
            chunk = self._excite(observation)
            velocities, exploring = self._exploration.chunk(exploration_fraction)
            if chunk is None and exploring[0]:
                chunk = self._explore(observation, velocities[0])
            elif chunk is None:
                chunk = self._policy.infer(observation, self._generator, num_steps)
            self._judge(chunk, now_ns())
        except (ObservationRefused, ChunkRefused) as error:
            if isinstance(error, ChunkRefused):
                self._refused[error.reason] += 1
            self._flowing = False
            self._end_excitation(tick_ns, str(error), only_begun=True)
            raise
        trajectory = to_trajectory(chunk, self._robot, self._limits.ramp_ticks)
        return Published(trajectory, chunk, holds)

    def outdated(self, published: Published) -> bool:
        """Whether it was begun with before the arm was held last: it must not go out behind that."""
        return published.holds != self._holds

    def sent(self, published: Published, now_ns: int) -> None:
        """Tell that a trajectory is on the wire at `now_ns`."""
        if self.queue.command_at(now_ns) is None and self._flowing:
            self.late += 1
        self._flowing = True
        self.queue.put(published.chunk)
        trajectory, stamp_ns = published.trajectory, published.chunk.stamp_ns
        self._running = begin(trajectory, stamp_ns, self.period_ns, (stamp_ns, trajectory.start_position))

    def hold(self, now_ns: int) -> Trajectory | None:
        """Stop where the arm is, and forget what was queued; a joint that an object may block keeps its last goal, so
        that a gripper does not let go. None where nothing was sent since the last hold: what moves the arm, or holds an
        object, is not this node. Raises ObservationRefused (no_joints, stale_joints) when nobody knows where the arm
        is: the chunk that runs comes to rest by itself."""
        self._forget()
        self._holds += 1
        self._end_excitation(now_ns, "it was stopped")
        self._last_tick = None
        if self._running is None:
            return None
        position = self._standing(self._assembler.measured(now_ns), self._running, now_ns)
        self._running = None
        return hold_trajectory(position, now_ns, self.period_ns, self._robot.action_joints)

    def _standing(self, state: NDArray[np.floating], sent: RunningTrajectory | None, now_ns: int) -> Float64Array:
        """(A,) where the arm is in `state` (S,); a joint that an object may block: where it was `sent` last."""
        position: Float64Array = self._robot.measured(state)
        return position if sent is None else np.where(self._robot.must_follow, position, sent.position_at(now_ns))

    def _forget(self) -> None:
        self.queue.clear()
        self._flowing = False

    def _judge(self, chunk: ActionChunk, sent_ns: int) -> None:
        """The last gate, asked when the chunk could go out."""
        if sent_ns < chunk.stamp_ns:
            text = "the clock fell back while a chunk was made, which would be for a time to come"
            raise ObservationRefused(ObservationReason.CLOCK_JUMP, text)
        measured = self._robot.measured(self._assembler.measured(sent_ns))
        check_chunk(chunk, self._limits, measured, sent_ns - chunk.stamp_ns)

    def _explore(self, observation: Observation, velocities: NDArray[np.float64]) -> ActionChunk:
        start = self._robot.measured(observation.state)
        actions = exploring_actions(velocities, start, self._robot, self._limits.ramp_ticks).astype(np.float32)
        return ActionChunk(actions, start.astype(np.float32), observation.stamp_ns, self.period_ns)

    def _waits_for_rest(self, tick_ns: int) -> bool:
        """Whether an excitation waits while the chunk sent last still moves the arm."""
        excitation, running = self.excitation, self._running
        if excitation is None or excitation.begin_ns or running is None:
            return False
        return tick_ns < running.end_ns + round((SETTLES_S + STANDS_FOR_S) * 1e9)

    def _excite(self, observation: Observation) -> ActionChunk | None:
        """The chunk of an excitation that is under way or begins now; None without one. Raises ObservationRefused where
        nobody knows yet whether the arm stands."""
        excitation, tick_ns = self.excitation, observation.stamp_ns
        if excitation is None:
            return None
        if not excitation.begin_ns:
            if moving := self._moving(observation):
                excitation.end(tick_ns, moving)
                return None
            base = self._resting(observation, excitation.size_rad)
            ramp_ticks, rng = self._limits.ramp_ticks, self._excitation_rng
            excitation.begin(tick_ns, base, self._robot, self._horizon, ramp_ticks, rng)
        elif tick_ns >= excitation.until_ns:
            excitation.end(tick_ns)
        elif self.queue.remaining(tick_ns) == 0:
            excitation.end(tick_ns, "a chunk came after the one before had ended, where the arm rests")
        if excitation.over:
            return None
        return excitation.chunk(tick_ns, self._robot.measured(observation.state))

    def _resting(self, observation: Observation, size_rad: float) -> Float64Array:
        """(A,) around where the arm moves: where it is, or was sent last by position where that is near: a joint that
        sags under its load goes farther down with each target that is where it was measured."""
        now_ns, sent = observation.stamp_ns, self._running
        position = self._standing(observation.state, sent, now_ns)
        if sent is None:
            return position
        size = size_rad * self._robot.scale_of_rad
        near: Float64Array = position + np.clip(sent.position_at(now_ns) - position, -size, size)
        return np.where(self._robot.kinds == "velocity", position, near)

    def _moving(self, observation: Observation) -> str:
        """Which joint does not stand, in words; empty where all do."""
        before = self._assembler.joints_at(observation.stamp_ns - round(STANDS_FOR_S * 1e9))
        way = np.abs(self._robot.measured(observation.state) - self._robot.measured(before))
        way = np.where(self._robot.must_follow, way / self._robot.scale_of_rad, 0.0)
        joint = int(way.argmax())
        if way[joint] <= STANDS_RAD:
            return ""
        far = f"{way[joint] * self._robot.scale_of_rad[joint]:.3g} {self._robot.action_limits[joint].unit}"
        return f"{self._robot.action_joints[joint]} moved by {far} in {STANDS_FOR_S:g} s, by no command of this node"

    def _end_excitation(self, now_ns: int, problem: str, only_begun: bool = False) -> None:
        excitation = self.excitation
        if excitation is not None and (excitation.begin_ns or not only_begun):
            excitation.end(now_ns, problem)
