"""For each robot of `config/robots/`, and for `odd.yaml` beside this file: a made-up model whose chunks are known, and
a robot that does what its controllers are told, in messages as the real one's.

The model asks for the same each time: positions of 5, 10, 15, ... degrees, or half of a range; changes of 0.01, 0.02,
0.03, ... ; velocities of 0.02, 0.04, 0.06, ... a second, field by field.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml
from builders import write_model

from vla_align_ros.action.running import RunningTrajectory, begin
from vla_align_ros.observation.codecs import encode_image, encode_joint_state
from vla_align_ros.observation.normalise import NormStats, save_norm_stats
from vla_align_ros.robot.description import CommandGroup, RobotDescription, load_description
from vla_align_ros.types import Trajectory

ROBOTS = Path(__file__).parents[2] / "config" / "robots"
ODD = "odd"
NAMES = [*sorted(path.stem for path in ROBOTS.glob("*.yaml")), ODD]
SPREAD = 1e-3  # of what the model asks for, in its own units
VELOCITY, EFFORT = 0.25, 0.5  # of every joint, whatever it does
EXTRA = "torso_joint"  # a joint of the robot that the model does not know


def file_of(name: str) -> Path:
    return (Path(__file__).parent if name == ODD else ROBOTS) / f"{name}.yaml"


def described(name: str) -> RobotDescription:
    return load_description(file_of(name))


def asked(robot: RobotDescription) -> np.ndarray:
    """(A,) what the model asks for, in its own units."""
    step = {"position": 5.0, "delta_position": 0.01, "velocity": 0.02}
    shares = {"percent": 50.0, "signed_percent": 0.0, "fraction": 0.5}
    return np.array([shares.get(item.unit, step[item.kind] * (n + 1)) for n, item in enumerate(robot.action)])


def write_robot_model(folder: Path, name: str, stands: bool = False) -> Path:
    """A zoo folder with random weights for a robot. stands: it asks for no changes and no
    velocities, so that the robot stays for ever."""
    robot = described(name)
    dims = max(len(robot.state), len(robot.action)) + 1
    write_model(folder, cameras=list(robot.cameras), action_dim=dims, action_horizon=robot.execute + 3)
    model = yaml.safe_load((folder / "model.yaml").read_text())
    model["robot"] = yaml.safe_load(file_of(name).read_text())
    (folder / "model.yaml").write_text(yaml.safe_dump(model))
    ones, spread = np.ones(len(robot.state), np.float32), np.full(len(robot.action), SPREAD, np.float32)
    mean = np.where((robot.kinds != "position") & stands, 0.0, asked(robot)).astype(np.float32)
    parts = {"state": (0 * ones, ones), "actions": (mean, spread)}
    stats = {part: NormStats(mean, std, mean - 2 * std, mean + 2 * std) for part, (mean, std) in parts.items()}
    save_norm_stats(folder / "norm_stats.json", stats)
    return folder


class MadeUpRobot:
    """Stands where the model wants it, or in the middle of its ranges, and follows whatever comes on its groups'
    topics to the letter."""

    def __init__(self, robot: RobotDescription, seed: int = 0) -> None:
        self.robot = robot
        self.position = {name: sum(joint.position) / 2 for name, joint in robot.joints.items()}
        goals = robot.action_scale.to_ros(asked(robot))
        for item, goal in zip(robot.action, goals, strict=True):
            if item.kind == "position":
                self.position[item.joint] = float(goal)
        self._running: dict[str, RunningTrajectory] = {}
        self._rng = np.random.default_rng(seed)

    def joint_states(self, stamp_ns: int) -> Iterator[tuple[str, str, bytes]]:
        """(topic, prefix, message): each topic has its joints without their prefix, in another order than the
        model's, one more joint, velocities and efforts that say nothing of the positions."""
        for source in self.robot.joint_states:
            own = [name for name in reversed(self.position) if name.startswith(source.prefix)]
            names = [EXTRA, *(name.removeprefix(source.prefix) for name in own)]
            positions = [99.0, *map(self.position.get, own)]
            velocity, effort = [VELOCITY] * len(names), [EFFORT] * len(names)
            yield source.topic, source.prefix, encode_joint_state(names, positions, stamp_ns, velocity, effort)

    def images(self, stamp_ns: int) -> Iterator[tuple[str, str, bytes]]:
        """(camera, topic, message)."""
        for camera, topic in self.robot.cameras.items():
            yield camera, topic, encode_image(self._rng.integers(0, 256, (24, 32, 3), np.uint8), stamp_ns)

    def take_trajectory(self, group: CommandGroup, trajectory: Trajectory) -> None:
        """As its controller decoded it: by the names on the wire."""
        assert trajectory.joint_names == tuple(name.removeprefix(group.prefix) for name in group.joints)
        start = (trajectory.stamp_ns, [self.position[name] for name in group.joints])
        self._running[group.topic] = begin(trajectory, trajectory.stamp_ns, self.robot.period_ns, start)

    def take_positions(self, group: CommandGroup, positions: np.ndarray) -> None:
        assert len(positions) == len(group.joints)
        self.position.update(zip(group.joints, map(float, positions), strict=True))

    def move(self, now_ns: int) -> None:
        """To where the trajectories lead by now."""
        for group in self.robot.command_groups:
            if group.topic in self._running:
                self.take_positions(group, self._running[group.topic].position_at(now_ns))
