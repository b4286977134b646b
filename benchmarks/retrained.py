"""What parts of the model are worth: the same recipe with one part changed each, by default trained briefly.

    python benchmarks/retrained.py --json retrained.json
    python benchmarks/retrained.py --samples 512000 --only "self-supervised features" --json whole.json

A row is a model of its own: success and action error of the same unseen arms with the better of E_0 and the unshifted
arm's token (before), after the pick, after the gradient from there, and with the best token by labels. Rows compare
with `as shipped`, trained as long. Measured on the CPU.

20 minutes of an idle core a row of 100,000 samples, more with self-supervised features, whose eye also gets more frames
and steps than the label-pretrained one. A run can be cut and goes on where it stopped: with the same settings only, in
a folder of their own. `one global E` has no offsets: its bank is E_0 many times.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import arms
import machine
import numpy as np
import torch
import typer
import yaml

from vla_align_ros.alignment.step import descend, find_best_known
from vla_align_ros.bench.collect import fill_buffer
from vla_align_ros.bench.evaluate import action_error
from vla_align_ros.bench.reach2.bench import BENCH
from vla_align_ros.bench.reach2.embodiment import Embodiments
from vla_align_ros.bench.reach2.source import open_sources
from vla_align_ros.policy import load_policy
from vla_align_ros.policy.load import Device, find_device
from vla_align_ros.seeds import Part, seed_of
from vla_align_ros.training.export import write_model
from vla_align_ros.training.recipe import Recipe, load_recipe
from vla_align_ros.training.train import prepare, train

RECIPE = machine.ROOT / "config" / "train" / "tiny.yaml"
SAMPLES = 100_000  # a fifth of what the shipped weights saw
Change = Callable[[dict[str, Any]], None]  # of `architecture` in the model's description


def _as_shipped(architecture: dict[str, Any]) -> None:
    """Nothing is changed."""


def _mutual(architecture: dict[str, Any]) -> None:
    """Perception's token sees the other two tasks, as they see it."""
    architecture["alignment"]["perception_attention"] = "mutual"


def _without_state_tokens(architecture: dict[str, Any]) -> None:
    """No clean state beside the tasks, and dynamics read from the mean of its tokens."""
    architecture["alignment"] |= {"state_tokens": False, "dynamics_readout": "mean"}


def _one_token(architecture: dict[str, Any]) -> None:
    """An E-Token of one row."""
    architecture["peft_num_tokens"] = 1


@dataclass(frozen=True)
class Variant:
    """What changes in the model's architecture and in the recipe, there also in the pretraining of the eyes."""

    change: Change = _as_shipped
    recipe: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)


SELF_SUPERVISED = {"self_supervised": True, "steps": 6000, "frames": 160_000, "batch_size": 256, "motion_weight": 10.0}
VARIANTS = {
    "as shipped": Variant(),
    "one global E": Variant(recipe={"token_drop": 1.0}),
    "perception mutual": Variant(_mutual),
    "no state tokens, mean readout": Variant(_without_state_tokens),
    "one row instead of four": Variant(_one_token),
    "self-supervised features": Variant(vision=SELF_SUPERVISED),
    "self-supervised features, images alone": Variant(vision={**SELF_SUPERVISED, "motion_weight": 0.0}),
}


def train_variant(name: str, run: Path, samples: int, device: torch.device) -> tuple[Path, float]:
    """Train a variant in a folder of its own in `run`. Its model's folder, and the motion R2 of its features."""
    torch.set_num_threads(1)
    variant, recipe = VARIANTS[name], load_recipe(RECIPE)
    recipe = replace(recipe, samples=samples, vision=replace(recipe.vision, **variant.vision), **variant.recipe)
    description = yaml.safe_load((RECIPE.parent / recipe.model).read_text())
    variant.change(description["architecture"])
    settings = yaml.safe_dump({"model": description, "recipe": asdict(recipe), "device": str(device)}, sort_keys=False)
    out = run / f"{name.replace(' ', '_').replace(',', '')}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"
    out.mkdir(exist_ok=True)
    for eye in ("vision.safetensors", *([] if variant.vision else ["features.safetensors"])):
        if not (out / eye).exists():
            (out / eye).symlink_to((run / eye).resolve())
    path = out / recipe.model
    path.write_text(yaml.safe_dump(description, sort_keys=False))
    trainee = train(path, recipe, open_sources(recipe.seed), out, lambda line: _say(name, line), device)
    if recipe.token_drop == 1.0:
        torch.nn.init.zeros_(trainee.bank.offset_of.weight)
    write_model(trainee, recipe, out, out / "export")
    return out / "export", trainee.motion_r2


