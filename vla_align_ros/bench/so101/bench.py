"""The SO-101 as a bench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_align_ros.action.running import begin
from vla_align_ros.bench.port import Arms, Bench, FloatArray, check_names
from vla_align_ros.bench.so101.body import Body
from vla_align_ros.bench.so101.controlled import ALL_JOINTS, ARM_JOINTS, COMMAND_GROUPS, GRIPPER_JOINT
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.episodes import CONTROL_HZ, Episodes
from vla_align_ros.bench.so101.joints import DELTA, GRIPPER, JOINT_MAX_RAD, JOINT_MIN_RAD, JOINT_NAMES
from vla_align_ros.bench.so101.kinematics import tips_m
from vla_align_ros.bench.so101.pictures import project
from vla_align_ros.bench.so101.scene import CAMERAS
from vla_align_ros.bench.so101.shifts import Family, Split, draw_embodiment
from vla_align_ros.bench.so101.skeleton import skeletons
from vla_align_ros.bench.so101.tasks import Task
from vla_align_ros.robot.description import ActionField, Joint, RobotDescription, StateField
from vla_align_ros.types import Trajectory

# Readings of arms that were calibrated in other ways, turned round too: wider than one arm's own.
_WIDEST_RAD = np.round(1.25 * np.maximum(-JOINT_MIN_RAD, JOINT_MAX_RAD) + 0.2, 2)
_FIELDS: list[dict[str, Any]] = [  # as lerobot's SO-101 calls and counts them
    {"name": f"{name}.pos", "joint": joint, "unit": "degrees"}
    for name, joint in zip(JOINT_NAMES[:GRIPPER], ARM_JOINTS, strict=True)
]
_FIELDS.append({"name": "gripper.pos", "joint": GRIPPER_JOINT, "unit": "percent", "range": (-0.175, 1.745)})


@dataclass(frozen=True)
class So101(Bench[Embodiment]):
    """tasks: what the arms are asked for, in turn. shifts: in what they differ."""

    tasks: tuple[Task, ...] = tuple(Task)
    shifts: tuple[Family, ...] = tuple(Family)

    robot = RobotDescription(
        joints={
            name: Joint(position=(-widest, widest), velocity_max=3.0, may_be_blocked=name == GRIPPER_JOINT)
            for name, widest in zip(ALL_JOINTS, _WIDEST_RAD.tolist(), strict=True)
        },
        state=tuple(StateField(**numbers) for numbers in _FIELDS),
        action=tuple(
            ActionField(**numbers, kind="delta_position" if delta else "position")
            for numbers, delta in zip(_FIELDS, DELTA.tolist(), strict=True)
        ),
        cameras={camera: f"{camera}/image_raw" for camera in CAMERAS},
        control_rate_hz=CONTROL_HZ,
        execute=8,
        command_groups=COMMAND_GROUPS,
    )

    def narrowed(self, tasks: Sequence[str], shifts: Sequence[str]) -> So101:
        check_names("tasks", tasks, [task.name.lower() for task in Task])
        check_names("shifts", shifts, [family.value for family in Family])
        return So101(
            tuple(Task[name.upper()] for name in tasks) or self.tasks, tuple(map(Family, shifts)) or self.shifts
        )

    def embodiment(self, number: int, scale: float = 1.0) -> Embodiment:
        return draw_embodiment(number, Split.TEST, self.shifts, scale) if number else Embodiment()

    def embodiments(self, count: int, seed: int, scale: float = 1.0) -> list[Embodiment]:
        return [draw_embodiment(number, Split.TEST, self.shifts, scale) for number in numbers(count, seed)]

    def episodes(self, arms: Arms[Embodiment], seed: int, image_size: int) -> Episodes:
        """Row i has the same table, whatever the other rows are."""
        count = len(arms)
        asked = [self.tasks[row % len(self.tasks)] for row in range(count)]
        return Episodes([arms[row] for row in range(count)], asked, numbers(count, seed), image_size=image_size)

    def body(self, arm: Embodiment, start_ns: int, seed: int, image_size: int) -> Body:
        return Body(arm, start_ns, seed, image_size, self.tasks, self.robot.period_ns)

    def carried_out(self, arm: Embodiment, now: FloatArray, trajectory: Trajectory) -> FloatArray:
        running = begin(trajectory, 0, self.robot.period_ns, (0, now))
        ticks = range(self.robot.period_ns, running.end_ns + 1, self.robot.period_ns)
        targets = arm.target(np.stack([running.position_at(t_ns) for t_ns in ticks]))
        return np.concatenate([now[None], arm.reading(np.clip(targets, JOINT_MIN_RAD, JOINT_MAX_RAD))])

    def tips_in_picture(self, arm: Embodiment, camera: str, now: FloatArray, readings: FloatArray) -> FloatArray:
        tips = tips_m(skeletons([arm] * len(readings)), arm.angle_of_reading(readings))
        places, _ = project(skeletons([arm]), arm.angle_of_reading(now)[None], tips[None])
        found: FloatArray = places[0, CAMERAS.index(camera)]
        return found


BENCH = So101()


def numbers(count: int, seed: int) -> list[int]:
    """As many numbers as are wanted, the first ones whatever their count: no two seeds share arms or tables."""
    return [int(number) for number in np.random.SeedSequence(seed).generate_state(count)]
