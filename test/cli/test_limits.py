"""`vla-align limits`: the file is measured again, also where it is of other checks, and left alone where it fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from vla_align_ros.cli.main import app
from vla_align_ros.limits import BY_NAME
from vla_align_ros.policy.statistics import load_alignment_stats
from vla_align_ros.zoo import find_model


@pytest.mark.slow
def test_limits_are_measured_again_of_a_file_of_other_checks(tmp_path: Path) -> None:
    model = Path(shutil.copytree(find_model("tiny"), tmp_path / "tiny"))
    (model / "alignment_stats.json").write_text(json.dumps({"format": 1, "motion_r2": 0.7}))
    result = CliRunner().invoke(app, ["limits", str(model), "--source", "{bench: reach2, validation_robots: 1}"])
    assert result.exit_code == 0, result.output
    assert "1 validation robots, 24 are needed" in result.stderr
    stats = load_alignment_stats(model / "alignment_stats.json")
    assert stats.motion_r2 == 0.7
    assert {limit.robots for limit in stats.limits.values()} == {1}
    shipped = load_alignment_stats(find_model("tiny") / "alignment_stats.json").limits
    for name, limit in stats.limits.items():  # one of the robots that the shipped limits were measured on
        if name != "joint_strays":
            assert BY_NAME[name].worst([limit.value, shipped[name].value]) == shipped[name].value, name


@pytest.mark.slow
def test_limits_of_a_task_that_the_model_does_not_recommend_are_measured_too(tmp_path: Path) -> None:
    model = Path(shutil.copytree(find_model("tiny"), tmp_path / "tiny"))
    description = yaml.safe_load((model / "model.yaml").read_text())
    description["recommended"] |= {"lambda_perc": 1.0, "lambda_dyn": 0.0, "lambda_inv": 0.0}
    (model / "model.yaml").write_text(yaml.safe_dump(description))
    result = CliRunner().invoke(app, ["limits", str(model), "--source", "{bench: reach2, validation_robots: 1}"])
    assert result.exit_code == 0, result.output
    limits = load_alignment_stats(model / "alignment_stats.json").limits
    assert {limit.robots for limit in limits.values()} == {1}
    assert 1.0 < limits["actions_do_not_fit"].value < BY_NAME["actions_do_not_fit"].most


def test_a_model_is_found_by_its_name_in_the_zoo() -> None:
    result = CliRunner().invoke(app, ["limits", "pi0"])
    assert result.exit_code == 2
    assert "models/pi0/alignment_stats.json: No such file" in result.output


def test_a_model_whose_recipe_names_no_source_asks_for_one(tmp_path: Path) -> None:
    model = Path(shutil.copytree(find_model("tiny"), tmp_path / "tiny"))
    result = CliRunner().invoke(app, ["limits", str(model)])
    assert result.exit_code == 2
    assert "recipe.yaml names no source: say by --source" in result.output


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["limits", str(tmp_path)])
    assert result.exit_code == 2
    assert "alignment_stats.json: No such file or directory: does this model align?" in result.output
