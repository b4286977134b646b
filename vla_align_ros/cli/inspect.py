"""`vla-align inspect`: what is in a recording, and what the joints did with their commands. No network is asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vla_align_ros.cli.bag_options import Bags, Cameras, CommandTopic, JointTopic, Prompt, PromptTopic, pairs

if TYPE_CHECKING:
    from vla_align_ros.alignment.diagnosis import FieldDiagnosis


def inspect(
    sources: Bags,
    model: Annotated[str, typer.Option(help="For bags: folder of the model, or its name in the zoo.")] = "",
    robot: Annotated[
        Path | None, typer.Option(help="For a LeRobotDataset: the robot description, as config/robots/so101.yaml.")
    ] = None,
    robot_column: Annotated[
        str | None, typer.Option(help="For a LeRobotDataset: the column that says which robot an episode is of.")
    ] = None,
    camera: Cameras = None,
    joint_topic: JointTopic = "/joint_states",
    prompt_topic: PromptTopic = "/vla_policy/prompt",
    prompt: Prompt = "",
    command_topic: CommandTopic = "/vla_policy/action_chunk",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what bags or a LeRobotDataset hold, and of each joint its gain, delay and stillness, with intervals.

    Exit code 0, or 2 for a source that cannot be read.

    Example: vla-align inspect --model tiny outputs/monday
    """
    topics = {"joint_topic": joint_topic, "prompt_topic": prompt_topic, "command_topic": command_topic}
    try:
        if any((source / "meta" / "info.json").is_file() for source in sources):
            if robot is None:
                raise ValueError("a LeRobotDataset needs --robot, a description of the robot that it was recorded on")
            found = [part for source in sources for part in _dataset(source, robot, robot_column)]
        else:
            if not model:
                raise ValueError("bags need --model: its model.yaml says which joints and cameras are meant")
            found = [_bags(sources, model, pairs("--camera", camera), topics, prompt)]
    except ValueError as error:
        typer.echo(f"cannot inspect: {error}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(
            json.dumps([{**part, "joints": [asdict(joint) for joint in part["joints"]]} for part in found], indent=2)
        )
        return
    for part in found:
        _say(part["lines"], part["joints"])


def _bags(
    sources: Sequence[Path], model: str, cameras: dict[str, str], topics: dict[str, str], prompt: str
) -> dict[str, Any]:
    from vla_align_ros.alignment.diagnosis import diagnose
    from vla_align_ros.experience.buffer import ExperienceBuffer
    from vla_align_ros.offline import bag_topics, fill_buffer
    from vla_align_ros.params import PolicyParams
    from vla_align_ros.policy import load_policy
    from vla_align_ros.zoo import find_model

    policy = load_policy(find_model(model), "cpu")
    params = PolicyParams(model=model)
    named = bag_topics(policy, topics["joint_topic"], topics["prompt_topic"], topics["command_topic"], cameras)
    buffer = ExperienceBuffer(params.buffer_capacity)
    summaries = list(fill_buffer(policy, sources, named, params, buffer, prompt))
    return {
        "lines": [line for summary in summaries for line in summary.lines()],
        "bags": [summary.to_json() for summary in summaries],
        "joints": diagnose(buffer.snapshot(), policy.config.robot),
    }


def _dataset(folder: Path, robot: Path, robot_column: str | None) -> list[dict[str, Any]]:
    from vla_align_ros.alignment.diagnosis import diagnose
    from vla_align_ros.experience.lerobot import LeRobotDataset
    from vla_align_ros.robot.description import load_description

    description = load_description(robot)
    dataset = LeRobotDataset(folder, description, {}, 1, robot_column=robot_column, prompt="-")
    horizon = max(2, round(description.control_rate_hz))  # a second
    found = []
    for unit in dataset.robots:
        episodes = [episode for episode in dataset.episodes if dataset.robot_of(episode) == unit]
        frames = sum(episode.length for episode in episodes)
        line = f"{unit}: {len(episodes)} episodes, {frames} frames, {frames / dataset.fps:.0f} s at {dataset.fps:g} fps"
        made = list(dataset.experiences(horizon, max(1, horizon // 2), unit))
        found.append({"lines": [line], "joints": diagnose(made, description)})
    return found


def _say(lines: Sequence[str], joints: Sequence[FieldDiagnosis]) -> None:
    for line in lines:
        typer.echo(line)
    typer.echo("  what the joints did with their commands:")
    for joint in joints:
        typer.echo(f"    {joint.sentence()}")