def _say(name: str, line: dict[str, object]) -> None:
    step = line.get("step")
    if isinstance(step, int) and step % 100 == 0:
        print(f"{name}: {line}", flush=True)


def one_arm(model: Path, arm: Embodiments, seed: int, episodes: int) -> dict[str, dict[str, float]]:
    """Success and action error of one arm with each token, on the CPU."""
    torch.set_num_threads(1)
    policy = load_policy(model, "cpu")
    shipped, params = arms.shipped_token(policy), arms.recommended(policy)
    learn = arms.split_of(policy, fill_buffer(policy, BENCH, arm, shipped, seed, 0.5), params).learn
    losses = arms.losses_of(policy, learn, params)
    rows = torch.arange(len(losses))
    best_known, _ = find_best_known(policy, losses, rows, shipped, seed)
    stepped, _ = descend(policy, losses, rows, best_known, params, seed)
    tokens = {"e_0": policy.e_0, "shipped": shipped, "best_known": best_known, "stepped": stepped}
    tokens["oracle"] = arms.best_by_labels(policy, arm, list(tokens.values()), seed)
    return {
        stage: {
            "success": float(arms.successes(policy, arm, token, episodes, seed).mean()),
            "action_error": float(action_error(policy, BENCH, arm, token[None], seed, arms.ERROR_SAMPLES)[0]),
        }
        for stage, token in tokens.items()
    }


def summary(found: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Means with intervals over arms."""

    def column(stage: str, what: str) -> Any:
        return np.array([item[stage][what] for item in found])

    first = max(("e_0", "shipped"), key=lambda stage: column(stage, "success").mean())
    stages = {"before": first, "best_known": "best_known", "stepped": "stepped", "oracle": "oracle"}
    result: dict[str, Any] = {
        what: {name: arms.interval(column(stage, what)) for name, stage in stages.items()}
        for what in ("success", "action_error")
    }
    result["success"]["gain"] = arms.interval(column("stepped", "success") - column(first, "success"))
    return {"before_is": first, **result}


def make_eyes(recipe: Recipe, run: Path, device: torch.device) -> None:
    """Both eyes, which all rows share."""
    run.mkdir(parents=True, exist_ok=True)
    prepare(recipe, RECIPE, open_sources(recipe.seed), run, lambda line: _say("eyes", line), device)


def main(
    run: Annotated[Path, typer.Option(help="Folder of the training runs; a second call goes on.")] = Path(
        "runs/retrained"
    ),
    samples: Annotated[int, typer.Option(help="Of each training.")] = SAMPLES,
    seed: Annotated[int, typer.Option(help="Any seed gives other arms.")] = 1,
    embodiments: Annotated[int, typer.Option(help="How many arms.")] = 8,
    episodes: Annotated[int, typer.Option(help="Of each arm and token.")] = 50,
    jobs: Annotated[int, typer.Option(help="Processes of one thread each.")] = os.cpu_count() or 1,
    device: Annotated[Device, typer.Option(help="Of the trainings.")] = "cpu",
    only: Annotated[list[str] | None, typer.Option(metavar="ROW", help="These rows alone; repeat it.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Train the variants and measure them."""
    unknown = sorted(set(only or ()) - set(VARIANTS))
    if unknown:
        raise typer.BadParameter(f"no row {', '.join(unknown)}; there are {'; '.join(VARIANTS)}")
    names, where = [name for name in VARIANTS if not only or name in only], find_device(device)
    make_eyes(load_recipe(RECIPE), run, where)
    drawn = seed_of(seed, Part.ON_ROBOT_ARMS)
    unseen = arms.unseen_arms(embodiments, drawn)
    seeds = [seed_of(drawn, Part.ROBOT, number) for number in range(embodiments)]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        trainings = {name: pool.submit(train_variant, name, run, samples, where) for name in names}
        measured = {}
        for name, training in trainings.items():
            model, motion_r2 = training.result()
            found = [pool.submit(one_arm, model, unseen[i], seeds[i], episodes) for i in range(embodiments)]
            measured[name] = (motion_r2, found)
        result = {
            name: {"motion_r2": motion_r2, **summary([future.result() for future in found])}
            for name, (motion_r2, found) in measured.items()
        }
    print(json.dumps(result, indent=2))
    machine.write(json_file, result)


if __name__ == "__main__":
    typer.run(main)
