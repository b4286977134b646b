"""One arm on a clock, behind the controllers that its users run: a trajectory for the arm, a position for the gripper,
or one trajectory for all six joints.

    joint_trajectory_controller   reads a trajectory by its times (`action/running.py`), from where the joints are when
                                  it begins; the latest word wins; after the last point its position is held
    gripper controller            goes to the last position that it was told, as far as what it grips lets it

Both write the servos' targets UPDATE_HZ times a second. Free of ROS.
"""

from __future__ import annotations

import numpy as np

from vla_align_ros.action.running import RunningTrajectory, begin
from vla_align_ros.action.timeline import Timeline
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.joints import GRIPPER, JOINT_NAMES, FloatArray
from vla_align_ros.bench.so101.state import State
from vla_align_ros.bench.so101.worlds import STEP_S, World
from vla_align_ros.types import Trajectory

UPDATE_HZ = 50
HELD_TRAJECTORIES = 8  # that wait for their start
ARM_JOINTS = tuple(f"{name}_joint" for name in JOINT_NAMES[:GRIPPER])  # as the community's description names them
GRIPPER_JOINT = f"{JOINT_NAMES[GRIPPER]}_joint"
ALL_JOINTS = (*ARM_JOINTS, GRIPPER_JOINT)
_STEP_NS = round(STEP_S * 1e9)
_UPDATE_STEPS = round(1 / UPDATE_HZ / STEP_S)


class ControlledArm:
    """One arm whose time begins at `start_ns` and goes on by `advance` only. Positions in rad, as its encoders read.

    Until told otherwise it holds what it read at its start. Not thread-safe.
    """

    def __init__(self, embodiment: Embodiment, state: State, start_ns: int, seed: int, period_ns: int) -> None:
        """state: one row. seed: of the encoder noise. period_ns: of the commands of whoever writes trajectories."""
        self.now_ns = start_ns
        self._start_ns, self._period_ns = start_ns, period_ns
        self.world = World(embodiment, state, np.random.default_rng([seed, 67]))
        self._trajectories = Timeline[RunningTrajectory]()
        self._target = self.world.standing_command()

    def follow(self, trajectory: Trajectory) -> None:
        """A trajectory of ARM_JOINTS, or of ALL_JOINTS, in this order, that arrives now. Raises ValueError for other
        joints."""
        if trajectory.joint_names not in (ARM_JOINTS, ALL_JOINTS):
            asked = ", ".join(trajectory.joint_names)
            raise ValueError(
                f"expected the joints {', '.join(ARM_JOINTS)}, with {GRIPPER_JOINT} or without, got {asked}"
            )
        start_ns = trajectory.start_ns(self.now_ns)
        measured = (max(start_ns, self.now_ns), self.world.reading()[: len(trajectory.joint_names)])
        self._trajectories.put(start_ns, begin(trajectory, start_ns, self._period_ns, measured))
        self._trajectories.keep_newest(HELD_TRAJECTORIES)

    def grip(self, position_rad: float) -> None:
        """A position of the gripper that arrives now. Raises ValueError where it is no number."""
        if not np.isfinite(position_rad):
            raise ValueError(f"expected a finite position of {GRIPPER_JOINT}, got {position_rad}")
        self._target[GRIPPER] = position_rad

    def advance(self, to_ns: int) -> None:
        """Let time go on to `to_ns`; a time in the past changes nothing. Physics moves in whole steps of 4 ms."""
        steps = (max(to_ns, self.now_ns) - self._start_ns) // _STEP_NS
        while self.world.now < steps:
            if self.world.now % _UPDATE_STEPS == 0:
                self._update(self._start_ns + self.world.now * _STEP_NS)
            next_update = (self.world.now // _UPDATE_STEPS + 1) * _UPDATE_STEPS
            self.world.advance(min(steps, next_update) - self.world.now)
        self.now_ns = max(to_ns, self.now_ns)

    def reading(self) -> FloatArray:
        """What the encoders say now, (6,)."""
        return self.world.reading()

    def _update(self, t_ns: int) -> None:
        """What the controllers write at each of their ticks."""
        running = self._trajectories.at(t_ns)
        if running is not None:
            position = running.position_at(t_ns)
            self._target[: len(position)] = position
        self.world.command(self._target.copy())
