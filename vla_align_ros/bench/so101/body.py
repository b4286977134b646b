"""One arm with its table and its tasks, on a clock of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.bench import port
from vla_align_ros.bench.so101 import tasks
from vla_align_ros.bench.so101.controlled import ControlledArm
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.joints import FloatArray
from vla_align_ros.bench.so101.kinematics import tips_m
from vla_align_ros.bench.so101.pictures import draw
from vla_align_ros.bench.so101.skeleton import skeletons
from vla_align_ros.bench.so101.state import State
from vla_align_ros.bench.so101.tasks import Assignments, Task
from vla_align_ros.seeds import Stream, rng_of
from vla_align_ros.types import Trajectory


class Body(port.Body):
    """seed: of start pose, tables, prompts and encoder noise. asked_for: what its tasks are drawn from."""

    def __init__(
        self,
        arm: Embodiment,
        start_ns: int,
        seed: int,
        image_size: int,
        asked_for: Sequence[Task],
        period_ns: int,
    ) -> None:
        self._arm, self._skeletons, self._size, self._asked_for = arm, skeletons([arm]), image_size, asked_for
        self._random = rng_of(seed, Stream.TABLES)
        self._asked, table = self._draw_table()
        self._controlled = ControlledArm(arm, table, start_ns, seed, period_ns)

    @property
    def now_ns(self) -> int:
        return self._controlled.now_ns

    @property
    def prompt(self) -> str:
        return self._asked.prompts[0]

    def follow(self, trajectory: Trajectory) -> None:
        """Raises ValueError for other joints than those of one command group or of both."""
        self._controlled.follow(trajectory)

    def advance(self, to_ns: int) -> None:
        self._controlled.advance(to_ns)

    def reading(self) -> FloatArray:
        return self._controlled.reading()

    def pictures(self) -> NDArray[np.uint8]:
        pictures: NDArray[np.uint8] = draw(self._skeletons, self._state(), self._size)[0]
        return pictures

    def distance_m(self) -> float:
        state = self._state()
        return float(tasks.distance_m(self._asked, state, tips_m(self._skeletons, state.angle_rad))[0])

    def done(self) -> bool:
        state = self._state()
        return bool(tasks.done(self._asked, state, tips_m(self._skeletons, state.angle_rad))[0])

    def next_task(self) -> None:
        """Another table, with a prompt that differs from the last one."""
        before = self.prompt
        while self.prompt == before:
            self._asked, table = self._draw_table()
        self._controlled.world.set_table(table)

    def _state(self) -> State:
        return self._controlled.world.state()

    def _draw_table(self) -> tuple[Assignments, State]:
        seed, place = self._random.integers([2**31, len(self._asked_for)]).tolist()
        asked = tasks.assign([self._asked_for[place]], [seed])
        return asked, tasks.start([self._arm], asked, [seed])
