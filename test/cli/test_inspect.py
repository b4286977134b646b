"""`vla-align inspect` from real files: what is in a bag or a LeRobotDataset, and what the joints do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from lerobot_files import write_dataset
from recordings import JOINTS, record, run_of
from typer.testing import CliRunner, Result

from vla_align_ros.bench.reach2.embodiment import unshifted
from vla_align_ros.cli.main import app

TINY = Path(__file__).parents[2] / "models" / "tiny"
SO101 = Path(__file__).parents[2] / "config" / "robots" / "so101.yaml"


def inspect(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


@pytest.mark.slow
def test_a_bag_says_how_far_each_joint_goes_for_its_command(tmp_path: Path) -> None:
    weak = dataclasses.replace(unshifted(), gain=np.array([[1.0, 0.6]]))
    bag = record(tmp_path / "bag", run_of(weak, seconds=40.0, episode_s=4.0, latency_s=0.001))
    result = inspect("--model", "tiny", bag)
    assert result.exit_code == 0, result.output
    assert f"joints: {JOINTS} (sensor_msgs/msg/JointState)" in result.stdout
    assert "elbow moves less than commanded, gain 0.60" in result.stdout
    (found,) = json.loads(inspect("--model", "tiny", "--json", bag).stdout)
    gains = {field["name"]: field["gain"] for field in found["action"]}
    assert gains["elbow"] == pytest.approx(0.6, abs=0.02)
    assert gains["shoulder"] == pytest.approx(1.0, abs=0.06)
    assert found["bags"][0]["experiences"] > 0
    (shoulder, elbow) = found["state"]
    assert (elbow["name"], elbow["reads"], elbow["unit"]) == ("elbow", "position of elbow", "rad")
    assert f"shoulder from {shoulder['low']:.3f} to {shoulder['high']:.3f} rad (position of shoulder)" in result.stdout
    assert shoulder["low"] < shoulder["high"]


def test_a_dataset_is_told_by_robot(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "so101_pick", lengths=(90, 120))
    whole = inspect("--robot", SO101, folder)
    assert whole.exit_code == 0, whole.output
    assert "so101_pick: 2 episodes, 210 frames, 7 s at 30 fps" in whole.stdout
    assert "shoulder_pan.pos" in whole.stdout
    by_unit = inspect("--robot", SO101, "--robot-column", "unit", folder)
    assert [line for line in by_unit.stdout.splitlines() if line.startswith("so101_pick/arm")] == [
        "so101_pick/arm0: 1 episodes, 90 frames, 3 s at 30 fps",
        "so101_pick/arm1: 1 episodes, 120 frames, 4 s at 30 fps",
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "say which joints and cameras are meant"),
        (["--robot", "nowhere.yaml"], "nowhere.yaml: cannot be read: No such file or directory"),
        (["--robot", "wrong.yaml"], "cameras: Field required; "),
        (["--robot", SO101.with_name("droid.yaml")], "recorded at 30 fps, the robot's control_rate_hz is 15"),
    ],
)
def test_a_wrong_robot_is_refused_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[object], sentence: str
) -> None:
    folder = write_dataset(tmp_path / "dataset")
    monkeypatch.chdir(tmp_path)
    Path("wrong.yaml").write_text(SO101.read_text().replace("cameras:", "kameras:"))
    result = inspect(*options, folder)
    assert (result.exit_code, sentence in result.stderr) == (2, True), result.output


def test_a_robot_description_is_all_that_bags_need(tmp_path: Path) -> None:
    bag = record(tmp_path / "bag", run_of(unshifted(), seconds=8.0, episode_s=4.0, latency_s=0.001))
    for options in ([], ["--model", "tiny", "--robot", SO101]):
        result = inspect(*options, bag)
        assert (result.exit_code, "--robot FILE, or --model" in result.stderr) == (2, True), result.output
    described = yaml.safe_load((TINY / "model.yaml").read_text())
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(described["robot"]))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.yaml").write_text(yaml.safe_dump(described))
    for options in (["--robot", tmp_path / "robot.yaml"], ["--model", tmp_path / "mine"]):
        result = inspect(*options, bag)
        assert result.exit_code == 0, result.output
        assert f"joints: {JOINTS} (sensor_msgs/msg/JointState)" in result.stdout
        assert "camera base_0_rgb: " in result.stdout
        assert "shoulder from " in result.stdout
