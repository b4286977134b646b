"""The end of a training run: learn the step, measure what the guard needs, and write the zoo folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from vla_align_ros.alignment import guard, one_robot
from vla_align_ros.alignment.evidence import on_later, with_actions
from vla_align_ros.alignment.losses import ExperienceLosses, weights_of
from vla_align_ros.alignment.split import parts_of, split
from vla_align_ros.alignment.step import propose
from vla_align_ros.experience.source import EXPERIENCES, Source
from vla_align_ros.params import PolicyParams
from vla_align_ros.policy import Policy, load_policy
from vla_align_ros.policy.load import BANK_FILE
from vla_align_ros.policy.statistics import STATS_FILE, AlignmentStats
from vla_align_ros.policy.weights import sha256_of
from vla_align_ros.training.curves import draw_curves
from vla_align_ros.training.learned_step import TrainingError, learn_step
from vla_align_ros.training.recipe import Recipe
from vla_align_ros.training.train import Trainee

VALIDATION_SEED = 50_001
SHUFFLE_SHARE = 0.25  # of the way from 1, where actions explain nothing, to validation's 10th percentile
ONE_OVER_TWO_FACTOR = 5.0  # of what the 90th percentile has above 1
CEILING_FACTOR = {"perception": 2.5, "dynamics": 1.25, "inverse_dynamics": 1.5}  # of validation's 90th percentile


def export(
    trainee: Trainee,
    recipe: Recipe,
    recipe_path: Path,
    run: Path,
    target: Path,
    log: Callable[[dict[str, object]], None],
) -> None:
    """Write the zoo folder: learn the step, and measure the guard's statistics with it. All in `run`: `target` is
    written last, when the model is whole."""
    folder, device = run / "export", trainee.device
    write_model(trainee, recipe_path.parent / recipe.model, run, folder)
    log({"stage": "export", "token_distance_max": _farthest(trainee)})
    this_model = sha256_of(folder / "model.yaml")  # which has the weights' hash in it
    examples = run / f"examples_{this_model[:12]}.safetensors"
    learned_step = learn_step(load_policy(folder, device), trainee.sources.training, recipe.seed, examples, log)
    robots = {"robots": json.dumps(trainee.sources.training.robots)}  # whose tokens they are, in this order
    _save({"offsets": trainee.bank.offsets.detach(), "learned_step": learned_step}, folder / BANK_FILE, robots)
    write_stats(folder, measure(load_policy(folder, device), trainee.sources.validation))
    examples.unlink(missing_ok=True)  # of this code and model; the next export makes its own
    shutil.copytree(folder, target, dirs_exist_ok=True)


def write_model(trainee: Trainee, description_path: Path, run: Path, folder: Path) -> None:
    """Write model.yaml, weights, bank, tokenizer and curves; a learned step that does nothing, and a guard without
    limits."""
    folder.mkdir(exist_ok=True)
    weights = folder / trainee.robot.config.weights.file
    _save(trainee.model.state_dict(), weights)
    _save(trainee.features.state_dict(), folder / "features.safetensors")
    offsets = trainee.bank.offsets.detach()
    _save({"offsets": offsets, "learned_step": torch.zeros(2, 1, offsets[0].numel())}, folder / BANK_FILE)
    for name in ("norm_stats.json", "tokenizer.json", "recipe.yaml"):
        shutil.copyfile(run / name, folder / name)
    draw_curves(run / "log.jsonl", folder / "curves.png")
    description = yaml.safe_load(description_path.read_text())
    description["weights"] = {**(description.get("weights") or {}), "sha256": sha256_of(weights)}
    (folder / "model.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
    unlimited = dict.fromkeys(("perception", "dynamics", "inverse_dynamics"), 1e9)
    nothing = dict.fromkeys(unlimited, 0.0)
    stats = AlignmentStats(1, nothing, unlimited, _farthest(trainee), 0.0, 1e9, trainee.motion_r2, 0, 0)
    write_stats(folder, stats)


def _farthest(trainee: Trainee) -> float:
    """The largest |d_i| of the bank."""
    return float(trainee.bank.offsets.detach().flatten(1).norm(dim=1).max())


def measure(policy: Policy, validation: Source) -> AlignmentStats:
    """Align validation robots without a guard, and take the range of their losses on later experience.

    A robot whose buffer stays too small for an alignment is left out. Raises TrainingError if all are.
    """
    stats = policy.alignment.stats
    start = policy.initial_token()
    assert start is not None
    params = PolicyParams.from_mapping(asdict(policy.config.recommended)).align
    found: dict[str, list[float]] = {}
    ratios, one_over_two = [], []
    for arm in range(len(validation.robots)):
        made = validation.experiences(arm, policy, VALIDATION_SEED + arm, EXPERIENCES)
        parts = split(made, policy.config.robot)
        if not parts.enough:
            continue
        learn, judged = parts.learn, parts.judged
        losses = ExperienceLosses(policy, [*learn, *judged], weights_of(params))
        proposal = propose(policy, losses, torch.arange(len(learn)), start, params, arm)
        after = on_later(losses, proposal.whole, torch.arange(len(learn), len(losses)), arm)
        actions = with_actions(policy, losses, [*learn, *judged], proposal.whole, arm)
        ratios.append(guard.shuffle_ratio(actions))
        asked = one_robot.one_over_two(proposal.explained, parts_of(learn))
        one_over_two += [] if asked is None else [asked]
        for task, loss in after.items():
            found.setdefault(task, []).append(float(loss.mean()))
    if not ratios:
        count = len(validation.robots)
        raise TrainingError(f"the guard's limits: none of {count} validation robots moved freely often enough")
    two_tokens = float(np.quantile(one_over_two, 0.9)) if one_over_two else 1e9
    usual = {task: float(np.median(values)) for task, values in found.items()}
    ceiling = {task: CEILING_FACTOR[task] * float(np.quantile(values, 0.9)) for task, values in found.items()}
    return replace(
        stats,
        usual=usual,
        ceiling=ceiling,
        shuffle_ratio_min=1.0 + SHUFFLE_SHARE * (float(np.quantile(ratios, 0.1)) - 1.0),
        one_over_two_max=1.0 + ONE_OVER_TWO_FACTOR * (two_tokens - 1.0),
        arms=len(ratios),
        experiences=EXPERIENCES,
    )


def write_stats(folder: Path, stats: AlignmentStats) -> None:
    """Write `alignment_stats.json`."""
    (folder / STATS_FILE).write_text(json.dumps(asdict(stats), indent=2) + "\n")


def _save(tensors: dict[str, torch.Tensor], path: Path, about: dict[str, str] | None = None) -> None:
    save_file({key: value.detach().contiguous().clone() for key, value in tensors.items()}, path, about)
