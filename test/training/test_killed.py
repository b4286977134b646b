"""kill -9 while training, at the moments that hurt: what was saved is whole, and the run ends in the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from builders import model_yaml
from safetensors.torch import load_file

from vla_align_ros.bench.reach2.source import open_sources
from vla_align_ros.training.curves import draw_curves
from vla_align_ros.training.progress import log_line, mend_log
from vla_align_ros.training.recipe import load_recipe
from vla_align_ros.training.train import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RECIPE = {
    "model": "model.yaml",
    "source": {},
    "vision": {"steps": 2, "batch_size": 8, "frames": 32},
    "samples": 20,
    "alignment_samples": 12,
    "batch_size": 4,
    "shard_samples": 8,
}
# A process that trains, saves after every step, and kills itself at the given moments, one after the other.
TRAINING = """
import os, signal, sys
from pathlib import Path
import torch
from vla_align_ros.bench.reach2.source import open_sources
from vla_align_ros.training import progress, train
from vla_align_ros.training.recipe import load_recipe

path, run, moment = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
replace, saved = os.replace, 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def replace_or_die(temporary, target):
    global saved
    saved += target.name == "policy.safetensors"
    if moment == "half written" and saved == 2:
        die()
    if moment == "eye half written" and target.name == "features.safetensors":
        die()
    replace(temporary, target)

def log(line):
    if moment == "alignment step" and (line["stage"], line.get("step")) == ("alignment", 1):
        die()

progress.os.replace = replace_or_die
torch.set_num_threads(1)
sources = open_sources(0, robots=3, validation_robots=1)
train.train(path, load_recipe(path), sources, run, log, torch.device("cpu"), save_every_s=0.0)
"""
MOMENTS = ["eye half written", "half written", "alignment step"]


def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bits_and_losses(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model_yaml()))
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    steps = []
    for moment in MOMENTS:
        command = [sys.executable, "-c", TRAINING, str(path), str(killed), moment]
        result = subprocess.run(command, capture_output=True, text=True, timeout=500, env=os.environ)
        assert result.returncode == -signal.SIGKILL, result.stderr
        stored = killed / "policy.safetensors"
        steps.append(int(load_file(stored)["step"]) if stored.exists() else None)
    assert steps == [None, 1, 5], "at most the step that was not saved yet is lost"
    torch.set_num_threads(1)
    sources = open_sources(0, robots=3, validation_robots=1)
    for run in (killed, whole):
        train(path, load_recipe(path), sources, run, lambda line: None, torch.device("cpu"), save_every_s=0.0)
    for name in ("policy.safetensors", "alignment.safetensors"):
        one, other = (load_file(run / name) for run in (whole, killed))
        assert one.keys() == other.keys()
        assert [key for key in one if not torch.equal(one[key], other[key])] == []
    losses = []
    for run in (whole, killed):  # the last line of a step counts
        lines = [json.loads(line) for line in (run / "log.jsonl").open()]
        losses.append({(x["stage"], x["step"]): x for x in lines if x["stage"] in ("policy", "alignment")})
    assert losses[0] == losses[1]


def test_a_line_of_the_log_that_was_cut_off_is_taken_out(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    mend_log(tmp_path)
    assert not log.exists()
    line = {"stage": "policy", "step": 0, "total_loss": 1.0, "e_token_norm": 1e-7}
    log_line(tmp_path, line)
    for torn in ('{"stage": "pol', '{"stage": "policy", "step": 1}'):
        with log.open("a") as file:
            file.write(torn)
        mend_log(tmp_path)
        log_line(tmp_path, line)
    assert [json.loads(text) for text in log.read_text().splitlines()] == [line] * 3
    draw_curves(log, tmp_path / "curves.png")
