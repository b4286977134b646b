"""How fast the training of a recipe goes, and how much memory it takes, with and without the alignment expert.

    python benchmarks/training.py --json training.json

The loop is `training.train.train_policy` itself, on one thread: losses, gradients, clipping, optimizer. Without the
alignment expert means all three lambdas 0, so that none of its passes is computed. The eyes stay as they were drawn at
random and a shard is small; neither changes the time of a step. Samples a second are of undisturbed steps (CPU time
above 0.97 of wall time); on a busy machine there may be none, and samples a CPU second are what is left.

Each runs in a process of its own, so that its peak memory is its own: of the steps, over what the process had before
the first one (gradients, optimizer, activations), and of the whole process. A run of the whole recipe has its bigger
shard of samples beside that.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import machine
import torch
import typer
from rich.console import Console
from rich.table import Table
from timing import Timing, percentile, summary_ms

from vla_align_ros.bench.reach2.source import open_sources
from vla_align_ros.training.processes import Processes
from vla_align_ros.training.recipe import Recipe, RecipeError, VisionRecipe, load_recipe
from vla_align_ros.training.train import prepare, train_policy

WARM_UP = 3
SHARD_BATCHES = 4
NO_PRETRAINING = VisionRecipe(steps=1, batch_size=8, frames=64)


def forget_peak() -> None:
    """Let VmHWM begin anew (proc_pid_clear_refs(5))."""
    Path("/proc/self/clear_refs").write_text("5")


def run(recipe_path: Path, recipe: Recipe) -> dict[str, Any]:
    """Train for all samples of `recipe`; the first steps don't count."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as `vla-align train`
    clock: list[tuple[float, float]] = []

    def log(line: dict[str, object]) -> None:
        clock.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as out:
        trainee = prepare(
            recipe, recipe_path, open_sources(recipe.seed), Path(out), lambda line: None, torch.device("cpu")
        )
        forget_peak()
        before_mib = machine.memory_mib("VmRSS")
        train_policy(trainee, recipe, Path(out), log, float("inf"), Processes(trainee.device))
    pairs = list(pairwise(clock))[WARM_UP:]
    steps = [Timing(after[0] - before[0], after[1] - before[1]) for before, after in pairs]
    step_ms = summary_ms(steps)
    return {
        "samples_per_s": recipe.batch_size / step_ms["p50"] * 1e3,
        "step_ms": step_ms,
        "samples_per_cpu_s": recipe.batch_size / percentile([step.cpu_s for step in steps], 50),
        "peak_memory_of_steps_mib": machine.memory_mib("VmHWM") - before_mib,
        "peak_memory_of_process_mib": machine.memory_mib("VmHWM"),
    }


def shortened(recipe: Recipe, steps: int) -> Recipe:
    """The same training, of `steps` steps after warm-up, on a small shard and without pretraining."""
    samples, shard = (steps + WARM_UP + 1) * recipe.batch_size, SHARD_BATCHES * recipe.batch_size
    return replace(recipe, samples=samples, shard_samples=shard, shard_epochs=samples, vision=NO_PRETRAINING)


def main(
    config: Annotated[Path, typer.Option(help="The recipe.")] = machine.ROOT / "config" / "train" / "tiny.yaml",
    steps: Annotated[int, typer.Option(min=10, help="Of each kind.")] = 30,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Time the training step."""
    try:
        recipe = shortened(load_recipe(config), steps)
    except RecipeError as error:
        raise typer.BadParameter(str(error)) from None
    recipes = {
        "with the alignment expert": recipe,
        "without": replace(recipe, lambda_perc=0.0, lambda_dyn=0.0, lambda_inv=0.0),
    }
    os.environ["OMP_NUM_THREADS"] = "1"
    found = {}
    for name, part in recipes.items():
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            found[name] = process.submit(run, config, part).result()
    table = Table("", *found, title=f"{config.name}, batch {recipe.batch_size}, one thread")
    rows = {
        "samples a second": "samples_per_s",
        "samples a CPU second": "samples_per_cpu_s",
        "peak memory of the steps, MiB": "peak_memory_of_steps_mib",
        "peak memory of the process, MiB": "peak_memory_of_process_mib",
    }
    for label, key in rows.items():
        table.add_row(label, *(f"{part[key]:.0f}" for part in found.values()))
    table.add_row(
        "undisturbed steps",
        *(f"{part['step_ms']['undisturbed']} of {part['step_ms']['calls']}" for part in found.values()),
    )
    Console().print(table)
    numbers = {name.replace(" ", "_"): part for name, part in found.items()}
    machine.write(json_file, {"recipe": config.name, "batch_size": recipe.batch_size, **numbers})


if __name__ == "__main__":
    typer.run(main)
