"""One arm on a clock, behind the controllers that its users run (COMMAND_GROUPS).

    joint_trajectory_controller   a trajectory of the arm's joints, read by its times (`action/running.py`) from where
                                  they are when it begins; the latest word wins; after the last point it is held
    gripper_controller            goes to the last position that it was told, as far as what it grips lets it

Each gets its part of a trajectory of all six joints. Both write the servos' targets UPDATE_HZ times a second. Free of
ROS.
"""

from __future__ import annotations

from vla_align_ros.action.groups import group_trajectory
from vla_align_ros.action.running import RunningTrajectory, begin
from vla_align_ros.action.timeline import Timeline
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.joints import GRIPPER, JOINT_NAMES, FloatArray
from vla_align_ros.bench.so101.state import State
from vla_align_ros.bench.so101.worlds import STEP_S, World
from vla_align_ros.robot.description import CommandGroup
from vla_align_ros.seeds import Stream, rng_of
from vla_align_ros.types import Trajectory

UPDATE_HZ = 50
HELD_TRAJECTORIES = 8  # that wait for their start
ARM_JOINTS = tuple(f"{name}_joint" for name in JOINT_NAMES[:GRIPPER])  # as the community's description names them
GRIPPER_JOINT = f"{JOINT_NAMES[GRIPPER]}_joint"
ALL_JOINTS = (*ARM_JOINTS, GRIPPER_JOINT)
COMMAND_GROUPS = (
    CommandGroup("joint_trajectory_controller/joint_trajectory", "joint_trajectory", ARM_JOINTS),
    CommandGroup("gripper_controller/commands", "position_stream", (GRIPPER_JOINT,)),
)
_STEP_NS = round(STEP_S * 1e9)
_COLUMNS = [[ALL_JOINTS.index(joint) for joint in group.joints] for group in COMMAND_GROUPS]
_UPDATE_STEPS = round(1 / UPDATE_HZ / STEP_S)


class ControlledArm:
    """One arm whose time begins at `start_ns` and goes on by `advance` only. Positions in rad, as its encoders read.

    Until told otherwise it holds what it read at its start. Not thread-safe.
    """

    def __init__(self, embodiment: Embodiment, state: State, start_ns: int, seed: int, period_ns: int) -> None:
        """state: one row. seed: of the encoder noise. period_ns: of the commands of whoever writes trajectories."""
        self.now_ns = start_ns
        self._start_ns, self._period_ns = start_ns, period_ns
        self.world = World(embodiment, state, rng_of(seed, Stream.ENCODER_NOISE))
        self._told = [Timeline[RunningTrajectory]() for _ in COMMAND_GROUPS]
        self._target = self.world.standing_command()

    def follow(self, trajectory: Trajectory) -> None:
        """A trajectory that arrives now, of all joints of one group or of both. Raises ValueError for other joints."""
        named = set(trajectory.joint_names)
        mine = [place for place, group in enumerate(COMMAND_GROUPS) if named >= set(group.joints)]
        if named != {joint for place in mine for joint in COMMAND_GROUPS[place].joints}:
            groups = " or ".join(", ".join(group.joints) for group in COMMAND_GROUPS)
            raise ValueError(f"expected the joints {groups}, or all of them, got {', '.join(trajectory.joint_names)}")
        start_ns, reading = trajectory.start_ns(self.now_ns), self.world.reading()
        for place in mine:
            part = group_trajectory(trajectory, COMMAND_GROUPS[place])
            measured = (max(start_ns, self.now_ns), reading[_COLUMNS[place]])
            self._told[place].put(start_ns, begin(part, start_ns, self._period_ns, measured))
            self._told[place].keep_newest(HELD_TRAJECTORIES)

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
        for columns, told in zip(_COLUMNS, self._told, strict=True):
            running = told.at(t_ns)
            if running is not None:
                self._target[columns] = running.position_at(t_ns)
        self.world.command(self._target.copy())
