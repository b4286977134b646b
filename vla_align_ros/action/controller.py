"""The control path: at each tick, is a new chunk due? Then observe, sample, check and hand out a trajectory.

tick -> observation -> chunk (policy or exploration) -> limits -> queue -> trajectory for the wire
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vla_align_ros.action.chunk_queue import ChunkQueue
from vla_align_ros.action.exploration import Exploration, exploring_actions
from vla_align_ros.action.limits import ChunkLimits, ChunkReason, ChunkRefused, check_chunk
from vla_align_ros.action.running import RunningTrajectory, begin
from vla_align_ros.action.trajectory import hold_trajectory, to_trajectory
from vla_align_ros.observation.assemble import ObservationAssembler, ObservationReason, ObservationRefused
from vla_align_ros.policy import Policy
from vla_align_ros.types import ActionChunk, Float64Array, Observation, Trajectory


@dataclass(frozen=True)
class Published:
    """One chunk, the trajectory that says it on the wire, and how long its making took."""

    trajectory: Trajectory
    chunk: ActionChunk
    observation: Observation
    latency_ms: float


class Controller:
    """Makes chunks for one policy. `tick` and `make` may be called from different threads, `make` from one only.

    late: chunks that came after the queue had run empty. The first one, and the first after a hold or after a refusal
    (which `refused` counts), is never late.
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

    @property
    def refused(self) -> Counter[ChunkReason | ObservationReason]:
        """How often each reason kept a chunk back (a copy)."""
        return Counter(self._refused)

    def tick(self, now_ns: int) -> int | None:
        """The control tick (ns) at which a chunk is due now, or None. Call it often; each tick is reported once."""
        self._assembler.follow(now_ns)
        tick_ns = now_ns // self.period_ns * self.period_ns
        if tick_ns == self._last_tick:
            return None
        if self._last_tick is not None and tick_ns < self._last_tick:  # the clock fell back: what is queued is not due
            self._forget()
        self._last_tick = tick_ns
        self.queue.command_at(tick_ns)
        horizon = self._policy.model.architecture.action_horizon
        return tick_ns if self.queue.remaining(tick_ns) <= horizon - self._execute else None

    def make(self, tick_ns: int, num_steps: int, exploration_fraction: float, now_ns: Callable[[], int]) -> Published:
        """A chunk for the observation at `tick_ns`, judged by where the arm is when it is done; now_ns reads the node's
        clock. Raises ObservationRefused or ChunkRefused, both counted."""
        started = time.perf_counter()
        try:
            observation = self._assembler.observe(tick_ns)
            velocities, exploring = self._exploration.chunk(exploration_fraction)
            if exploring[0]:
                chunk = self._explore(observation, velocities[0])
            else:
                chunk = self._policy.infer(observation, self._generator, num_steps)
            self._judge(chunk, now_ns())
        except (ObservationRefused, ChunkRefused) as error:
            if isinstance(error, ChunkRefused):
                self._refused[error.reason] += 1
            self._flowing = False
            raise
        trajectory = to_trajectory(chunk, self._robot, self._limits.ramp_ticks)
        return Published(trajectory, chunk, observation, (time.perf_counter() - started) * 1e3)

    def sent(self, published: Published, now_ns: int) -> None:
        """Tell that a trajectory is on the wire at `now_ns`."""
        if self.queue.command_at(now_ns) is None and self._flowing:
            self.late += 1
        self._flowing = True
        self.queue.put(published.chunk)
        trajectory, stamp_ns = published.trajectory, published.chunk.stamp_ns
        self._running = begin(trajectory, stamp_ns, self.period_ns, (stamp_ns, trajectory.start_position))

    def hold(self, now_ns: int) -> Trajectory:
        """Stop where the arm is, and forget what was queued; a joint that an object may block keeps its last goal, so
        that a gripper does not let go. Raises ObservationRefused (no_joints, stale_joints) when nobody knows where the
        arm is: the chunk that runs comes to rest by itself."""
        self._forget()
        self._last_tick, running, self._running = None, self._running, None
        position: Float64Array = self._robot.measured(self._assembler.measured(now_ns))
        if running is not None:
            position = np.where(self._robot.must_follow, position, running.position_at(now_ns))
        return hold_trajectory(position, now_ns, self.period_ns, self._robot.action_joints)

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
