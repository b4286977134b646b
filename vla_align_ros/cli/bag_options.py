"""The options by which commands name bags and the topics in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

Bags = Annotated[
    list[Path],
    typer.Argument(
        help="Bag folders or storage files, in order of time; the split files of one recording count as one."
    ),
]
Cameras = Annotated[
    list[str] | None,
    typer.Option("--camera", help="A camera's topic in the bag, as base_0_rgb=/cam/image_raw; else the model's."),
]
JointTopic = Annotated[str, typer.Option(help="The bag's JointState topic.")]
PromptTopic = Annotated[str, typer.Option(help="The bag's prompt topic.")]
Prompt = Annotated[str, typer.Option(help="The instruction, for a bag that has none.")]
CommandTopic = Annotated[str, typer.Option(help="The bag's topic of the JointTrajectories that moved the robot.")]


def pairs(option: str, items: Sequence[str] | None) -> dict[str, str]:
    """NAME=VALUE, given again and again. ValueError for anything else."""
    if wrong := [item for item in items or () if "=" not in item]:
        raise ValueError(f"{option}: expected NAME=VALUE, got {wrong[0]!r}")
    return dict(item.split("=", 1) for item in items or ())
