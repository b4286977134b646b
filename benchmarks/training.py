"""How fast the training of a recipe goes, and how much memory it takes, with and without the alignment expert.

    python benchmarks/training.py --json training.json

The loop is `training.train.train_policy` itself, on one thread: losses, gradients, clipping, optimizer. Without the
alignment expert means all three lambdas 0, so that none of its passes is computed. The eyes stay as they were drawn at
random and a shard is small; neither changes the time of a step. Each runs in a process of its own, so that its peak
memory is its own: of the steps, over what the process had before the first one (weights, gradients, optimizer,
activations), and of the whole process. A run of the whole recipe has its shard of samples beside that.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import machine
import torch
import typer
from rich.console import Console
from rich.table import Table
from timing import Timing, percentile

from vla_align_ros.training.recipe import Recipe, RecipeError, VisionRecipe, load_recipe
from vla_align_ros.training.train import prepare, train_policy

WARM_UP = 3
SHARD_BATCHES = 4
NO_PRETRAINING = VisionRecipe(steps=1, batch_size=8, frames=64)


def peak_memory_mib() -> float:
    """Largest resident memory of this process since `forget_peak`."""
    return memory_mib("VmHWM")


def memory_mib(name: str) -> float:
    """A line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


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
        trainee = prepare(recipe, recipe_path, Path(out), lambda line: None)
        forget_peak()
        before_mib = memory_mib("VmRSS")
        train_policy(trainee, recipe, Path(out), log, save_every_s=float("inf"))
    pairs = list(zip(clock, clock[1:], strict=False))[WARM_UP:]
    steps = [Timing(after[0] - before[0], after[1] - before[1]) for before, after in pairs]
    kept = [step.wall_s for step in steps if step.undisturbed]
    return {
        "samples_per_s": recipe.batch_size / percentile(kept, 50),
        "step_ms": {"p50": percentile(kept, 50) * 1e3, "p99": percentile(kept, 99) * 1e3},
        "cpu_ms": percentile([step.cpu_s for step in steps], 50) * 1e3,
        "steps": len(steps),
        "undisturbed": len(kept),
        "peak_memory_of_steps_mib": peak_memory_mib() - before_mib,
        "peak_memory_of_process_mib": peak_memory_mib(),
    }


def shortened(recipe: Recipe, steps: int) -> Recipe:
    """The same training, of `steps` steps after warm-up, on a small shard and without pretraining."""
    samples, shard = (steps + WARM_UP + 1) * recipe.batch_size, SHARD_BATCHES * recipe.batch_size
    return replace(recipe, samples=samples, shard_samples=shard, shard_epochs=samples, vision=NO_PRETRAINING)


def main(
    config: Annotated[Path, typer.Option(help="The recipe.")] = machine.ROOT / "config" / "train" / "tiny.yaml",
    steps: Annotated[int, typer.Option(min=5, help="Of each kind.")] = 30,
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
    columns = ("samples/s", "step p50 ms", "undisturbed steps", "peak of steps MiB", "peak of process MiB")
    table = Table(f"batch {recipe.batch_size}, one thread", *columns)
    for name, part in found.items():
        table.add_row(
            name,
            f"{part['samples_per_s']:.0f}",
            f"{part['step_ms']['p50']:.0f}",
            f"{part['undisturbed']} of {part['steps']}",
            f"{part['peak_memory_of_steps_mib']:.0f}",
            f"{part['peak_memory_of_process_mib']:.0f}",
        )
    Console().print(table)
    numbers = {name.replace(" ", "_"): part for name, part in found.items()}
    machine.write(json_file, {"recipe": config.name, "batch_size": recipe.batch_size, **numbers})


if __name__ == "__main__":
    typer.run(main)
