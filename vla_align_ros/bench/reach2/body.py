"""One arm on a clock of its own: what it is sent acts through delay, gains and stops."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.action.running import begin
from vla_align_ros.bench import port
from vla_align_ros.bench.reach2 import task
from vla_align_ros.bench.reach2.actuator import DELAY_MAX_NS, Actuator
from vla_align_ros.bench.reach2.arm import JOINT_NAMES, PERIOD_NS, encoder_reading, within_stops
from vla_align_ros.bench.reach2.camera import draw
from vla_align_ros.bench.reach2.embodiment import Embodiments, FloatArray
from vla_align_ros.seeds import Stream, rng_of
from vla_align_ros.types import Trajectory


class Body(port.Body):
    """seed: of the start pose, scenes and prompts."""

    def __init__(self, arm: Embodiments, start_ns: int, seed: int, image_size: int) -> None:
        """Raises ValueError for an arm that is not one row, or has a delay outside 0 to 1 s."""
        self._size = image_size
        self._random = rng_of(seed, Stream.BODY)
        self._actuator = Actuator(start_ns, len(JOINT_NAMES))
        self.become(arm)
        self.angle_rad = task.sample_pose(1, self._random)
        self._prompt = ""
        self.next_task()

    @property
    def now_ns(self) -> int:
        return self._actuator.now_ns

    @property
    def prompt(self) -> str:
        return self._prompt

    def become(self, arm: Embodiments) -> None:
        """Another arm, as when a camera is knocked: from now on, with the true angles as they are."""
        if len(arm) != 1 or not 0.0 <= arm.delay_s[0] * 1e9 <= DELAY_MAX_NS:
            raise ValueError(f"expected one arm with a delay of 0 to 1 s, got {len(arm)} with {arm.delay_s.tolist()} s")
        self.arm = arm

    def follow(self, trajectory: Trajectory) -> None:
        start_ns = trajectory.start_ns(self.now_ns)
        measured = (max(start_ns, self.now_ns), self.reading())
        self._actuator.put(start_ns, begin(trajectory, start_ns, PERIOD_NS, measured))

    def advance(self, to_ns: int) -> None:
        delay_ns = round(float(self.arm.delay_s[0]) * 1e9)
        for duration_s, velocity in self._actuator.run(to_ns, delay_ns):
            with np.errstate(over="ignore"):  # an absurd command runs into the stops
                self.angle_rad = within_stops(self.angle_rad + duration_s * self.arm.gain * velocity)

    def reading(self) -> FloatArray:
        reading: FloatArray = encoder_reading(self.arm, self.angle_rad)[0]
        return reading

    def pictures(self) -> NDArray[np.uint8]:
        pictures: NDArray[np.uint8] = draw(self.arm, self.angle_rad, self.scene, self._size)[0]
        return pictures

    def distance_m(self) -> float:
        return float(task.distance_m(self.arm, self.angle_rad, self.scene)[0])

    def done(self) -> bool:
        return self.distance_m() <= task.SUCCESS_M

    def next_task(self) -> None:
        """Another scene, with a prompt that differs from the last one."""
        before = self.prompt
        while self.prompt == before:
            self.scene = task.sample_scene(1, self._random)
            self._prompt = task.prompts(self.scene.colours[:, 0], self._random)[0]
