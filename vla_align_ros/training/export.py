"""The end of a training run: measure what the guard needs, and write the zoo folder."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from vla_align_ros.checkpoint.durable import make_folder_synced, sync_files, sync_folder
from vla_align_ros.policy import load_policy
from vla_align_ros.policy.config import MODEL_FILE, to_yaml
from vla_align_ros.policy.load import BANK_FILE
from vla_align_ros.policy.made_tokens import to_tensors
from vla_align_ros.policy.statistics import no_limits, write_alignment_stats
from vla_align_ros.policy.weights import sha256_of
from vla_align_ros.training import own_token
from vla_align_ros.training.curves import draw_curves
from vla_align_ros.training.limits import measure
from vla_align_ros.training.progress import LOG_FILE, Log
from vla_align_ros.training.recipe import Recipe, RecipeError
from vla_align_ros.training.trainee import Trainee


def export(trainee: Trainee, recipe: Recipe, run: Path, target: Path, log: Log) -> None:
    """Write the zoo folder, with the limits of an alignment measured. All in `run`: `target` is replaced last, when the
    model is whole. Raises RecipeError as `check_target` does."""
    check_target(target)
    folder, device = run / "export", trainee.device
    write_model(trainee, recipe, run, folder)
    policy = load_policy(folder, device)
    known = own_token.measure(policy, trainee.sources.training, trainee.bank, recipe.seed)
    own_token.write(folder, known)
    for family, tasks in known.items():
        log({"stage": "own_token", "family": family, **{task: asdict(told) for task, told in tasks.items()}})
    write_alignment_stats(folder, measure(policy, trainee.sources.validation, trainee.motion_r2, log))
    put_in_place(folder, target)


def check_target(target: Path) -> None:
    """Raises RecipeError where something else lies there, which would be copied with the model."""
    if target.exists() and not (target.is_dir() and ((target / MODEL_FILE).exists() or not any(target.glob("*/")))):
        raise RecipeError(f"{target}: expected a model's folder or none, got something else: name another one")


def put_in_place(folder: Path, target: Path) -> None:
    """Make `target` a copy of `folder`, whole whenever the process dies; files that only `target` has, as a README,
    stay. A kill between two renames leaves nothing there and the old one beside it; the next call puts it back."""
    target = target.resolve()
    fresh, old = (target.with_name(f".{target.name}.{end}") for end in ("new", "old"))
    if old.exists() and not target.exists():
        os.rename(old, target)
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)
    make_folder_synced(target.parent)
    try:
        if target.exists():
            shutil.copytree(target, fresh, ignore=shutil.ignore_patterns(*(path.name for path in folder.iterdir())))
        shutil.copytree(folder, fresh, dirs_exist_ok=True)
        sync_files(fresh)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    if target.exists():
        os.rename(target, old)
    os.rename(fresh, target)
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_model(trainee: Trainee, recipe: Recipe, run: Path, folder: Path) -> None:
    """Write model.yaml, weights, bank, tokenizer and curves, and a guard without limits."""
    folder.mkdir(exist_ok=True)
    weights = folder / trainee.robot.config.weights.file
    _save(trainee.model.state_dict(), weights)
    _save(trainee.features.state_dict(), folder / "features.safetensors")
    several = slice(recipe.bank_robots)
    robots = {"robots": json.dumps(trainee.sources.training.robots[several])}  # whose tokens they are, in this order
    made = trainee.bank.made
    how = {} if made is None else to_tensors(made, several)
    _save({"offsets": trainee.bank.offsets()[several], **how}, folder / BANK_FILE, robots)
    for path in run.iterdir():
        if path.suffix in (".json", ".model", ".yaml"):  # statistics, tokenizer, recipe
            shutil.copyfile(path, folder / path.name)
    draw_curves(run / LOG_FILE, folder / "curves.png")
    config = trainee.robot.config
    described = replace(config, weights=replace(config.weights, sha256=sha256_of(weights)))
    (folder / MODEL_FILE).write_text(to_yaml(described), encoding="utf-8")
    write_alignment_stats(folder, no_limits(trainee.motion_r2))


def _save(tensors: dict[str, torch.Tensor], path: Path, about: dict[str, str] | None = None) -> None:
    save_file({key: value.detach().contiguous().clone() for key, value in tensors.items()}, path, about)
