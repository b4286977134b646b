"""What the disk refuses ends any command with one sentence and exit code 2, and never with a traceback."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from typer.testing import CliRunner

from vla_align_ros.cli import main, params
from vla_align_ros.cli.main import app

TINY = Path(__file__).parents[2] / "config" / "train" / "tiny.yaml"
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/mine/policy.safetensors")
THREADS = ["--threads", str(torch.get_num_threads())]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["train", "--config", str(TINY), *THREADS, "--run", "FILE"], "FILE is a file"),
        (["train", "--config", str(TINY), *THREADS, "--run", "FILE/run"], "Not a directory"),
        (["align", "--model", "tiny", "--store", "FILE", "nowhere"], "FILE"),
        (["limits", "FILE"], "FILE"),
        (["inspect", "--model", "tiny", "nowhere"], "nowhere"),
        (["convert", "FILE", "FOLDER/new", "--robot", "FOLDER"], "FOLDER"),
    ],
)
def test_a_path_that_does_not_do_is_named(tmp_path: Path, command: list[str], said: str) -> None:
    (tmp_path / "FILE").write_text("")
    (tmp_path / "FOLDER").mkdir()
    here = [part.replace("FILE", f"{tmp_path}/FILE").replace("FOLDER", f"{tmp_path}/FOLDER") for part in command]
    result = CliRunner().invoke(app, here)
    torch.set_flush_denormal(False)  # `train` set it for its whole process
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert said.replace("FILE", f"{tmp_path}/FILE").replace("FOLDER", f"{tmp_path}/FOLDER") in result.output


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FULL, "vla-align params: runs/mine/policy.safetensors: No space left on device"),
        (SafetensorError("I/O error: No space left on device"), "vla-align params: I/O error: No space left on device"),
    ],
)
def test_a_full_disk_is_a_sentence(monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(params, "generated_files", full)
    result = CliRunner().invoke(main.app, ["params", "--write"])
    assert result.exit_code == 2, result.output
    assert result.output.strip() == said
