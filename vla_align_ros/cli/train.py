"""`vla-align train`: make a zoo model from nothing, from a bench, from LeRobotDatasets or from bags."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[Path, typer.Option(help="The recipe, as config/train/tiny.yaml or so101.yaml.")],
    run: Annotated[Path, typer.Option(help="Folder of the run; a second call goes on where the first one stopped.")],
    export: Annotated[Path | None, typer.Option(help="Zoo folder to write when the training is done.")] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Instead of the recipe's, as YAML: '{lerobot: [FOLDER], cameras: {front: observation.images.front}}', "
            "'{bags: {arm1: [BAG, BAG]}}' or '{bench: reach2}'."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's: other weights, arms and data.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto; only the CPU repeats a run bit for bit.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads.", min=1)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print each log line as JSON.")] = False,
) -> None:
    """Train the vision, the features and the policy with its token bank; resumable, deterministic for a seed. Exit code
    2: a recipe, a model or data that do not fit, with a sentence.

    Example: vla-align train --config config/train/tiny.yaml --run runs/tiny --export models/tiny
    """
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from vla_align_ros.cli.sources import open_sources, parse_source
    from vla_align_ros.policy.config import load_model_description
    from vla_align_ros.policy.load import find_device
    from vla_align_ros.training.export import export as write_model
    from vla_align_ros.training.recipe import TrainingError, load_recipe
    from vla_align_ros.training.train import train as run_training

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    try:
        recipe = load_recipe(config)
        recipe = recipe if seed is None else replace(recipe, seed=seed)
        recipe = recipe if source is None else replace(recipe, source=parse_source(source))
        target = find_device(device)
        sources = open_sources(recipe.source, load_model_description(config.parent / recipe.model), recipe.seed)
    except ValueError as error:
        typer.echo(f"cannot train: {error}", err=True)
        raise typer.Exit(2) from None
    totals = {
        "vision": recipe.vision.steps,
        "features": recipe.vision.steps,
        "policy": recipe.samples // recipe.batch_size,
        "alignment": recipe.alignment_samples // recipe.batch_size,
    }
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=as_json) as progress:
        tasks = {name: progress.add_task(name, total=total) for name, total in totals.items()}

        def log(line: dict[str, object]) -> None:
            if as_json:
                typer.echo(json.dumps(line))
            elif "step" in line:
                stage, loss = str(line["stage"]), line.get("total_loss", line.get("presence_loss"))
                progress.update(
                    tasks[stage],
                    completed=float(str(line["step"])),
                    description=stage if loss is None else f"{stage} loss {loss:.3f}",
                )
            else:
                progress.console.print(line)

        try:
            trainee = run_training(config, recipe, sources, run, log, target)
            if export is not None:
                write_model(trainee, recipe, config, run, export, log)
        except (ValueError, TrainingError) as error:
            typer.echo(f"cannot train: {error}", err=True)
            raise typer.Exit(2) from None
