"""`vla-align bench`: every part has numbers, which a later run is compared with; what cannot be measured is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from vla_align_ros.cli.main import app

TIMES = {"p50_ms", "p95_ms", "p99_ms", "own_ms"}
WORK = {"flops", "bytes", "limit_ms"}
NETWORK = ("vision", "prefix", "denoising", "sample_actions", "prefix of a row", "losses of a row", "gradient of a row")
NODE = ("image message", "infer", "check and message")
PARTS = ("features", "pick", "gradient", "change", "judge", "states", "commands")
ALIGN = (*(f"align: {part}" for part in PARTS), "align step", "align")


@pytest.mark.slow
def test_everything_is_measured_and_compared_with_a_saved_run(tmp_path: Path) -> None:
    file, threads = tmp_path / "bench.json", torch.get_num_threads()
    few = ["bench", "--calls", "1", "--experiences", "8", "--json", str(file)]
    result = CliRunner().invoke(app, [*few, "--size", "golden"])
    torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    found = json.loads(file.read_text())["measured"]
    assert list(found) == ["so101", "golden pi0", "golden pi05"]
    for name, subject in found.items():
        assert all(set(subject["parts"][part]) == WORK | TIMES | {"share"} for part in NETWORK), name
        assert min(subject["memory_mb"].values()) > 0
    parts = found["so101"]["parts"]
    assert all(set(parts[part]) == TIMES for part in NODE)
    assert all(parts[part]["own_ms"] > 0 for part in ALIGN)
    assert parts["node overhead"]["own_ms"] > 0
    for word in ("vision", "denoising", "node overhead", "align step", "golden pi05", "% of limit", "copy"):
        assert word in result.output

    again = CliRunner().invoke(app, [*few, "--model", "", "--size", "golden", "--compare", str(file)])
    torch.set_num_threads(threads)
    assert again.exit_code == 0, again.output
    assert "now / then" in again.output


@pytest.mark.slow
def test_the_full_size_is_counted_and_not_run(tmp_path: Path) -> None:
    file, threads = tmp_path / "bench.json", torch.get_num_threads()
    result = CliRunner().invoke(
        app, ["bench", "--model", "", "--size", "full", "--dtype", "bfloat16", "--json", str(file)]
    )
    torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    for name, subject in json.loads(file.read_text())["measured"].items():
        assert all(set(subject["parts"][part]) == WORK for part in NETWORK), name
        assert subject["memory_mb"]["weights"] == pytest.approx(8_400, rel=0.05), "the alignment expert is float32"
        assert subject["memory_mb"]["sampling"] < 1500, "as the design asks"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "huge"], "--size: expected one of golden, medium, full, got huge"),
        (["--dtype", "float16"], "--dtype: expected float32 or bfloat16, got float16"),
        (["--model", "no_such_model"], "no_such_model"),
        (["--compare", "no_such_file.json"], "no_such_file.json: expected a file that `vla-align bench --json` wrote"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["bench", "--threads", str(torch.get_num_threads()), *arguments])
    assert result.exit_code == 2, result.output
    assert said in result.output


def test_a_file_of_something_else_is_not_compared_with(tmp_path: Path) -> None:
    for text in ("{}", "[]", "no", '{"format": 2, "measured": {"tiny": 3}}', '{"format": 0, "measured": {}}'):
        (tmp_path / "other.json").write_text(text)
        result = CliRunner().invoke(app, ["bench", "--compare", str(tmp_path / "other.json")])
        assert result.exit_code == 2, text
        assert "expected a file that `vla-align bench --json` wrote" in result.output


@pytest.mark.parametrize("command", ["bench", "demo"])
@pytest.mark.parametrize("file", [".", "nowhere/bench.json"])
def test_a_place_for_the_numbers_that_is_not_there_is_said_before_they_are_measured(command: str, file: str) -> None:
    result = CliRunner().invoke(app, [command, "--json", file, "--model", "nowhere"])
    assert result.exit_code == 2
    assert f"{file}: th" in result.output


def test_a_run_with_other_settings_is_not_compared_with(tmp_path: Path) -> None:
    threads, file = torch.get_num_threads(), tmp_path / "before.json"
    command = ["bench", "--model", "", "--threads", str(threads)]
    assert CliRunner().invoke(app, [*command, "--json", str(file)]).exit_code == 0
    assert CliRunner().invoke(app, [*command, "--compare", str(file)]).exit_code == 0
    now = json.loads(file.read_text())
    for setting, other in {"device": "cuda", "threads": threads + 1, "dtype": "bfloat16", "experiences": 8}.items():
        file.write_text(json.dumps(now | {setting: other}))
        result = CliRunner().invoke(app, [*command, "--compare", str(file)])
        assert result.exit_code == 2, setting
        assert f"measured with {setting} {other}, now {now[setting]}: measure both alike" in result.output
