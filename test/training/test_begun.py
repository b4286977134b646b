"""A run goes on with what it was begun with; it may go on for longer, and then says so."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from builders import model_yaml, write_model
from safetensors.torch import load_file, save_file

from vla_align_ros.bench.reach2.source import open_sources
from vla_align_ros.policy.config import ModelConfig, load_model_description
from vla_align_ros.training.begun import go_on
from vla_align_ros.training.export import write_model as write_trained
from vla_align_ros.training.recipe import BaseRecipe, Recipe, RecipeError, VisionRecipe, load_recipe
from vla_align_ros.training.train import train

BEGUN = Recipe(source={"bench": "reach2"}, model="model.yaml", samples=40, alignment_samples=16, batch_size=4)
OTHERS = {
    "source": {"bench": "so101"},
    "model": "other.yaml",
    "base": BaseRecipe("other"),
    "vision": VisionRecipe(steps=1),
    "bank_robots": 3,
    "token_drop": 0.4,
    "late_time_share": 0.4,
}
MAY_GROW = ("samples", "alignment_samples")


def silent(line: dict[str, object]) -> None:
    """For a run whose log nobody reads."""


@pytest.fixture
def config(tmp_path: Path) -> ModelConfig:
    path = tmp_path / "described.yaml"
    path.write_text(yaml.safe_dump(model_yaml()))
    return load_model_description(path)


def other(recipe: Recipe, name: str) -> Recipe:
    """The same but for one key."""
    changes: dict[str, Any] = {name: OTHERS[name] if name in OTHERS else getattr(recipe, name) + 1}
    return dataclasses.replace(recipe, **{"model": None, **changes} if name == "base" else changes)


def other_length(recipe: Recipe, name: str, more: int) -> Recipe:
    changes: dict[str, Any] = {name: getattr(recipe, name) + more}
    return dataclasses.replace(recipe, **changes)


@pytest.mark.parametrize("name", [item.name for item in dataclasses.fields(Recipe) if item.name not in MAY_GROW])
def test_a_run_does_not_go_on_with_anything_else(tmp_path: Path, config: ModelConfig, name: str) -> None:
    begun = dataclasses.replace(BEGUN, batch_size=12, shard_samples=12) if name == "batch_parts" else BEGUN
    go_on(tmp_path, begun, config, silent)
    before = (tmp_path / "recipe.yaml").read_text()
    with pytest.raises(RecipeError, match=rf"begun with another .*\b{name}\b.*give each run a folder of its own"):
        go_on(tmp_path, other(begun, name), config, silent)
    assert (tmp_path / "recipe.yaml").read_text() == before
    go_on(tmp_path, begun, config, silent)


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": 3},
        {"shard_samples": 3},
        {"batch_parts": 3},
        {"warmup_steps": 0},
        {"token_drop": 1.1},
        {"vision": {"steps": 0}},
    ],
)
def test_a_recipe_that_could_not_be_trained_is_refused_before_anything_is(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**dataclasses.asdict(BEGUN), **wrong}))
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        load_recipe(path)


def test_a_run_does_not_go_on_with_another_network_or_robot(tmp_path: Path, config: ModelConfig) -> None:
    go_on(tmp_path, BEGUN, config, silent)
    slower = dataclasses.replace(config.robot, control_rate_hz=5.0)
    with pytest.raises(RecipeError, match="begun with another robot of the model"):
        go_on(tmp_path, BEGUN, dataclasses.replace(config, robot=slower), silent)
    go_on(tmp_path, BEGUN, dataclasses.replace(config, description="what it is called is no matter"), silent)


@pytest.mark.parametrize("name", MAY_GROW)
def test_a_run_is_prolonged_and_not_shortened(tmp_path: Path, config: ModelConfig, name: str) -> None:
    said: list[dict[str, object]] = []
    go_on(tmp_path, BEGUN, config, said.append)
    longer, still_longer = (other_length(BEGUN, name, more) for more in (8, 16))
    go_on(tmp_path, longer, config, said.append)
    assert "prolonged" not in yaml.safe_load((tmp_path / "recipe.yaml").read_text()), "nothing was trained yet"
    for stage, step in (("policy", 12), ("alignment", 3)):
        save_file({"step": torch.tensor(step)}, tmp_path / f"{stage}.safetensors")
    go_on(tmp_path, still_longer, config, said.append)
    go_on(tmp_path, still_longer, config, said.append)
    stage, step = {"samples": ("policy", 12), "alignment_samples": ("alignment", 3)}[name]
    entry = {"of": stage, "at_step": step, "samples_before": getattr(longer, name)}
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["prolonged"] == [entry]
    assert said == [{"stage": "prolonged", **entry}]
    assert (tmp_path / "alignment.safetensors").exists() == (stage == "alignment")
    with pytest.raises(RecipeError, match=rf"begun with {name} .*may grow and not shrink"):
        go_on(tmp_path, BEGUN, config, said.append)


@pytest.mark.slow
def test_a_prolonged_policy_gets_its_alignment_stage_anew_and_its_model_says_so(tmp_path: Path) -> None:
    folder, run, path = tmp_path / "base", tmp_path / "run", tmp_path / "recipe.yaml"
    write_model(folder, use_peft_prefix_token=False, alignment=None)
    vision = VisionRecipe(steps=2, batch_size=8, frames=32)
    recipe = Recipe({}, base=BaseRecipe(str(folder)), vision=vision, samples=8, batch_size=4, shard_samples=8)
    recipe = dataclasses.replace(recipe, alignment_samples=8)
    sources, cpu = open_sources(0, robots=2, validation_robots=1), torch.device("cpu")
    train(path, recipe, sources, run, silent, cpu)
    trainee = train(path, dataclasses.replace(recipe, samples=12), sources, run, silent, cpu)
    lines = [json.loads(line) for line in (run / "log.jsonl").open()]
    steps = {stage: [line["step"] for line in lines if line["stage"] == stage] for stage in ("policy", "alignment")}
    assert steps == {"policy": [0, 1, 2], "alignment": [0, 1, 0, 1]}
    assert int(load_file(run / "policy.safetensors")["step"]) == 3
    write_trained(trainee, recipe, run, tmp_path / "zoo")
    shipped = yaml.safe_load((tmp_path / "zoo" / "recipe.yaml").read_text())
    assert shipped["samples"] == 12
    assert shipped["prolonged"] == [{"of": "policy", "at_step": 2, "samples_before": 8}]
