"""The last stage: the alignment expert alone goes on, the policy and all tokens frozen.

Many times the samples a second of the joint training, since nothing else is trained. Most flow times are near 1, where
what is denoised says little and the answer must come from what the task is given.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from vla_align_ros.policy import flow
from vla_align_ros.policy.losses import LossWeights, total
from vla_align_ros.seeds import Part, seed_of
from vla_align_ros.training.dataset import Samples
from vla_align_ros.training.feed import Feed
from vla_align_ros.training.progress import LAST_STAGE_FILE, Log, load_step, save_step
from vla_align_ros.training.recipe import Recipe
from vla_align_ros.training.trainee import Trainee, learning_rate_at


def train_alignment_expert(trainee: Trainee, recipe: Recipe, out: Path, log: Log, save_every_s: float) -> None:
    """Train it on `recipe.alignment_samples`; goes on where `out` left off."""
    recipe = replace(recipe, seed=seed_of(recipe.seed, Part.LAST_STAGE), samples=recipe.alignment_samples)
    steps = recipe.samples // recipe.batch_size
    if not steps:
        return
    expert = trainee.model.alignment_expert()
    parameters = list(expert.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ],
        recipe.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    modules: dict[str, nn.Module] = {"alignment": expert}
    step, saved = load_step(out / LAST_STAGE_FILE, modules, optimizer), time.monotonic()
    weights = LossWeights(recipe.lambda_perc, recipe.lambda_dyn, recipe.lambda_inv)
    feed = Feed(trainee.sources.training, trainee.robot, trainee.features, recipe, steps, log)
    while step < steps:
        shard, rows = feed.batch(step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, steps, recipe)
        losses = _losses(trainee, recipe, shard, rows, weights, step)
        loss = total(losses, weights)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        log({"stage": "alignment", "step": step, **{name: float(value.detach()) for name, value in losses.items()}})
        if time.monotonic() - saved > save_every_s or step == steps:
            save_step(out / LAST_STAGE_FILE, step, modules, optimizer)
            saved = time.monotonic()


def _losses(
    trainee: Trainee, recipe: Recipe, shard: Samples, rows: Tensor, weights: LossWeights, step: int
) -> dict[str, Tensor]:
    """The mean loss of each alignment task, with the tokens of the bank or, as in the joint training, E_0."""
    model, generator = trainee.model, torch.Generator(trainee.device).manual_seed(seed_of(recipe.seed, Part.FLOW, step))
    keep = (torch.rand(len(rows), generator=generator, device=trainee.device) >= recipe.token_drop).float()
    late = torch.rand(len(rows), generator=generator, device=trainee.device) < recipe.late_time_share
    times = flow.sample_time(len(rows), generator, trainee.device)
    times = torch.where(late, flow.late_time(len(rows), generator, trainee.device), times)
    e_0 = model.peft_prefix_token
    assert e_0 is not None
    with torch.no_grad():
        inputs, experience = shard.policy_input(rows), shard.experience[rows]
        cache, token = model.prefix_cache(inputs), trainee.bank.tokens(e_0, shard.row[rows], keep)
        noise = model.draw_noise(inputs.state, experience, weights, generator)
    found = model.alignment_losses(cache, inputs.state, experience, noise, times, token)
    return {f"{task}_loss": loss.mean() for task, loss in found.items()}
