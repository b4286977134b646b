"""`vla-align inspect`: what is in a recording, and what the joints did with their commands. No network is asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vla_align_ros.cli.bag_options import Bags, RecordedOptions, are_datasets, with_recorded_options

if TYPE_CHECKING:
    from vla_align_ros.alignment.diagnosis import FieldDiagnosis, FieldRange
    from vla_align_ros.experience.bag_topics import BagTopics
    from vla_align_ros.policy import Policy


@with_recorded_options
def inspect(
    sources: Bags,
    recorded: RecordedOptions,
    model: Annotated[str, typer.Option(help="For bags: folder of the model, or its name in the zoo.")] = "",
    robot: Annotated[
        Path | None, typer.Option(help="For a LeRobotDataset: the robot description, as config/robots/so101.yaml.")
    ] = None,
    robot_column: Annotated[
        str | None, typer.Option(help="For a LeRobotDataset: the column that says which robot an episode is of.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what bags or a LeRobotDataset hold, how far each field of the state went, and of each field of the action its
    gain, delay and stillness, with intervals.

    Exit code 0, or 2 for a source that cannot be read.

    Example: vla-align inspect --model tiny outputs/monday
    """
    from vla_align_ros.policy import load_policy
    from vla_align_ros.zoo import find_model

    try:
        if are_datasets(sources):
            if robot is None:
                raise ValueError("a LeRobotDataset needs --robot, a description of the robot that it was recorded on")
            found = [part for source in sources for part in _dataset(source, robot, robot_column)]
        else:
            if not model:
                said = f"{sources[0]} is no LeRobotDataset, for it has no meta/info.json" if robot else "no model"
                raise ValueError(f"{said}: bags need --model, whose model.yaml says which joints and cameras are meant")
            policy = load_policy(find_model(model), "cpu")
            found = [_bags(sources, policy, recorded.topics(policy.config.robot), recorded.prompt)]
    except ValueError as error:
        typer.echo(f"cannot inspect: {error}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps(found, indent=2, default=asdict))
        return
    for part in found:
        _say(part["lines"], part["state"], part["action"])


def _bags(sources: Sequence[Path], policy: Policy, topics: BagTopics, prompt: str) -> dict[str, Any]:
    from vla_align_ros.alignment.diagnosis import diagnose, measured_ranges
    from vla_align_ros.experience.buffer import ExperienceBuffer
    from vla_align_ros.offline import fill_buffer
    from vla_align_ros.params import PolicyParams

    params = PolicyParams()
    buffer = ExperienceBuffer(params.buffer_capacity)
    summaries = list(fill_buffer(policy, sources, topics, params, buffer, prompt))
    return {
        "lines": [line for summary in summaries for line in summary.lines()],
        "bags": [summary.to_json() for summary in summaries],
        "state": measured_ranges(buffer.snapshot(), topics.robot),
        "action": diagnose(buffer.snapshot(), topics.robot),
    }


def _dataset(folder: Path, robot: Path, robot_column: str | None) -> list[dict[str, Any]]:
    from vla_align_ros.alignment.diagnosis import diagnose, measured_ranges
    from vla_align_ros.experience.lerobot import LeRobotDataset
    from vla_align_ros.robot.description import load_description

    description = load_description(robot)
    dataset = LeRobotDataset(folder, description, {}, 1, robot_column=robot_column, prompt="-")
    horizon = max(2, round(description.control_rate_hz))  # a second
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
