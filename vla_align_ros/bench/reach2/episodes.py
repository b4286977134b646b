"""Whole batches of episodes in process: n arms, each before its own table, at the same moment of their episodes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.bench import port
from vla_align_ros.bench.reach2 import task
from vla_align_ros.bench.reach2.arm import PERIOD_NS, encoder_reading, move_chunk
from vla_align_ros.bench.reach2.camera import CAMERAS, draw
from vla_align_ros.bench.reach2.embodiment import Embodiments, FloatArray
from vla_align_ros.bench.sensor_noise import with_sensor_noise
from vla_align_ros.seeds import Stream, rng_of
from vla_align_ros.types import Float32Array, Observation


class Episodes(port.Episodes):
    """All arms have EPISODE_TICKS, and where the tip is at the end counts."""

    def __init__(self, arms: Embodiments, seed: int, image_size: int) -> None:
        self.arms, self._size = arms, image_size
        rng, self._noise = rng_of(seed, Stream.EPISODES), rng_of(seed, Stream.SENSOR_NOISE)
        self.scene = task.sample_scene(len(arms), rng)
        self.angle_rad = task.sample_pose(len(arms), rng)
        self.last_command = np.zeros((len(arms), 2))
        self.prompts = task.prompts(self.scene.colours[:, 0], rng)
        self.tick = 0

    def __len__(self) -> int:
        return len(self.arms)

    @property
    def over(self) -> NDArray[np.bool_]:
        return np.full(len(self), self.tick >= task.EPISODE_TICKS)

    @property
    def succeeded(self) -> NDArray[np.bool_]:
        return self.over & (self.distance_m() <= task.SUCCESS_M)

    def at_work(self) -> tuple[NDArray[np.intp], Episodes]:
        return np.flatnonzero(~self.over), self  # all end at the same tick

    def observe(self) -> list[Observation]:
        images = with_sensor_noise(draw(self.arms, self.angle_rad, self.scene, self._size), self._noise)
        state = encoder_reading(self.arms, self.angle_rad).astype(np.float32)
        stamp_ns = self.tick * PERIOD_NS
        return [
            Observation(dict(zip(CAMERAS, images[row], strict=True)), state[row], self.prompts[row], stamp_ns)
            for row in range(len(self.arms))
        ]

    def execute(self, commands: FloatArray | Float32Array) -> None:
        """Commanded velocities (n, ticks, 2) in rad/s."""
        self.angle_rad = move_chunk(self.arms, self.angle_rad, np.asarray(commands, np.float64), self.last_command)
        self.last_command = np.asarray(commands[:, -1], np.float64)
        self.tick += commands.shape[1]

    def expert_chunks(self, horizon: int) -> FloatArray:
        return task.expert_chunk(self.arms, self.angle_rad, self.last_command, self.scene, horizon)

    def distance_m(self) -> FloatArray:
        """Tip to target."""
        return task.distance_m(self.arms, self.angle_rad, self.scene)
