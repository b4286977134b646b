"""The end of a training run: measure what the guard needs, and write the zoo folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from vla_align_ros.policy import load_policy
from vla_align_ros.policy.config import MODEL_FILE, to_yaml
from vla_align_ros.policy.load import BANK_FILE
from vla_align_ros.policy.statistics import no_limits, write_alignment_stats
from vla_align_ros.policy.weights import sha256_of
from vla_align_ros.training import own_token
from vla_align_ros.training.curves import draw_curves
from vla_align_ros.training.limits import measure
from vla_align_ros.training.progress import Log
from vla_align_ros.training.recipe import Recipe
from vla_align_ros.training.trainee import Trainee


def export(trainee: Trainee, recipe: Recipe, run: Path, target: Path, log: Log) -> None:
    """Write the zoo folder, with the limits of an alignment measured. All in `run`: `target` is written last, when the
    model is whole."""
    folder, device = run / "export", trainee.device
    write_model(trainee, run, folder)
    policy = load_policy(folder, device)
    known = own_token.measure(policy, trainee.sources.training, recipe.seed)
    own_token.write(folder, known)
    for family, tasks in known.items():
        log({"stage": "own_token", "family": family, **{task: asdict(told) for task, told in tasks.items()}})
    write_alignment_stats(folder, measure(policy, trainee.sources.validation, trainee.motion_r2, log))
    shutil.copytree(folder, target, dirs_exist_ok=True)


def write_model(trainee: Trainee, run: Path, folder: Path) -> None:
    """Write model.yaml, weights, bank, tokenizer and curves, and a guard without limits."""
    folder.mkdir(exist_ok=True)
    weights = folder / trainee.robot.config.weights.file
    _save(trainee.model.state_dict(), weights)
    _save(trainee.features.state_dict(), folder / "features.safetensors")
    robots = {"robots": json.dumps(trainee.sources.training.robots)}  # whose tokens they are, in this order
    _save({"offsets": trainee.bank.offsets().detach()}, folder / BANK_FILE, robots)
    for path in run.iterdir():
        if path.suffix in (".json", ".model", ".yaml"):  # statistics, tokenizer, recipe
            shutil.copyfile(path, folder / path.name)
    draw_curves(run / "log.jsonl", folder / "curves.png")
    config = trainee.robot.config
    described = replace(config, weights=replace(config.weights, sha256=sha256_of(weights)))
    (folder / MODEL_FILE).write_text(to_yaml(described), encoding="utf-8")
    write_alignment_stats(folder, no_limits(trainee.motion_r2))


def _save(tensors: dict[str, torch.Tensor], path: Path, about: dict[str, str] | None = None) -> None:
    save_file({key: value.detach().contiguous().clone() for key, value in tensors.items()}, path, about)
