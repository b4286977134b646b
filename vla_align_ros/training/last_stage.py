"""The last stage: the alignment expert alone goes on, the policy and all tokens frozen.

On a bench it learns from what the trained policy does there (`gathered.py`); a recording holds what it holds. Most flow
times are near 1, where what is denoised says little and the answer must come from what the task is given.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from vla_align_ros.seeds import Part, seed_of
from vla_align_ros.training.feed import make_shard
from vla_align_ros.training.gathered import Gathered
from vla_align_ros.training.loop import run_steps
from vla_align_ros.training.objective import AlignmentObjective
from vla_align_ros.training.processes import Processes
from vla_align_ros.training.progress import LAST_STAGE_FILE, Log
from vla_align_ros.training.recipe import Recipe
from vla_align_ros.training.trainee import Trainee


def train_alignment_expert(
    trainee: Trainee, recipe: Recipe, out: Path, log: Log, save_every_s: float, processes: Processes
) -> None:
    """Train it on `recipe.alignment_samples`; goes on where `out` left off."""
    if recipe.alignment_samples < recipe.batch_size:
        return
    recipe = replace(recipe, seed=seed_of(recipe.seed, Part.LAST_STAGE), samples=recipe.alignment_samples)
    objective = AlignmentObjective(trainee.model, trainee.bank, recipe)
    parameters = list(objective.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": recipe.weight_decay, "scale": 1.0},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0, "scale": 1.0},
    ]
    optimizer = torch.optim.AdamW(groups, recipe.learning_rate, betas=(0.9, 0.98), fused=True)
    path = out / LAST_STAGE_FILE
    of_bench = trainee.sources.training.labels is not None
    make = Gathered(trainee, recipe.seed).shard if of_bench else partial(make_shard, trainee, recipe)
    run_steps("alignment", objective, optimizer, make, recipe, path, log, save_every_s, processes)
