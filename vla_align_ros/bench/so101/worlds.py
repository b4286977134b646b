"""Physics of n arms, each before its own table: 250 steps of MuJoCo a second.

    command -> (delay) -> target of the servo -> (play of the gears) -> servo -> arm and cubes

A world knows nothing of tasks, pictures and units: commands and readings are rad, as this arm's calibration has them.
Each arm has random numbers of its own, so that it does the same alone as among others.
"""

from __future__ import annotations

from collections import deque

import mujoco
import numpy as np

from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.joints import JOINT_MAX_RAD, JOINT_MIN_RAD, NUM_JOINTS, FloatArray
from vla_align_ros.bench.so101.scene import CUBES, PADS, shifted_model, write_embodiment
from vla_align_ros.bench.so101.state import State

STEP_S = 0.004


class World:
    """One arm. `now`: steps since the reset."""

    def __init__(self, embodiment: Embodiment, state: State, rng: np.random.Generator) -> None:
        """state: one row; the servos aim at the angles that it has, so that the arm is about at rest.

        rng: of the encoder noise.
        """
        self.embodiment, self._rng = embodiment, rng
        self._model = shifted_model(embodiment)
        self._data = mujoco.MjData(self._model)
        model, data = self._model, self._data
        self._cubes = np.array([model.joint(f"cube_{name}").qposadr[0] for name in CUBES])[:, None] + np.arange(7)
        self._cube_speeds = np.array([model.joint(f"cube_{name}").dofadr[0] for name in CUBES])[:, None] + np.arange(6)
        self._pads = [model.body_mocapid[model.body(f"pad_{name}").id] for name in PADS]
        data.qpos[:NUM_JOINTS] = state.angle_rad[0]
        self.set_table(state)
        stiffness = model.actuator_gainprm[:NUM_JOINTS, 0]
        data.ctrl[:] = self._aimed = data.qpos[:NUM_JOINTS] + data.qfrc_bias[:NUM_JOINTS] / stiffness
        self.now = 0
        self._coming: deque[tuple[int, FloatArray]] = deque()  # (from which step on, target)

    def become(self, embodiment: Embodiment) -> None:
        """Another arm from now on, at the same true angles, as when a camera is knocked."""
        self.embodiment = embodiment
        write_embodiment(self._model, embodiment)

    def set_table(self, state: State) -> None:
        """Cubes and pads are where `state` (one row) has them, at rest; the arm goes on as it is."""
        data = self._data
        data.qpos[self._cubes] = np.concatenate([state.cube_m[0], state.cube_quat[0]], axis=1)
        data.qvel[self._cube_speeds] = 0.0
        data.mocap_pos[self._pads] = np.append(state.pad_m[0], np.zeros((len(PADS), 1)), axis=1)
        self._pad_m = state.pad_m[0].copy()
        mujoco.mj_forward(self._model, data)

    def command(self, command_rad: FloatArray) -> None:
        """A target (6,) for the joints that is sent now; it holds until the next one acts."""
        e = self.embodiment
        target = np.clip(e.target(command_rad), JOINT_MIN_RAD - 0.2, JOINT_MAX_RAD + 0.2)
        from_step = self.now + round(e.delay_s / STEP_S)
        while self._coming and self._coming[-1][0] >= from_step:  # an arm that became a faster one
            self._coming.pop()
        self._coming.append((from_step, target))

    def standing_command(self) -> FloatArray:
        """The command (6,) that leaves the servos' targets as they are now."""
        return self.embodiment.command_for(self._aimed)

    def advance(self, steps: int) -> None:
        """Let the physics go on."""
        end = self.now + steps
        while self.now < end:
            while self._coming and self._coming[0][0] <= self.now:
                self._aim(self._coming.popleft()[1])
            until = min(end, self._coming[0][0]) if self._coming else end
            mujoco.mj_step(self._model, self._data, until - self.now)
            self.now = until

    def _aim(self, target: FloatArray) -> None:
        """Within the play of the gears nothing moves; beyond it the target is followed that far behind."""
        half = self.embodiment.backlash_rad / 2
        self._aimed = np.clip(self._aimed, target - half, target + half)
        self._data.ctrl[:] = self._aimed

    def reading(self) -> FloatArray:
        """What the encoders say now, (6,) in rad, with their noise."""
        e = self.embodiment
        noise = self._rng.standard_normal(NUM_JOINTS) * e.encoder_noise_rad
        return e.reading(self._data.qpos[:NUM_JOINTS]) + noise

    def state(self) -> State:
        """One row."""
        cubes = self._data.qpos[self._cubes]
        angle_rad = self._data.qpos[:NUM_JOINTS].copy()
        return State(angle_rad[None], cubes[None, :, :3], cubes[None, :, 3:], self._pad_m[None])
