"""The options by which commands name bags and the topics in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, signature
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vla_align_ros.experience.bag_topics import BagTopics
    from vla_align_ros.robot.description import RobotDescription

BAGS_HELP = (
    "Bag folders or storage files, in order of time; the split files of one recording count as one. Or LeRobotDatasets "
    "(format 3)."
)
Bags = Annotated[list[Path], typer.Argument(help=BAGS_HELP)]


@dataclass(frozen=True)
class RecordedOptions:
    """What every command that reads recordings can be told about them: an option each (`with_recorded_options`)."""

    namespace: Annotated[
        str, typer.Option(help="Of the nodes that were recorded: put before every topic that does not begin with /.")
    ] = ""
    camera: Annotated[
        list[str] | None,
        typer.Option(
            help="A camera's topic in the bag (or a dataset's feature), as base_0_rgb=/cam/image_raw; else the model's."
        ),
    ] = None
    joint_topic: Annotated[
        list[str] | None,
        typer.Option(
            help="The bag's JointState topic; of a robot with several, as "
            "follower_left/joint_states=/left/joint_states. Else the model's."
        ),
    ] = None
    prompt_topic: Annotated[str, typer.Option(help="The bag's prompt topic.")] = "vla_policy/prompt"
    prompt: Annotated[str, typer.Option(help="The instruction, for a bag that has none.")] = ""
    command_topic: Annotated[
        str, typer.Option(help="The bag's topic of the JointTrajectories that moved the robot.")
    ] = "vla_policy/action_chunk"

    def topics(self, robot: RobotDescription) -> BagTopics:
        """Of bags. Raises ValueError as `bag_topics`, and for an option that is written wrongly."""
        from vla_align_ros.experience.bag_topics import bag_topics, in_namespace

        known, joints = [source.topic for source in robot.joint_states], self.joint_topic or ()
        if len(known) == 1:
            joints = [item if "=" in item else f"{known[0]}={item}" for item in joints]
        return bag_topics(
            robot,
            in_namespace(self.namespace),
            cameras=pairs("--camera", self.camera),
            joints=pairs(f"--joint-topic, of the model's {known}", joints),
            prompt=self.prompt_topic,
            command=self.command_topic,
        )


def with_recorded_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes RecordedOptions, as typer is to see it: with their fields instead, as options."""
    own, shared = signature(command, eval_str=True), signature(RecordedOptions, eval_str=True).parameters
    taker = next(name for name, item in own.parameters.items() if item.annotation is RecordedOptions)

    @wraps(command)
    def run(**given: Any) -> None:
        command(**{taker: RecordedOptions(**{name: given.pop(name) for name in shared})}, **given)

    lists = (shared.values() if name == taker else [item] for name, item in own.parameters.items())
    seen = [item.replace(kind=Parameter.KEYWORD_ONLY) for item in chain.from_iterable(lists)]
    run.__signature__ = own.replace(parameters=seen)  # type: ignore[attr-defined]
    return run


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
