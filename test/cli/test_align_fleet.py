"""`vla-align align --fleet`: a folder of bags for each robot in, a token each and one table out."""

from __future__ import annotations

import builtins
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from recordings import record, run_of
from typer.testing import CliRunner, Result

from vla_align_ros.checkpoint.store import TokenStore
from vla_align_ros.cli import align_fleet
from vla_align_ros.cli.align_robot import DeskError, Job, Outcome
from vla_align_ros.cli.bag_options import RecordedOptions
from vla_align_ros.cli.main import app


def align(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["align", "--model", "tiny", *map(str, arguments)])


def job(**changed: object) -> Job:
    given = {"model": "tiny", "sources": (), "changes": {}, "store": "", "robot_id": "", "seed": 0, "dry_run": False}
    return Job(recorded=RecordedOptions(prompt="reach"), **{**given, **changed})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_token_for_each_robot_in_spite_of_a_bad_bag_and_a_killed_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, stores, killed = tmp_path / "fleet", tmp_path / "stores", tmp_path / "killed"
    run = run_of()
    for robot in ("good", "unlucky"):
        record(fleet / robot / "monday", run)
    (fleet / "bad" / "monday").mkdir(parents=True)
    (fleet / "bad" / "monday" / "monday.mcap").write_bytes(b"no bag")
    whole = align_fleet.attempt

    def killed_once(given: Job) -> Outcome:
        if given.robot_id == "unlucky" and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(given)

    monkeypatch.setattr(align_fleet, "attempt", killed_once)
    monkeypatch.setattr(align_fleet, "RETRIES", 1)
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")  # what else fills this machine is no fault of the fleet
    short = ["--set", "guard.too_little_experience=8"]
    result = align("--fleet", fleet, "--store", stores, "--json", *short)
    assert result.exit_code == 1, result.output
    found = json.loads(result.stdout)
    assert list(found) == ["bad", "good", "unlucky"]
    assert found["bad"]["verdict"] == "failed"
    assert "monday.mcap" in found["bad"]["error"]
    assert killed.exists()
    alike = ("verdict", "reason", "learned_from", "before", "after", "token_version")
    assert [found["good"][key] for key in alike] == [found["unlucky"][key] for key in alike]
    assert found["good"]["verdict"] in ("kept", "refused")
    tokens = [TokenStore(stores / robot, 20).active().manifest.token_sha256 for robot in ("good", "unlucky")]
    assert tokens[0] == tokens[1]
    assert "good: " in result.stderr


def test_each_robot_has_its_recordings_and_a_store_of_its_own(tmp_path: Path) -> None:
    for name in ("left/monday/metadata.yaml", "right/metadata.yaml", "right/right_0.mcap", "third/a_0.db3.zstd"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("left/tuesday", "left/.hidden", "third/notes.txt", ".git", "set/meta", "set/videos"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "set/meta/info.json").touch()
    (tmp_path / "readme.md").touch()
    (tmp_path / "third/notes.txt").rmdir()
    (tmp_path / "third/notes.txt").touch()
    (tmp_path / "empty").mkdir()
    found = align_fleet.fleet_jobs(tmp_path, job(store=str(tmp_path / "S")))
    assert {name: [path.name for path in each.sources] for name, each in found.items()} == {
        "empty": [],
        "left": ["monday", "tuesday"],
        "right": ["right"],
        "set": ["set"],
        "third": ["a_0.db3.zstd"],
    }
    assert all(path.is_absolute() for each in found.values() for path in each.sources)
    assert found["left"].store == str(tmp_path / "S" / "left")
    assert found["left"].robot_id == "left"
    assert align_fleet.fleet_jobs(tmp_path, job())["left"].store == ""
    assert align_fleet.attempt(found["empty"]) == align_fleet.failed("no bag and no dataset in its folder")
    assert align_fleet.attempt(found["third"]).verdict == "failed"


def test_a_robots_folder_that_cannot_be_read_is_its_own_failure(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert align_fleet.recordings_of(loop) == (loop,)


def test_the_table_has_a_line_for_each_robot() -> None:
    outcomes = {
        "arm1": Outcome("kept", "alignment kept: better", {"token_version": "000002"}),
        "the_long_one": align_fleet.failed("no such bag"),
    }
    assert align_fleet.as_table(outcomes).splitlines() == [
        "robot         verdict  token",
        "arm1          kept     000002  alignment kept: better",
        "the_long_one  failed   -       no such bag",
        "2 robots: 1 failed, 1 kept",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "expected bags or LeRobotDatasets, or --fleet"),
        (["--fleet", "nowhere"], "No such file or directory: 'nowhere'"),
        (["--fleet", "empty"], "expected a folder for each robot in empty, got none"),
        (["--fleet", "some", "bag"], "--fleet takes the place of bags"),
        (["--fleet", "some", "--robot-id", "arm1"], "and of --robot-id"),
        (["--fleet", "some", "--set", "align_steps=many"], "align_steps"),
        (["--fleet", "some", "--set", "nothing=1"], "nothing"),
        (["--fleet", "some", "--model", "none"], "none: no such model folder"),
        (["--cluster", "10.0.0.5:6379", "bag"], "--cluster"),
    ],
)
def test_what_is_wrong_with_the_whole_fleet_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "some" / "robot").mkdir(parents=True)
    monkeypatch.setattr(align_fleet, "on_ray", None)
    result = align(*arguments)
    assert result.exit_code == 2
    assert "cannot align: " in result.stderr
    assert words in result.stderr


def test_without_ray_the_user_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *others: object) -> object:
        if name == "ray":
            raise ImportError(name)
        return real(name, *others)

    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DeskError, match=r"pip install 'vla_align_ros\[fleet\]'"):
        align_fleet.on_ray({"arm1": job()}, align_fleet.attempt, "", print)


@pytest.mark.parametrize("error", [ConnectionError("no answer"), Exception("timed out during startup")])
@pytest.mark.parametrize(("cluster", "mode", "hint"), [("h:1", "", True), ("h:1", "token", False), ("", "", False)])
def test_where_ray_does_not_start_is_a_sentence_and_of_a_cluster_one_on_tokens(
    monkeypatch: pytest.MonkeyPatch, error: Exception, cluster: str, mode: str, hint: bool
) -> None:
    def init(**given: object) -> None:
        raise error

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(DeskError, match=str(error)) as raised:
        align_fleet.on_ray({"arm1": job()}, align_fleet.attempt, cluster, print)
    assert ("RAY_AUTH_MODE=token" in str(raised.value)) is hint
