"""The steps of a stage: batches in, an objective down, a line in the log each, now and then a file to go on from."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import torch
from torch import nn

from vla_align_ros.seeds import Part, seed_of
from vla_align_ros.training.feed import Feed, Make
from vla_align_ros.training.processes import Processes, is_main
from vla_align_ros.training.progress import Log, load_step, save_step
from vla_align_ros.training.recipe import Recipe, TrainingError
from vla_align_ros.training.trainee import learning_rate_at


def run_steps(
    stage: str,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    make: Make,
    recipe: Recipe,
    path: Path,
    log: Log,
    save_every_s: float,
    processes: Processes,
    figures: Callable[[float], dict[str, float]] = lambda learning_rate: {},
) -> None:
    """Train on `recipe.samples`; goes on from `path` where it exists. Raises TrainingError at a gradient that is not
    finite; what is saved is from before it.

    make: a shard. optimizer: `scale` of a group multiplies the learning rate of the moment. figures: what a step's line
    says beside the losses, asked for when its gradients are there.
    """
    total, parts = recipe.samples // recipe.batch_size, recipe.batch_parts
    own = processes.own_parts(parts)
    together, optimizer = processes.together(objective, optimizer)
    step, saved = load_step(path, objective, optimizer), time.monotonic()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    with ExitStack() as opened:
        feeds = [opened.enter_context(closing(Feed(make, recipe, total, log, part))) for part in own]
        while step < total:
            learning_rate = learning_rate_at(step, total, recipe)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * group["scale"]
            optimizer.zero_grad()
            found = []
            for feed in feeds:
                with processes.not_yet(together, waiting=feed is not feeds[-1]):
                    loss, losses = together(feed.batch(step), seed_of(recipe.seed, Part.FLOW, step * parts + feed.part))
                    (loss / len(feeds)).backward()
                found.append(torch.stack(list(losses.values())))
            record: dict[str, object] = {"stage": stage, "step": step, "learning_rate": learning_rate}
            record |= figures(learning_rate)
            if not bool(nn.utils.clip_grad_norm_(parameters, 1.0).isfinite()):
                raise TrainingError(f"{stage}, step {step}: the gradient is not finite: try a lower learning_rate")
            optimizer.step()
            step += 1
            means = processes.mean(torch.stack(found).mean(0)).tolist()
            log(record | dict(zip(losses, means, strict=True)))
            if is_main() and (time.monotonic() - saved > save_every_s or step == total):
                save_step(path, step, objective, optimizer)
                saved = time.monotonic()
