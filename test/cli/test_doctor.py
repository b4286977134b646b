"""`vla-align doctor`: each ill machine gets the right finding and what to do."""

import builtins
import importlib.metadata
import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from typer.testing import CliRunner

from vla_align_ros.checkpoint import StoreState, TokenStore
from vla_align_ros.cli import doctor
from vla_align_ros.cli.main import app
from vla_align_ros.limits import CHECKS

REPOSITORY = Path(__file__).resolve().parents[2]
PROFILE = "FASTRTPS_DEFAULT_PROFILES_FILE"

shell = CliRunner()


def block(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Make `import module` fail as where it is not installed."""
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name.partition(".")[0] == module:
            raise ModuleNotFoundError(f"No module named {module!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)


def test_this_machine_passes_every_check():
    result = shell.invoke(app, ["doctor", "--json"])
    checks = {check["name"]: check for check in json.loads(result.stdout)}
    assert {"python", "torch", "transformers", "rosbags", "device", "rclpy", "dds profile"} <= set(checks)
    assert {name: check for name, check in checks.items() if check["status"] != "ok"} == {}
    assert result.exit_code == 0


def test_a_failed_check_gives_exit_code_1_and_a_warning_does_not(monkeypatch):
    monkeypatch.delenv(PROFILE)
    assert shell.invoke(app, ["doctor"]).exit_code == 0
    monkeypatch.setattr(sys, "version_info", (3, 10, 12))
    result = shell.invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "fail" in result.stdout


@pytest.mark.parametrize(
    ("version", "status"), [((3, 10), "fail"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "fail")]
)
def test_python_is_checked_at_both_ends(version, status, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    assert doctor.check_python().status == status


def test_package_out_of_its_range_or_missing_fails_with_the_command_that_mends_it(monkeypatch):
    versions = {"old": "4.57.0", "new": "6.0", "right": "5.24.0"}
    needed = ["old<6,>=5.20", "new<6,>=5.20", "right<6,>=5.20", "vla_align_none", 'x>=1; extra == "dev"']
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: needed)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: versions.get(name) or real(name))
    found = {check.name: check for check in doctor.check_packages()}
    assert {name: check.status for name, check in found.items()} == {
        "old": "fail",
        "new": "fail",
        "right": "ok",
        "vla_align_none": "fail",
    }
    assert "4.57.0" in found["old"].found
    todo = found["old"].todo.removeprefix("pip install ").strip("'")
    assert Requirement(todo) == Requirement("old>=5.20,<6")


def test_package_that_is_not_installed_itself_fails(monkeypatch):
    def missing(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    (check,) = doctor.check_packages()
    assert (check.name, check.status) == ("vla_align_ros", "fail")


def test_missing_torch_and_rclpy_are_findings_not_tracebacks(monkeypatch):
    block(monkeypatch, "torch")
    assert doctor.check_device().status == "fail"
    block(monkeypatch, "rclpy")
    check = doctor.check_rclpy()
    assert check.status == "fail"
    assert "ros" in check.todo


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (None, "fail"),
        ("<profiles", "fail"),
        ("<dds><segment_size>many</segment_size></dds>", "fail"),
        ("<dds/>", "warn"),
        ("<dds><segment_size>524288</segment_size></dds>", "warn"),
        ("<dds><segment_size>33554432</segment_size></dds>", "ok"),
    ],
)
def test_dds_profile_must_have_room_for_images(text, status, tmp_path, monkeypatch):
    path = tmp_path / "profile.xml"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv(PROFILE, str(path))
    check = doctor.check_profile()
    assert check.status == status
    assert bool(check.todo) == (status != "ok")


def test_shipped_dds_profile_is_ok(monkeypatch):
    monkeypatch.setenv(PROFILE, str(REPOSITORY / "config" / "fastdds_profile.xml"))
    assert doctor.check_profile().status == "ok"


def test_where_the_commands_go_is_said_group_by_group(tmp_path):
    tiny = REPOSITORY / "models" / "tiny"
    assert doctor.check_commands(str(tmp_path / "none")) == [], "that is said of the model"
    assert "~/action_chunk alone" in doctor.check_commands(str(tiny))[0].found
    model = yaml.safe_load((tiny / "model.yaml").read_text())
    hand = {"topic": "hand/commands", "type": "position_stream", "joints": ["elbow"]}
    arm = {"topic": "arm/joint_trajectory", "type": "joint_trajectory", "joints": ["shoulder"]}
    model["robot"]["command_groups"] = [hand, arm]
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model))
    found = {check.name: check.found.partition(";")[0] for check in doctor.check_commands(str(tmp_path))}
    assert found == {
        "commands hand/commands": "position_stream of elbow",
        "commands arm/joint_trajectory": "joint_trajectory of shoulder",
    }


def test_every_limit_is_shown_with_what_it_was_measured_on(tmp_path):
    found = {check.name: check for check in doctor.check_limits("tiny")}
    assert list(found) == [f"limit {check.name}" for check in CHECKS]
    assert all(check.status == "ok" for check in found.values())
    assert "measured on 26 robots, may refuse 4% of good ones" in found["limit perception_high"].found
    model = shutil.copytree(REPOSITORY / "models" / "tiny", tmp_path / "tiny")
    stats = json.loads((model / "alignment_stats.json").read_text())
    stats["limits"]["perception_high"] = {"value": 1.5, "robots": 4}
    (model / "alignment_stats.json").write_text(json.dumps(stats))
    few = {check.name: check for check in doctor.check_limits(str(model))}["limit perception_high"]
    assert few.status == "warn"
    assert "refuses above 1.5" in few.found
    assert "may refuse 20% of good ones" in few.found
    assert few.todo == "measure it on 24 validation robots or more"
    assert doctor.check_limits(str(tmp_path / "none")) == []


def test_opencv_from_elsewhere_than_pip_counts(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", lambda _: ["opencv-python-headless>=4.6", "vla_align_none"])
    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert [check.status for check in doctor.check_packages()] == ["ok", "fail"]


def test_store_that_is_not_there_yet_is_ok_and_stays_so(tmp_path):
    assert doctor.check_store(tmp_path / "store").status == "ok"
    assert not (tmp_path / "store").exists()


def test_store_with_a_corrupted_version_warns_by_name(tmp_path):
    version = tmp_path / "versions" / "000001"
    version.mkdir(parents=True)
    (version / "manifest.json").write_text("{")
    check = doctor.check_store(tmp_path)
    assert check.status == "warn"
    assert "000001" in check.found


def test_store_that_is_no_folder_fails(tmp_path):
    path = tmp_path / "store"
    path.write_text("")
    assert doctor.check_store(path).status == "fail"


def test_sound_store_is_counted(tmp_path, monkeypatch):
    state = StoreState(versions={}, active=None, pinned=frozenset(), problems={})
    monkeypatch.setattr(TokenStore, "read", lambda self: state)
    check = doctor.check_store(tmp_path)
    assert (check.status, "0 versions, active none" in check.found) == ("ok", True)
