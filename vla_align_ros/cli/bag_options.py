"""The options by which commands name bags and the topics in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vla_align_ros.experience.bag_topics import BagTopics
    from vla_align_ros.robot.description import RobotDescription

Bags = Annotated[
    list[Path],
    typer.Argument(
        help="Bag folders or storage files, in order of time; the split files of one recording count as one. Or "
        "LeRobotDatasets (format 3)."
    ),
]
Namespace = Annotated[
    str, typer.Option(help="Of the nodes that were recorded: put before every topic that does not begin with /.")
]
Cameras = Annotated[
    list[str] | None,
    typer.Option(
        "--camera",
        help="A camera's topic in the bag (or a dataset's feature), as base_0_rgb=/cam/image_raw; else the model's.",
    ),
]
JointTopics = Annotated[
    list[str] | None,
    typer.Option(
        "--joint-topic",
        help="The bag's JointState topic; of a robot with several, as follower_left/joint_states=/left/joint_states. "
        "Else the model's.",
    ),
]
PromptTopic = Annotated[str, typer.Option(help="The bag's prompt topic.")]
Prompt = Annotated[str, typer.Option(help="The instruction, for a bag that has none.")]
CommandTopic = Annotated[str, typer.Option(help="The bag's topic of the JointTrajectories that moved the robot.")]


def pairs(option: str, items: Sequence[str] | None) -> dict[str, str]:
    """NAME=VALUE, given again and again. ValueError for anything else."""
    if wrong := [item for item in items or () if "=" not in item]:
        raise ValueError(f"{option}: expected NAME=VALUE, got {wrong[0]!r}")
    return dict(item.split("=", 1) for item in items or ())


def are_datasets(sources: Sequence[Path]) -> bool:
    """Whether all are LeRobotDatasets; False where none is. ValueError for a mixture."""
    datasets = [path for path in sources if (path / "meta" / "info.json").is_file()]
    if datasets and len(datasets) < len(sources):
        raise ValueError(f"give bags or LeRobotDatasets, got both: {datasets[0]} is a dataset")
    return bool(datasets)


def named_topics(
    robot: RobotDescription,
    namespace: str,
    cameras: Sequence[str] | None,
    joint_topics: Sequence[str] | None,
    prompt_topic: str,
    command_topic: str,
) -> BagTopics:
    """What the options say. Raises ValueError as `bag_topics`, and for an option that is written wrongly."""
    from vla_align_ros.experience.bag_topics import bag_topics, in_namespace

    known = [source.topic for source in robot.joint_states]
    if len(known) == 1:
        joint_topics = [item if "=" in item else f"{known[0]}={item}" for item in joint_topics or ()]
    return bag_topics(
        robot,
        in_namespace(namespace),
        cameras=pairs("--camera", cameras),
        joints=pairs(f"--joint-topic, of the model's {known}", joint_topics),
        prompt=prompt_topic,
        command=command_topic,
    )
