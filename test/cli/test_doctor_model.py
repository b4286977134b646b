"""`vla-align doctor --model`: what is wrong with a folder, on this machine, for its robot."""

from __future__ import annotations

import dataclasses
import json
import shutil
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from vla_align_ros.cli import doctor_model
from vla_align_ros.cli.convert import convert
from vla_align_ros.cli.doctor import doctor
from vla_align_ros.cli.doctor_model import Check, check_model
from vla_align_ros.cli.main import app
from vla_align_ros.policy import Policy, load_policy
from vla_align_ros.policy.load import memory_of, read_folder
from vla_align_ros.types import ActionChunk, Observation

TINY = Path(__file__).resolve().parents[2] / "models" / "tiny"
SO101 = TINY.parents[1] / "config" / "robots" / "so101.yaml"
shell = CliRunner()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


def findings(folder: Path) -> dict[str, Check]:
    return {check.name: check for check in check_model(str(folder))}


def edit(path: Path, **changes: Any) -> None:
    """Change a part of `state` in norm_stats.json, or of model.yaml."""
    raw = yaml.safe_load(path.read_text())
    target = raw["norm_stats"]["state"] if path.suffix == ".json" else raw
    for key, value in changes.items():
        target[key] = target[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(raw))


def test_a_sound_folder_is_said_to_be_so_point_by_point(folder: Path) -> None:
    found = findings(folder)
    assert list(found) == ["weights", "tokenizer", "statistics", "joints", "memory", "model", "rate"]
    assert {check.status for check in found.values()} == {"ok"}
    assert "tensors in F32, 0.0" in found["weights"].found
    assert found["weights"].found.endswith("as described")
    assert "position of these joints on joint_states: shoulder, elbow" in found["joints"].found
    assert "float32 takes 0.0 GB, bfloat16 takes 0.0 GB" in found["memory"].found
    assert "4 commands at 10 Hz last 400 ms" in found["rate"].found


def test_a_folder_that_is_none_has_one_finding(tmp_path: Path) -> None:
    (check,) = check_model(str(tmp_path / "none"))
    assert (check.status, "none" in check.found) == ("fail", True)


def test_each_file_that_is_wrong_is_found_and_nothing_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vla_align_ros.policy.load_policy", lambda *_: pytest.fail("it was loaded"))
    edit(folder / "norm_stats.json", std=[1.0, 0.0])
    edit(folder / "model.yaml", weights={"sha256": "0" * 64})
    (folder / "tokenizer.json").write_text("{}")
    found = findings(folder)
    assert {name for name, check in found.items() if check.status == "fail"} == {"weights", "tokenizer", "statistics"}
    assert "described is 0000" in found["weights"].found
    assert "state: std is 0 (or next to it) for field 'elbow'" in found["statistics"].found
    assert "not a tokenizers file" in found["tokenizer"].found
    assert "model" not in found


def test_statistics_without_spread_that_are_not_used_warn_by_joint(folder: Path) -> None:
    edit(folder / "norm_stats.json", q01=[0.5, -1.0], q99=[0.5, 1.0])
    check = findings(folder)["statistics"]
    assert check.status == "warn"
    assert "state: q01 and q99 are equal (or nearly) for field 'shoulder'" in check.found


def test_memory_decides_what_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    read = read_folder(folder)
    assert doctor_model.free_bytes(cpu) > 2**20
    monkeypatch.setattr("vla_align_ros.policy.load.check_dtype", lambda *_: None)
    large = memory_of(read.config.architecture, "float32")
    for free, dtype, status in ((10**9, "bfloat16", "ok"), (large, "bfloat16", "ok"), (10**6, None, "fail")):
        monkeypatch.setattr(doctor_model, "free_bytes", lambda _, free=free: free)
        best, check = doctor_model.check_memory(read, cpu)
        assert (best, check.status) == (dtype, status)
    assert "stop what else takes memory" in check.todo
    found = findings(folder)
    assert (found["memory"].status, "model" in found) == ("fail", False)


def test_chunks_that_would_be_late_are_warned_of(folder: Path) -> None:
    edit(folder / "model.yaml", robot={"control_rate_hz": 10_000.0, "execute": 1})
    check = findings(folder)["rate"]
    assert (check.status, "the robot stops between chunks" in check.todo) == ("warn", True)
    edit(folder / "model.yaml", robot={"control_rate_hz": 10.0, "execute": 8})
    check = findings(folder)["rate"]
    assert (check.status, "robot.execute is 8, the whole action_horizon" in check.todo) == ("warn", True)


def test_the_rate_is_that_of_new_pictures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, infer = [], Policy.infer

    def watched(policy: Policy, observation: Observation, *more: Any, **named: Any) -> ActionChunk:
        pictures.append(b"".join(image.tobytes() for image in observation.images.values()))
        return infer(policy, observation, *more, **named)

    monkeypatch.setattr(Policy, "infer", watched)
    doctor_model.check_rate(load_policy(folder, "cpu"))
    assert len(pictures) == len(set(pictures)) == 1 + doctor_model.TIMED_CHUNKS, "one seen before is not encoded again"


def test_the_shell_says_all_of_it_and_fails_where_one_fails(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    result = shell.invoke(app, ["doctor", "--model", str(folder), "--json"])
    assert result.exit_code == 1
    assert {"weights", "tokenizer", "memory", "torch"} <= {check["name"] for check in json.loads(result.stdout)}
    for wrong in (["--robot", str(folder / "none.yaml")], ["--no-state-in-prompt"]):
        assert shell.invoke(app, ["doctor", "--model", str(folder), *wrong]).exit_code == 2


def test_a_foreign_folder_is_told_what_convert_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr("vla_align_ros.cli.doctor.check_model", lambda _, settings: told.append(settings) or [])
    given = ["--robot", str(SO101), "--action-horizon", "6", "--no-state-in-prompt"]
    given += ["--tokenizer", "tokenizer.json", "--norm-stats", "norm_stats.json"]
    shell.invoke(app, ["doctor", "--model", str(tmp_path), *given])
    assert set(signature(convert).parameters) - {"source", "target"} <= set(signature(doctor).parameters)
    expected = (Path("tokenizer.json"), Path("norm_stats.json"), 6, False)
    assert [dataclasses.astuple(settings)[1:] for settings in told] == [expected]
