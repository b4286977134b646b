"""The main job, from camera message to moving arm to a judged alignment, as `make demo` runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vla_align_ros.ros.demo_replay import DemoError
from vla_align_ros.ros.demo_run import NODE_LOG, make_empty


@pytest.mark.slow
@pytest.mark.ros
@pytest.mark.timeout(600)
def test_the_demo_works_and_says_so(tmp_path: Path) -> None:
    numbers_file = tmp_path / "demo.json"
    command = [sys.executable, "-m", "vla_align_ros.cli.main", "demo", "--out", str(tmp_path / "demo")]
    run = subprocess.run(
        [*command, "--aligns", "1", "--episodes", "20", "--json", str(numbers_file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    numbers = json.loads(numbers_file.read_text())
    assert numbers["chunks_published"] > 20
    assert numbers["aligns"]["attempted"] >= 1
    assert numbers["aligns"]["accepted"] + numbers["aligns"]["refused"] == numbers["aligns"]["attempted"]
    assert all(numbers[f"live_{way}_identical"] is True for way in ("offline", "topic", "bag"))
    assert "live, topic and bag agree to the bit" in run.stdout
    assert numbers["joint_travel_rad"] > 0.5
    assert 0 < numbers["chunk_latency_ms"]["p50"] <= numbers["chunk_latency_ms"]["p99"]
    assert Path(numbers["bag_path"]).is_dir()
    report = Path(numbers["report_path"]).read_text()
    assert report.count("data:image/png;base64,") >= 3
    assert "src='http" not in report
    assert "live, topic and bag agree to the bit" in report


def test_a_demo_replaces_nothing_but_an_earlier_one(tmp_path: Path) -> None:
    new, earlier, tokens = tmp_path / "a" / "new", tmp_path / "earlier", tmp_path / "outputs" / "tokens"
    make_empty(new)
    assert new.is_dir()
    earlier.mkdir()
    for name in (NODE_LOG, "report.html"):
        (earlier / name).touch()
    make_empty(earlier)
    assert not list(earlier.iterdir())
    tokens.mkdir(parents=True)
    with pytest.raises(DemoError, match="outputs: expected a new folder or that of an earlier demo"):
        make_empty(tokens.parent)
    (tmp_path / "file").touch()
    with pytest.raises(DemoError, match="name another folder by --out"):
        make_empty(tmp_path / "file")
    assert tokens.is_dir()


@pytest.mark.slow
@pytest.mark.ros
def test_a_demo_without_a_model_fails_with_a_sentence(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "vla_align_ros.cli.main",
        "demo",
        "--model",
        "nothing",
        "--out",
        str(tmp_path / "x"),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "no such model folder" in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
