"""The two-joint arm as a bench."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vla_align_ros.action.running import begin
from vla_align_ros.bench.port import Arms, Bench, FloatArray, check_names
from vla_align_ros.bench.reach2.arm import (
    JOINT_NAMES,
    PERIOD_NS,
    PERIOD_S,
    encoder_reading,
    forward_kinematics,
    move,
)
from vla_align_ros.bench.reach2.body import Body
from vla_align_ros.bench.reach2.camera import ARM_HEIGHT_M, CAMERAS, at_height, views
from vla_align_ros.bench.reach2.embodiment import Embodiments, joined, sample_embodiments, unshifted
from vla_align_ros.bench.reach2.episodes import Episodes
from vla_align_ros.robot.description import ActionField, Joint, RobotDescription, StateField
from vla_align_ros.types import Trajectory


class Reach2(Bench[Embodiments]):
    """An embodiment is `Embodiments` of one row."""

    robot = RobotDescription(
        joints={name: Joint(position=(-6.0, 6.0), velocity_max=4.0) for name in JOINT_NAMES},
        state=tuple(StateField(joint=name) for name in JOINT_NAMES),
        action=tuple(ActionField(joint=name, kind="velocity") for name in JOINT_NAMES),
        cameras={camera: f"{camera}/image_raw" for camera in CAMERAS},
        control_rate_hz=1.0 / PERIOD_S,
        execute=4,
    )

    def narrowed(self, tasks: Sequence[str], shifts: Sequence[str]) -> Reach2:
        """It has one task, and its arms differ in all ways at once."""
        check_names("tasks", tasks, ["reach"])
        check_names("shifts", shifts, [])
        return self

    def embodiment(self, number: int, scale: float = 1.0) -> Embodiments:
        return sample_embodiments(1, number, scale) if number else unshifted()

    def embodiments(self, count: int, seed: int, scale: float = 1.0) -> Embodiments:
        return sample_embodiments(count, seed, scale)

    def episodes(self, arms: Arms[Embodiments], seed: int, image_size: int) -> Episodes:
        return Episodes(joined(arms), seed, image_size)

    def body(self, arm: Embodiments, start_ns: int, seed: int, image_size: int) -> Body:
        return Body(arm, start_ns, seed, image_size)

    def carried_out(self, arm: Embodiments, now: FloatArray, trajectory: Trajectory) -> FloatArray:
        running = begin(trajectory, 0, PERIOD_NS, (0, now))
        way = [running.position_at(t_ns) for t_ns in range(0, running.end_ns + 1, PERIOD_NS)]
        angle, last, readings = now[None] - arm.offset_rad, np.zeros((1, len(now))), [now]
        for command in np.diff(way, axis=0) / PERIOD_S:
            angle, last = move(arm, angle, command[None], last), command[None]
            readings.append(encoder_reading(arm, angle)[0])
        return np.stack(readings)

    def tips_in_picture(self, arm: Embodiments, camera: str, now: FloatArray, readings: FloatArray) -> FloatArray:
        _, tips = forward_kinematics(arm.link_m, readings - arm.offset_rad)
        places, _ = views(arm, now[None] - arm.offset_rad)[camera].project(at_height(tips[None], ARM_HEIGHT_M))
        found: FloatArray = places[0]
        return found


BENCH = Reach2()
