"""Which topics of a recording are what: cameras, joint states, prompt, commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from vla_align_ros.observation.codecs import COMPRESSED_IMAGE, IMAGE, JOINT_STATE, JOINT_TRAJECTORY, STRING
from vla_align_ros.robot.description import JointStateTopic, RobotDescription

PROMPT: Final = "vla_policy/prompt"  # as the node calls them, in its namespace
COMMAND: Final = "vla_policy/action_chunk"


@dataclass(frozen=True)
class BagTopics:
    """Absolute names. cameras: the model's camera name -> topic. joints: topic -> what the robot description says of
    it. command: of the trajectories that moved the robot; other_commands: of those by which somebody else may have
    moved it."""

    robot: RobotDescription
    cameras: Mapping[str, str]
    joints: Mapping[str, JointStateTopic]
    prompt: str
    command: str
    other_commands: tuple[str, ...] = ()

    @property
    def needed(self) -> dict[str, tuple[str, str, tuple[str, ...]]]:
        """Every topic: what it is, the option of `vla-align align` that names it, the types that it may have."""
        several = len(self.joints) > 1
        cameras = {
            topic: (f"camera {camera}", f"--camera {camera}=TOPIC", (IMAGE, COMPRESSED_IMAGE))
            for camera, topic in self.cameras.items()
        }
        joints = {
            topic: (
                f"joints {source.topic}" if several else "joints",
                f"--joint-topic {source.topic}=TOPIC" if several else "--joint-topic TOPIC",
                (JOINT_STATE,),
            )
            for topic, source in self.joints.items()
        }
        return {
            **cameras,
            **joints,
            self.prompt: ("prompt", "--prompt-topic TOPIC, or --prompt TEXT", (STRING,)),
            self.command: ("commands", "--command-topic TOPIC", (JOINT_TRAJECTORY,)),
        }

    @property
    def joint_names(self) -> dict[str, tuple[str, ...]]:
        """Joint-state topic -> the joints that the state may read from it, as they are called there."""
        return {topic: self.robot.names_on(source) for topic, source in self.joints.items()}

    def beside(self, trajectories: Iterable[str]) -> BagTopics:
        """These, with all of `trajectories` but the command's as other commands."""
        return replace(self, other_commands=tuple(topic for topic in trajectories if topic != self.command))


def in_namespace(namespace: str) -> Callable[[str], str]:
    """A topic as ROS resolves it there: one that begins with / is absolute."""
    before = f"/{namespace.strip('/')}".rstrip("/")
    return lambda topic: topic if topic.startswith("/") else f"{before}/{topic}"


AT_ROOT: Final = in_namespace("")


def bag_topics(
    robot: RobotDescription,
    resolve: Callable[[str], str] = AT_ROOT,
    *,
    cameras: Mapping[str, str] | None = None,
    joints: Mapping[str, str] | None = None,
    prompt: str = PROMPT,
    command: str = COMMAND,
) -> BagTopics:
    """The topics of a bag of `robot`. resolve: a topic's absolute name. cameras: name -> topic, joints: topic of the
    description -> topic, of those that are called otherwise in the bag.

    Raises ValueError for cameras or joint-state topics that the robot does not have, and for one topic in two places.
    """
    cameras, joints = dict(cameras or {}), dict(joints or {})
    sources = {source.topic: source for source in robot.joint_states}
    if unknown := sorted(set(cameras) - set(robot.cameras)):
        raise ValueError(f"the model has no camera {unknown}, it has {list(robot.cameras)}")
    if unknown := sorted(set(joints) - set(sources)):
        raise ValueError(f"the model has no joint-state topic {unknown}, it has {list(sources)}")
    found = BagTopics(
        robot,
        {camera: resolve(topic) for camera, topic in {**robot.cameras, **cameras}.items()},
        {resolve(joints.get(topic, topic)): source for topic, source in sources.items()},
        resolve(prompt),
        resolve(command),
    )
    if len(found.needed) < len(found.cameras) + len(sources) + 2:
        raise ValueError(f"one topic in two places: {[*found.cameras.values(), *found.joints, found.prompt, command]}")
    return found
