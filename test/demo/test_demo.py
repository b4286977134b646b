"""The main job, from camera message to moving arm to a judged alignment, as `make demo` runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


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
