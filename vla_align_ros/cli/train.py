"""`vla-align train`: make a zoo model from nothing or from a base, from a bench, from LeRobotDatasets or from bags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    run: Annotated[Path, typer.Option(help="Folder of the run; a second call goes on where the first one stopped.")],
    config: Annotated[
        Path | None,
        typer.Option(help="The recipe, as config/train/so101.yaml; where a base is given, config/train/base.yaml."),
    ] = None,
    export: Annotated[Path | None, typer.Option(help="Zoo folder to write when the training is done.")] = None,
    base: Annotated[
        str | None, typer.Option(help="A zoo folder, or a name from the zoo, that gets an E-Token and keeps its robot.")
    ] = None,
    freeze: Annotated[str | None, typer.Option(help="What of the base stays as it is: vlm, or base for all.")] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Instead of the recipe's source: a LeRobotDataset, or a bag of one robot; may be repeated."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="The same as YAML: '{lerobot: [FOLDER], cameras: {front: observation.images.front}}', "
            "'{bags: {arm1: [BAG, BAG]}}' or '{bench: so101}'."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's: other weights, arms and data.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto; only the CPU repeats a run bit for bit.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads.", min=1)] = 1,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Curves, to RUN/tensorboard.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each log line as JSON.")] = False,
) -> None:
    """Train the vision, the features and the policy with its token bank; resumable, deterministic for a seed. Exit code
    2: a recipe, a model or data that do not fit, with a sentence.

    Example: vla-align train --config config/train/so101.yaml --run runs/so101 --export models/so101

    Of a model without an E-Token, from your own demonstrations:
    vla-align train --base models/mine --freeze base --data my_dataset --run runs/mine --export models/mine_aligning
    """
    import torch

    from vla_align_ros.cli.sources import open_sources
    from vla_align_ros.cli.train_options import RecipeOptions, check_places
    from vla_align_ros.cli.train_progress import shown
    from vla_align_ros.policy.load import find_device
    from vla_align_ros.training.base import model_of
    from vla_align_ros.training.export import check_target
    from vla_align_ros.training.export import export as write_model
    from vla_align_ros.training.processes import is_main
    from vla_align_ros.training.recipe import TrainingError
    from vla_align_ros.training.tensorboard import TensorBoard
    from vla_align_ros.training.train import train as run_training

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    curves: TensorBoard | None = None
    try:
        path, recipe = RecipeOptions(base, freeze, data or [], source, seed).applied(config)
        check_places(run, export, recipe)
        target = find_device(device)
        if export is not None:
            check_target(export)
        sources = open_sources(recipe.source, model_of(recipe, path), recipe.seed)
        if tensorboard and is_main():
            curves = TensorBoard(run / "tensorboard")
        totals = {
            "vision": recipe.vision.steps,
            "features": recipe.vision.steps,
            "policy": recipe.samples // recipe.batch_size,
            "alignment": recipe.alignment_samples // recipe.batch_size,
        }
        with shown(totals, as_json) as show:

            def log(line: dict[str, object]) -> None:
                show(line)
                if curves is not None:
                    curves(line)

            trainee = run_training(path, recipe, sources, run, log, target)
            if export is not None and is_main():
                write_model(trainee, recipe, run, export, log)
    except (ValueError, TrainingError) as error:
        typer.echo(f"cannot train: {error}", err=True)
        raise typer.Exit(2) from None
    finally:
        if curves is not None:
            curves.close()
