"""Batches of episodes: n arms at work on their tasks, by any policy or by the expert. No ROS, no clock."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.bench import port
from vla_align_ros.bench.sensor_noise import with_sensor_noise
from vla_align_ros.bench.so101 import experts, tasks
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.joints import DELTA, NUM_JOINTS, FloatArray
from vla_align_ros.bench.so101.kinematics import tips_m
from vla_align_ros.bench.so101.pictures import draw
from vla_align_ros.bench.so101.recording import Recording
from vla_align_ros.bench.so101.scene import CAMERAS
from vla_align_ros.bench.so101.skeleton import rows_of, skeletons
from vla_align_ros.bench.so101.state import State, from_flat
from vla_align_ros.bench.so101.tasks import HOLD_S, LIMIT_S, Task
from vla_align_ros.bench.so101.worlds import STEP_S, World
from vla_align_ros.seeds import Stream, rng_of
from vla_align_ros.types import Float32Array, Observation

CONTROL_HZ = 15.0
CONTROL_HZ_RANGE = (1.0, 50.0)


class _Episode:
    """One arm's: its world, its random numbers, and what happened at each tick."""

    def __init__(self, embodiment: Embodiment, start: State, seed: int, tick_s: float) -> None:
        self.world = World(embodiment, start, rng_of(seed, Stream.ENCODER_NOISE))
        self.pixels = rng_of(seed, Stream.PIXEL_NOISE)
        self.states, self.readings = [start.flat()[0]], [self.world.reading().astype(np.float32)]
        self.commands: list[Float32Array] = []
        self.held_ticks, self.succeeded_at = 0, -1  # the tick at which the task had been done for long enough
        self._tick_s = tick_s

    def run(self, commands_rad: FloatArray) -> None:
        """Commands (ticks, 6), one a tick."""
        for command in commands_rad:
            self.world.command(command)
            self.commands.append(command.astype(np.float32))
            self.world.advance(round(len(self.commands) * self._tick_s / STEP_S) - self.world.now)
            self.states.append(self.world.state().flat()[0])
            self.readings.append(self.world.reading().astype(np.float32))


