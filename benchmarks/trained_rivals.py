"""Trains what `models/so101` is compared with: by its recipe, so the same samples (if not told), network and seed, but
for one thing.

    python benchmarks/trained_rivals.py randomised --run runs/randomised       # a second call goes on
    python benchmarks/alignment.py --family all --randomised runs/randomised/export
    python benchmarks/trained_rivals.py virtual --run runs/virtual --samples 800000
    python benchmarks/trained_rivals.py unshifted --run runs/unshifted
    python benchmarks/virtual_robots.py --virtual runs/virtual/export --none runs/unshifted/export --real so101
    python benchmarks/trained_rivals.py own_motion --run runs/own_motion --policy runs/so101
    python benchmarks/alignment.py --family wrist_camera --model runs/own_motion/export

randomised   every sample has the same token, and the actions are all that it learns: domain randomisation
virtual      data of the unshifted arm alone, a bank of virtual robots made of it (VIRTUAL), and the view of its picture
             that all of them have
unshifted    data of the unshifted arm alone, no bank, the actions are all that it learns

Three differ in the last stage, in which the alignment expert alone is trained; `--policy` takes the stages before it
from the model's own run. They come without limits: `vla-align limits runs/own_motion/export` measures them.

untrained_on   no last stage
joint_times    flow times there as in the joint training, instead of mostly near 1
own_motion     experience there of robots that have their own tokens, never a wrong one
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import machine
import typer
import yaml
from torch import Tensor

from vla_align_ros.bench.so101.source import So101Source
from vla_align_ros.cli.sources import open_sources
from vla_align_ros.experience.source import Sources
from vla_align_ros.policy import Policy
from vla_align_ros.policy.load import Device, find_device
from vla_align_ros.training.base import model_of
from vla_align_ros.training.begun import RECIPE_FILE
from vla_align_ros.training.export import export, write_model
from vla_align_ros.training.progress import LAST_STAGE_FILE, LOG_FILE, POLICY_FILE, saved_step
from vla_align_ros.training.recipe import Recipe, load_recipe
from vla_align_ros.training.train import train
from vla_align_ros.types import Experience

VIEWS = {"wrist": {"circle": 0.5}}
VIRTUAL = {  # of training's ranges of the same shifts of a real arm, those that a fixed map is exact for
    "family_share": 0.5,
    "camera_roll_rad": {"wrist": 3.1416},
    "camera_mirrors": {"wrist": 0.5},
    "joint_zeros_rad": 0.12,
}


LAST_STAGE_KEYS = ("alignment_samples", "late_time_share")


class Kind(Enum):
    """What is changed."""

    RANDOMISED = "randomised"
    VIRTUAL = "virtual"
    UNSHIFTED = "unshifted"
    UNTRAINED_ON = "untrained_on"
    JOINT_TIMES = "joint_times"
    OWN_MOTION = "own_motion"


OF_THE_LAST_STAGE = (Kind.UNTRAINED_ON, Kind.JOINT_TIMES, Kind.OWN_MOTION)


class OwnMotion(So101Source):
    """Robots at work with their own tokens, whichever are asked for."""

    def experiences(
        self,
        robots: Sequence[int],
        policy: Policy,
        tokens: Tensor,
        seed: int,
        count: int,
        exploration_fraction: float = 0.5,
    ) -> list[list[Experience]]:
        own = policy.e_0 + policy.alignment.bank[list(robots)]
        return super().experiences(robots, policy, own, seed, count, exploration_fraction)


def changed(recipe: Recipe, kind: Kind) -> Recipe:
    """The recipe of a kind."""
    if kind is Kind.RANDOMISED:
        return actions_alone(recipe)
    if kind is Kind.UNTRAINED_ON:
        return replace(recipe, alignment_samples=0)
    if kind is Kind.JOINT_TIMES:
        return replace(recipe, late_time_share=0.0)
    if kind is Kind.OWN_MOTION:
        return recipe
    given = recipe.source
    source: dict[str, Any] = {"bench": given["bench"], "tasks": given["tasks"], "robots": 1, "validation_robots": 1}
    source["families"] = []
    if kind is Kind.UNSHIFTED:
        return actions_alone(replace(recipe, source=source, bank_robots=1))
    source["virtual"] = {**VIRTUAL, "robots": given["robots"] - 1, "validation_robots": given["validation_robots"]}
    return replace(recipe, source=source)


def actions_alone(recipe: Recipe) -> Recipe:
    """E_0 for every robot, and nothing that an alignment needs."""
    return replace(recipe, token_drop=1.0, lambda_perc=0.0, lambda_dyn=0.0, lambda_inv=0.0, alignment_samples=0)


def written(recipe: Recipe, recipe_path: Path, kind: Kind, folder: Path) -> tuple[Path, Recipe]:
    """The recipe and the model that it names as files of their own."""
    described = yaml.safe_load((recipe_path.parent / str(recipe.model)).read_text())
    if kind is Kind.VIRTUAL:
        described["views"] = VIEWS
    folder.mkdir(parents=True, exist_ok=True)
    model, path = folder / f"{kind.value}.model.yaml", folder / f"{kind.value}.yaml"
    recipe = replace(recipe, model=model.name)
    model.write_text(yaml.safe_dump(described, sort_keys=False))
    path.write_text(yaml.safe_dump(asdict(recipe), sort_keys=False))
    return path, recipe


def sources_of(kind: Kind, recipe: Recipe, path: Path) -> Sources:
    """Those of a recipe that lies at `path`."""
    sources = open_sources(recipe.source, model_of(recipe, path), recipe.seed)
    if kind is not Kind.OWN_MOTION:
        return sources
    assert isinstance(sources.training, So101Source)
    parts = {field.name: getattr(sources.training, field.name) for field in fields(sources.training)}
    return sources._replace(training=OwnMotion(**parts))


def take_policy(given: Path, recipe: Recipe, run: Path) -> None:
    """Begin `run` with the eyes and the policy of a run by the same recipe, but for the last stage. Raises BadParameter
    for another one, and where its policy is not trained to the end."""
    told = yaml.safe_load((given / RECIPE_FILE).read_text())
    other = [
        key for key, value in asdict(recipe).items() if key not in (*LAST_STAGE_KEYS, "model") and told[key] != value
    ]
    if other:
        raise typer.BadParameter(f"{given}: expected a run by the same recipe, it has another {' and '.join(other)}")
    step = saved_step(given / POLICY_FILE)
    if step != recipe.samples // recipe.batch_size:
        raise typer.BadParameter(f"{given}: expected a policy of {recipe.samples} samples, it is at step {step}")
    begun = run.with_name(f".{run.name}.new")
    shutil.rmtree(begun, ignore_errors=True)
    begun.mkdir(parents=True)
    for path in given.glob("*.safetensors"):
        if path.name != LAST_STAGE_FILE:
            shutil.copyfile(path, begun / path.name)
    lines = (given / LOG_FILE).read_text().splitlines(keepends=True)
    (begun / LOG_FILE).write_text("".join(line for line in lines if json.loads(line)["stage"] == "policy"))
    begun.rename(run)


def main(
    kind: Annotated[Kind, typer.Argument(help="What is changed.")],
    run: Annotated[Path, typer.Option(help="Folder of the training run.")],
    recipe_path: Annotated[Path, typer.Option("--recipe", help="Of the model that it is compared with.")] = (
        machine.ROOT / "config" / "train" / "so101.yaml"
    ),
    samples: Annotated[
        int | None, typer.Option(min=1, help="Of the policy; as the recipe says where left out.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="A run whose eyes and policy are taken, as they are.")] = None,
    device: Annotated[Device, typer.Option(help="Where it trains.")] = "cpu",
) -> None:
    """Train it and write `RUN/export`. `randomised` and `unshifted` act and do not align."""
    given = load_recipe(recipe_path)
    recipe = changed(given if samples is None else replace(given, samples=samples), kind)
    path, recipe = written(recipe, recipe_path, kind, run.with_name(f"{run.name}.of"))
    if policy is not None and kind not in OF_THE_LAST_STAGE:
        raise typer.BadParameter(
            f"--policy: {kind.value} differs before the last stage, so it needs a policy of its own"
        )
    if policy is not None and not run.exists():
        take_policy(policy, recipe, run)
    sources = sources_of(kind, recipe, path)
    trainee = train(path, recipe, sources, run, _say, find_device(device))
    if kind is Kind.VIRTUAL:
        export(trainee, recipe, run, run.with_name(f"{run.name}.model"), _say)
    else:
        write_model(trainee, recipe, run, run / "export")
    print(run / "export")


def _say(line: dict[str, object]) -> None:
    step = line.get("step")
    if not isinstance(step, int) or step % 100 == 0:
        print(line, flush=True)


if __name__ == "__main__":
    typer.run(main)
