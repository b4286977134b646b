"""The two-joint arm as a bench."""

from __future__ import annotations

from vla_align_ros.bench.port import Arms, Bench
from vla_align_ros.bench.reach2.arm import JOINT_NAMES, PERIOD_S
from vla_align_ros.bench.reach2.body import Body
from vla_align_ros.bench.reach2.camera import CAMERAS
from vla_align_ros.bench.reach2.embodiment import Embodiments, joined, sample_embodiments, unshifted
from vla_align_ros.bench.reach2.episodes import Episodes
from vla_align_ros.robot.description import ActionField, Joint, RobotDescription, StateField


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

    def embodiment(self, number: int, scale: float = 1.0) -> Embodiments:
        return sample_embodiments(1, number, scale) if number else unshifted()

    def embodiments(self, count: int, seed: int, scale: float = 1.0) -> Embodiments:
        return sample_embodiments(count, seed, scale)

    def episodes(self, arms: Arms[Embodiments], seed: int, image_size: int) -> Episodes:
        return Episodes(joined(arms), seed, image_size)

    def body(self, arm: Embodiments, start_ns: int, seed: int, image_size: int) -> Body:
        return Body(arm, start_ns, seed, image_size)


BENCH = Reach2()
