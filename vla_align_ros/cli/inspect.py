"""`vla-align inspect`: what is in a recording, and what the joints did with their commands. No network is asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vla_align_ros.cli.bag_options import Bags, RecordedOptions, are_datasets, with_recorded_options

if TYPE_CHECKING:
    from vla_align_ros.alignment.diagnosis import FieldDiagnosis, FieldRange
    from vla_align_ros.experience.bag_topics import BagTopics
    from vla_align_ros.robot.description import RobotDescription


@with_recorded_options
def inspect(
    sources: Bags,
    recorded: RecordedOptions,
    model: Annotated[
        str,
        typer.Option(help="Folder of the model, or its name in the zoo: its robot is meant. Weights are not needed."),
    ] = "",
    robot: Annotated[
        Path | None, typer.Option(help="Instead: the robot description, as config/robots/so101.yaml.")
    ] = None,
    robot_column: Annotated[
        str | None, typer.Option(help="For a LeRobotDataset: the column that says which robot an episode is of.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what bags or a LeRobotDataset hold, how far each field of the state went, and of each field of the action its
    gain, delay and stillness, with intervals.

    Exit code 0, or 2 for a source that cannot be read.

    Example: vla-align inspect --robot config/robots/so101.yaml outputs/monday
    """
    try:
        described, horizon = _described(model, robot)
        if are_datasets(sources):
            found = [part for source in sources for part in _dataset(source, described, horizon, robot_column)]
        else:
            found = [_bags(sources, recorded.topics(described), horizon, recorded.prompt)]
    except ValueError as error:
        typer.echo(f"cannot inspect: {error}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps(found, indent=2, default=asdict))
        return
    for part in found:
        _say(part["lines"], part["state"], part["action"])


def _described(model: str, robot: Path | None) -> tuple[RobotDescription, int]:
    """The robot, and how many ticks an experience has: the model's, else a second."""
    from vla_align_ros.policy.config import load_model_config
    from vla_align_ros.robot.description import load_description
    from vla_align_ros.zoo import find_model

    if (robot is None) != bool(model):
        raise ValueError("say which joints and cameras are meant: --robot FILE, or --model for the model's, not both")
    if robot is None:
        config = load_model_config(find_model(model))
        return config.robot, config.architecture.action_horizon
    found = load_description(robot)
    return found, max(2, round(found.control_rate_hz))


def _bags(sources: Sequence[Path], topics: BagTopics, horizon: int, prompt: str) -> dict[str, Any]:
    from vla_align_ros.alignment.diagnosis import diagnose, measured_ranges
    from vla_align_ros.experience.bag import BagReading
    from vla_align_ros.experience.buffer import ExperienceBuffer
    from vla_align_ros.experience.builder import ExperienceBuilder
    from vla_align_ros.observation.assemble import ObservationAssembler
    from vla_align_ros.offline import fill_buffer
    from vla_align_ros.params import PolicyParams
    from vla_align_ros.runtime import assembler_limits

    params, robot = PolicyParams(), topics.robot
    limits = assembler_limits(robot, horizon, params)

    def read(paths: Sequence[Path]) -> BagReading:
        assembler = ObservationAssembler(robot, tuple(robot.cameras), 1, limits, lambda _: None)  # no picture is used
        builder = ExperienceBuilder(assembler, robot, horizon, params.experience_lag_s, params.experience_stride_ticks)
        return BagReading(paths, topics, assembler, builder, prompt)

    buffer = ExperienceBuffer(sys.maxsize)  # all of it, with pictures of one pixel
    summaries = list(fill_buffer(read, sources, buffer))
    return {
        "lines": [line for summary in summaries for line in summary.lines()],
        "bags": [summary.to_json() for summary in summaries],
        "state": measured_ranges(buffer.snapshot(), robot),
        "action": diagnose(buffer.snapshot(), robot),
    }


def _dataset(
    folder: Path, description: RobotDescription, horizon: int, robot_column: str | None
) -> list[dict[str, Any]]:
    from vla_align_ros.alignment.diagnosis import diagnose, measured_ranges
    from vla_align_ros.experience.lerobot import LeRobotDataset

    dataset = LeRobotDataset(folder, description, {}, 1, robot_column=robot_column, prompt="-")
    found = []
    for unit, episodes in dataset.by_robot.items():
        frames = sum(episode.length for episode in episodes)
        line = f"{unit}: {len(episodes)} episodes, {frames} frames, {frames / dataset.fps:.0f} s at {dataset.fps:g} fps"
        made = list(dataset.experiences(horizon, max(1, horizon // 2), unit))
        state, action = measured_ranges(made, description), diagnose(made, description)
        found.append({"lines": [line], "state": state, "action": action})
    return found


def _say(lines: Sequence[str], state: Sequence[FieldRange], action: Sequence[FieldDiagnosis]) -> None:
    for line in lines:
        typer.echo(line)
    for title, fields in (("what was measured:", state), ("what the joints did with their commands:", action)):
        typer.echo(f"  {title}")
        for field in fields:
            typer.echo(f"    {field.sentence()}")
