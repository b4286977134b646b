"""Two processes that train together do what one does, as `accelerate launch` starts them; and what many cannot do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import model_yaml
from safetensors.torch import load_file

from vla_align_ros.cli.main import app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RECIPE = {
    "model": "model.yaml",
    "source": {"bench": "reach2", "robots": 3, "validation_robots": 1},
    "vision": {"steps": 2, "batch_size": 8, "frames": 32},
    "samples": 24,
    "alignment_samples": 16,
    "batch_size": 4,
    "batch_parts": 2,
    "shard_samples": 8,
    "first_robot_share": 0.2,
}
# Of MULTI_CPU accelerate makes one process, unless MPI starts them.
TWO_CPUS = {"distributed_type": "MULTI_GPU", "use_cpu": True, "num_processes": 2, "num_machines": 1, "machine_rank": 0}


def recipe(folder: Path, **changes: Any) -> Path:
    (folder / "model.yaml").write_text(yaml.safe_dump(model_yaml()))
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE | changes))
    return path


def launched(folder: Path, run: Path, path: Path) -> subprocess.CompletedProcess[str]:
    """`vla-align train` in two processes."""
    (folder / "two.yaml").write_text(yaml.safe_dump(TWO_CPUS | {"main_process_port": 0, "mixed_precision": "no"}))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(folder / "two.yaml")]
    command = ["-m", "vla_align_ros.cli.main", "train", "--config", str(path), "--run", str(run)]
    return subprocess.run([*launch, *command], capture_output=True, text=True, timeout=500, env=os.environ)


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    path = recipe(tmp_path)
    result = launched(tmp_path, tmp_path / "two", path)
    assert result.returncode == 0, result.stderr
    alone = CliRunner().invoke(app, ["train", "--config", str(path), "--run", str(tmp_path / "one")])
    assert alone.exit_code == 0, alone.output
    for name in ("policy.safetensors", "alignment.safetensors"):
        one, two = (load_file(tmp_path / run / name) for run in ("one", "two"))
        assert one.keys() == two.keys()
        assert max(float((one[key] - two[key]).abs().max()) for key in one if not key.startswith("optimizer")) < 1e-5
    logs = [[json.loads(line) for line in (tmp_path / run / "log.jsonl").open()] for run in ("one", "two")]
    assert [next(x["processes"] for x in lines if x["stage"] == "source") for lines in logs] == [1, 2]
    steps = [[line for line in lines if line["stage"] in ("policy", "alignment")] for lines in logs]
    assert len(steps[0]) == len(steps[1]) == 6 + 4, "one process writes the log"
    for one, two in zip(*steps, strict=True):
        assert one.keys() == two.keys()
        assert all(two[key] == pytest.approx(one[key], abs=1e-5) for key in one if key != "stage")


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    result = launched(tmp_path, tmp_path / "run", recipe(tmp_path, batch_parts=1))
    assert result.returncode != 0
    assert "cannot train: 2 processes cannot share a batch of 1 parts: set batch_parts to a multiple" in result.stderr
