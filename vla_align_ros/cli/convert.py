"""`vla-align convert`: a checkpoint of openpi or lerobot becomes a model of the zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Robot = Annotated[Path | None, typer.Option(help="What the robot's numbers mean, as config/robots/so101.yaml.")]
TokenizerFile = Annotated[
    Path | None, typer.Option(help="PaliGemma's tokenizer.json or tokenizer.model, where it is not in the folder.")
]
NormStatsFile = Annotated[Path | None, typer.Option(help="norm_stats.json, where it is not in the folder.")]
ActionHorizon = Annotated[
    int | None, typer.Option(min=1, help="Actions in a chunk, as in openpi's training config, where no file says it.")
]
StateInPrompt = Annotated[
    bool | None,
    typer.Option(
        "--state-in-prompt/--no-state-in-prompt", help="openpi's discrete_state_input, where it is not the usual one."
    ),
]


def convert(
    source: Annotated[Path, typer.Argument(help="The folder with model.safetensors.")],
    target: Annotated[Path, typer.Argument(help="The folder to write, which is not there yet: models/NAME.")],
    robot: Annotated[Path, typer.Option(help="What the robot's numbers mean, as config/robots/so101.yaml.")],
    tokenizer: TokenizerFile = None,
    norm_stats: NormStatsFile = None,
    action_horizon: ActionHorizon = None,
    state_in_prompt: StateInPrompt = None,
) -> None:
    """Write a zoo folder with a pi0 or pi0.5 of openpi (PyTorch) or lerobot. Exit code 2: a checkpoint, a robot or a
    disk that does not do, with a sentence; nothing is left behind then.

    Example: vla-align convert outputs/pretrained_model models/my_pi05 --robot config/robots/so101.yaml
    """
    from rich.console import Console

    from vla_align_ros.policy.convert import convert as write
    from vla_align_ros.policy.foreign_config import ForeignSettings
    from vla_align_ros.robot.description import load_description

    try:
        settings = ForeignSettings(load_description(robot), tokenizer, norm_stats, action_horizon, state_in_prompt)
        with Console(stderr=True).status(f"copying {source}"):
            remarks = write(source, target, settings)
    except (ValueError, OSError) as error:
        typer.echo(f"cannot convert: {error}", err=True)
        raise typer.Exit(2) from None
    for remark in remarks:
        typer.echo(remark, err=True)
    typer.echo(f"{target}: run it with model:={target}, look at it with vla-align doctor --model {target}")
