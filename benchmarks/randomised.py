"""The rival `randomised` of `alignment.py --family`: one policy for all robots, by domain randomisation.

    python benchmarks/randomised.py --run runs/so101_randomised       # a second call goes on
    python benchmarks/alignment.py --family all --randomised runs/so101_randomised/export

The recipe of the model beside which it stands, so the same robots, samples, network and seed; but every sample has the
same token, and the actions are all that it learns.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import machine
import typer

from vla_align_ros.cli.sources import open_sources
from vla_align_ros.policy.load import Device, find_device
from vla_align_ros.training.base import model_of
from vla_align_ros.training.export import write_model
from vla_align_ros.training.recipe import load_recipe
from vla_align_ros.training.train import train


def main(
    run: Annotated[Path, typer.Option(help="Folder of the training run.")],
    recipe_path: Annotated[Path, typer.Option("--recipe", help="Of the model that it is compared with.")] = (
        machine.ROOT / "config" / "train" / "so101.yaml"
    ),
    device: Annotated[Device, typer.Option(help="Where it trains.")] = "cpu",
) -> None:
    """Train it and write `RUN/export`, which acts and does not align."""
    recipe = replace(
        load_recipe(recipe_path), token_drop=1.0, lambda_perc=0.0, lambda_dyn=0.0, lambda_inv=0.0, alignment_samples=0
    )
    sources = open_sources(recipe.source, model_of(recipe, recipe_path), recipe.seed)
    trainee = train(recipe_path, recipe, sources, run, _say, find_device(device))
    write_model(trainee, recipe, run, run / "export")
    print(run / "export")


def _say(line: dict[str, object]) -> None:
    step = line.get("step")
    if not isinstance(step, int) or step % 100 == 0:
        print(line, flush=True)


if __name__ == "__main__":
    typer.run(main)