class Episodes(port.Episodes):
    """Rows can be picked, `episodes[rows]`: the same arms go on in both."""

    def __init__(
        self,
        embodiments: Sequence[Embodiment],
        asked: Sequence[Task],
        seeds: Sequence[int],
        *,
        control_hz: float = CONTROL_HZ,
        image_size: int = 64,
        threads: int = 1,
    ) -> None:
        """One embodiment, task and seed (of table, start pose, prompt and noise) for each arm.

        An arm does the same in any company. Raises ValueError for numbers that do not fit together and a control rate
        outside 1 to 50 Hz.
        """
        if not len(embodiments) == len(asked) == len(seeds):
            counts = f"{len(embodiments)}, {len(asked)} and {len(seeds)}"
            raise ValueError(f"expected an embodiment, a task and a seed for each arm, got {counts} of them")
        if not CONTROL_HZ_RANGE[0] <= control_hz <= CONTROL_HZ_RANGE[1]:
            raise ValueError(f"expected a control rate of 1 to 50 Hz, got {control_hz}")
        self.tick_s, self.image_size, self.threads = 1.0 / control_hz, image_size, threads
        self.embodiments, self.skeletons = list(embodiments), skeletons(embodiments)
        self.asked = tasks.assign(asked, seeds)
        start = tasks.start(embodiments, self.asked, seeds)
        self._running = [
            _Episode(embodiment, start[row : row + 1], seed, self.tick_s)
            for row, (embodiment, seed) in enumerate(zip(embodiments, seeds, strict=True))
        ]

    def __len__(self) -> int:
        return len(self._running)

    def __getitem__(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Episodes:
        places = np.arange(len(self))[rows]
        some = copy.copy(self)
        some.embodiments = [self.embodiments[place] for place in places]
        some.skeletons = rows_of(self.skeletons, places)
        some.asked = self.asked[places]
        some._running = [self._running[place] for place in places]
        return some

    @property
    def prompts(self) -> tuple[str, ...]:
        """What each arm is asked for."""
        return self.asked.prompts

    @property
    def ticks(self) -> NDArray[np.int64]:
        """How many each arm has done, (n,)."""
        return np.array([len(one.commands) for one in self._running], np.int64)

    @property
    def succeeded(self) -> NDArray[np.bool_]:
        """Whose task was done within its time and stayed done for HOLD_S."""
        return np.array([one.succeeded_at >= 0 for one in self._running], np.bool_)

    @property
    def over(self) -> NDArray[np.bool_]:
        return self.succeeded | (self.ticks >= self.limit_ticks)

    def at_work(self) -> tuple[NDArray[np.intp], Episodes]:
        rows = np.flatnonzero(~self.over)
        return rows, self[rows]

    @property
    def limit_ticks(self) -> NDArray[np.int64]:
        """Of each arm's task, (n,)."""
        return np.array([round(LIMIT_S[Task(task)] / self.tick_s) for task in self.asked.task], np.int64)

    def state(self) -> State:
        """The n tables now."""
        return from_flat(np.stack([one.states[-1] for one in self._running]))

    def readings_rad(self) -> FloatArray:
        """What the encoders said at the last tick, (n, 6)."""
        return np.stack([one.readings[-1] for one in self._running]).astype(np.float64)

    def observe(self) -> list[Observation]:
        images = draw(self.skeletons, self.state(), self.image_size, threads=self.threads)
        readings = self.readings_rad().astype(np.float32)
        stamps_ns = self.ticks * round(self.tick_s * 1e9)
        return [
            Observation(
                dict(zip(CAMERAS, with_sensor_noise(images[row], one.pixels), strict=True)),
                readings[row],
                self.prompts[row],
                int(stamps_ns[row]),
            )
            for row, one in enumerate(self._running)
        ]

    def execute(self, commands: FloatArray | Float32Array) -> None:
        """Send commands (n, ticks, 6) of the robot's kinds, one a tick; raises ValueError as `command` does."""
        self._check(commands)
        self.command(commands + self._origins())

    def expert_chunks(
        self, horizon: int, believed: Sequence[Embodiment] | None = None, camera: str = CAMERAS[0]
    ) -> FloatArray:
        """`expert_targets` in the robot's kinds."""
        return self.expert_targets(horizon, believed, camera) - self._origins()

    def _origins(self) -> FloatArray:
        """What commands of the robot's kinds start from, (n, 1, 6) rad."""
        return np.where(DELTA, self.readings_rad(), 0.0)[:, None]

    def command(self, commands: FloatArray | Float32Array) -> None:
        """Send joint targets (n, ticks, 6) in rad, one a tick. Raises ValueError for another shape or no number."""
        self._check(commands)
        targets = commands.astype(np.float64)
        if self.threads == 1:
            for one, mine in zip(self._running, targets, strict=True):
                one.run(mine)
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(_Episode.run, self._running, targets))
        self._judge(commands.shape[1])

    def _check(self, commands: FloatArray | Float32Array) -> None:
        expected = (len(self), commands.shape[1] if commands.ndim == 3 else 0, NUM_JOINTS)
        if commands.shape != expected or not np.isfinite(commands).all():
            raise ValueError(f"expected finite commands ({len(self)}, ticks, {NUM_JOINTS}), got {commands.shape}")

    def _judge(self, ticks: int) -> None:
        """Note who has succeeded during the last ticks."""
        limits, hold_ticks = self.limit_ticks, round(HOLD_S / self.tick_s)
        for back in range(ticks, 0, -1):
            state = from_flat(np.stack([one.states[-back] for one in self._running]))
            done = tasks.done(self.asked, state, tips_m(self.skeletons, state.angle_rad))
            for one, is_done, limit in zip(self._running, done, limits, strict=True):
                tick = len(one.states) - back
                one.held_ticks = one.held_ticks + 1 if is_done else 0
                if one.held_ticks >= hold_ticks and tick <= limit and one.succeeded_at < 0:
                    one.succeeded_at = tick

    def expert_targets(
        self, horizon: int, believed: Sequence[Embodiment] | None = None, camera: str = CAMERAS[0]
    ) -> FloatArray:
        """Joint targets that the expert would send in the next ticks, (n, horizon, 6) in rad.

        believed: the arms that it takes these for, seeing them with `camera`; without it knows them.
        """
        arms, bodies, seen = self.embodiments, self.skeletons, self.state()
        if believed is not None:
            arms, bodies = list(believed), skeletons(believed)
            seen = experts.as_believed(seen, self.embodiments, self.skeletons, arms, bodies, camera)
        targets = experts.plan(bodies, seen, self.asked, horizon, self.tick_s)
        return experts.commands(arms, targets)

    def distance_m(self) -> FloatArray:
        state = self.state()
        return tasks.distance_m(self.asked, state, tips_m(self.skeletons, state.angle_rad))

    def recording(self) -> Recording:
        """What has happened so far, of arms that have done the same number of ticks. ValueError where they have not."""
        if len(set(self.ticks.tolist())) != 1:
            raise ValueError(f"expected arms with as many ticks each, got {sorted(set(self.ticks.tolist()))}")
        states, readings, commands = (
            np.stack([np.stack(getattr(one, name)) for one in self._running], axis=1)
            for name in ("states", "readings", "commands")
        )
        return Recording(states, readings, commands, self.asked, np.arange(len(self)), self.tick_s)
