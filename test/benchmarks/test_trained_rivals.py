"""What the rivals of models/so101 are trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from trained_rivals import VIEWS, Kind, changed, written

from vla_align_ros.cli.sources import open_sources
from vla_align_ros.training.base import model_of
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
