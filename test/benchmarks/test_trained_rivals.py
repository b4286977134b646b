"""What the rivals of models/so101 are trained on."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
import yaml
from trained_rivals import VIEWS, Kind, OwnMotion, changed, sources_of, take_policy, written

from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.tasks import Task
from vla_align_ros.cli.sources import open_sources
from vla_align_ros.experience.source import Labels
from vla_align_ros.training.base import model_of
from vla_align_ros.training.progress import save_step
from vla_align_ros.training.recipe import load_recipe

RECIPE = Path(__file__).resolve().parents[2] / "config" / "train" / "so101.yaml"


def test_a_bank_of_virtual_robots_is_of_the_unshifted_arm_alone_and_of_the_same_size(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE)
    few = replace(recipe, source=recipe.source | {"robots": 5, "validation_robots": 2})
    path, found = written(changed(few, Kind.VIRTUAL), RECIPE, Kind.VIRTUAL, tmp_path)
    assert load_recipe(path) == found
    assert replace(found, model=recipe.model, source=recipe.source) == recipe, "nothing else differs"
    sources = open_sources(found.source, model_of(found, path), found.seed)
    first, *others = sources.training.robots
    assert len(others) == 4
    assert all(name.startswith(f"{first}/virtual/") for name in others)
    assert model_of(found, path).views.keys() == VIEWS.keys()
    families = {family for names in sources.training.shifts.families for family in names}
    assert families <= {"camera_roll_rad", "camera_mirrors", "joint_zeros_rad"}


@pytest.mark.parametrize("kind", [Kind.RANDOMISED, Kind.UNSHIFTED])
def test_without_tokens_nothing_but_actions_is_learned(kind: Kind) -> None:
    recipe = load_recipe(RECIPE)
    found = changed(recipe, kind)
    assert found.token_drop == 1.0, "every sample has E_0"
    assert (found.lambda_perc, found.lambda_dyn, found.lambda_inv, found.alignment_samples) == (0.0, 0.0, 0.0, 0)
    assert found.samples == recipe.samples
    assert (found.source == recipe.source) == (kind is Kind.RANDOMISED)


def test_what_leaves_out_a_part_of_the_last_stage_leaves_out_nothing_else() -> None:
    recipe = load_recipe(RECIPE)
    assert changed(recipe, Kind.UNTRAINED_ON) == replace(recipe, alignment_samples=0)
    assert changed(recipe, Kind.JOINT_TIMES) == replace(recipe, late_time_share=0.0)
    assert changed(recipe, Kind.OWN_MOTION) == recipe


def test_robots_have_their_own_tokens_whichever_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    used = list[torch.Tensor]()

    def gathered(policy: object, bench: object, arms: object, tokens: torch.Tensor, *rest: object) -> list[object]:
        used.append(tokens)
        return []

    monkeypatch.setattr("vla_align_ros.bench.so101.source.fill_buffers", gathered)
    arms = {"a": Embodiment(), "b": Embodiment(), "c": Embodiment()}
    source = OwnMotion(arms, {Task.REACH: 1.0}, Labels((), None, None))
    bank = torch.arange(6.0).reshape(3, 1, 2)
    policy = SimpleNamespace(e_0=torch.ones(1, 2), alignment=SimpleNamespace(bank=bank))
    source.experiences([2, 0], policy, torch.zeros(2, 1, 2), 0, 4)
    assert used[0].tolist() == [[[5.0, 6.0]], [[1.0, 2.0]]]


def test_only_own_motion_has_robots_with_their_own_tokens(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE)
    few = replace(recipe, source=recipe.source | {"robots": 3, "validation_robots": 2})
    for kind in (Kind.UNTRAINED_ON, Kind.JOINT_TIMES, Kind.OWN_MOTION):
        path, found = written(changed(few, kind), RECIPE, kind, tmp_path)
        sources = sources_of(kind, found, path)
        assert isinstance(sources.training, OwnMotion) == (kind is Kind.OWN_MOTION)
        assert len(sources.training.robots) == 3


def test_a_run_begins_with_the_policy_of_another(tmp_path: Path) -> None:
    recipe = replace(load_recipe(RECIPE), samples=256, model="own_motion.model.yaml")
    given, run = tmp_path / "so101", tmp_path / "own_motion"
    given.mkdir()
    weights = torch.nn.Linear(2, 2)
    for name in ("norm_stats.json", "alignment.safetensors", "vision.safetensors"):
        (given / name).write_text(name)

    def write(step: int, **differs: Any) -> None:
        told = asdict(replace(recipe, model="so101.model.yaml", **differs)) | {"prolonged": []}
        (given / "recipe.yaml").write_text(yaml.safe_dump(told))
        save_step(given / "policy.safetensors", step, weights, torch.optim.AdamW(weights.parameters()))

    write(1)
    with pytest.raises(typer.BadParameter, match="it is at step 1"):
        take_policy(given, recipe, run)
    write(2, seed=3, lambda_perc=0.7)
    with pytest.raises(typer.BadParameter, match="another seed and lambda_perc"):
        take_policy(given, recipe, run)
    write(2, alignment_samples=512)
    stages = ("vision", "policy", "policy", "alignment")
    (given / "log.jsonl").write_text(
        "".join(f'{{"stage": "{stage}", "step": {i}}}\n' for i, stage in enumerate(stages))
    )
    take_policy(given, recipe, run)
    assert sorted(path.name for path in run.iterdir()) == ["log.jsonl", "policy.safetensors", "vision.safetensors"]
    steps = [json.loads(line) for line in (run / "log.jsonl").open()]
    assert [(line["stage"], line["step"]) for line in steps] == [("policy", 1), ("policy", 2)], "for its curves"
