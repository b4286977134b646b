"""Why does an alignment help? `alignment.py --diagnosis`: gradients, single losses, amount of experience.

For arms with labels: the cosine between each self-supervised gradient and the action loss's own; what each loss
achieves alone; how much experience is needed. No guard.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import arms
import numpy as np
import torch
from torch import Tensor

from vla_align_ros.alignment.step import find_best_known
from vla_align_ros.bench.collect import fill_buffer
from vla_align_ros.bench.evaluate import action_error
from vla_align_ros.bench.reach2.bench import BENCH
from vla_align_ros.bench.reach2.embodiment import Embodiments
from vla_align_ros.experience.source import EXPERIENCES
from vla_align_ros.policy import Policy

COUNTS, PARTS = (8, 16, 32, 64, 128, 256, 512, 1024), ("best_known", "proposed")
GRADIENT_DRAWS = 8
DIRECTIONS = 8


def one_arm(policy: Policy, arm: Embodiments, seed: int, exploration: float) -> dict[str, Any]:
    """Everything about one arm."""
    shipped, params = arms.shipped_token(policy), arms.recommended(policy)
    experiences = fill_buffer(policy, BENCH, arm, shipped, seed, exploration, max(COUNTS))

    def error(token: Tensor) -> float:
        return float(action_error(policy, BENCH, arm, token[None], seed, arms.ERROR_SAMPLES)[0])

    by_count = {}
    for count in COUNTS:
        everything = replace(params, align_batch_size=count)
        learn = spread(experiences, count)
        proposal = arms.without_guard(policy, learn, everything, shipped, seed)
        by_count[count] = dict(zip(PARTS, map(error, (proposal.best_known, proposal.token)), strict=True))
    some = spread(experiences, EXPERIENCES)
    alone = {}
    for task in arms.LAMBDAS:
        alone[task] = error(arms.without_guard(policy, some, arms.task_alone(params, task), shipped, seed).token)
    oracle = arms.best_by_labels(policy, arm, [shipped, policy.e_0], seed)
    return {
        "error": {"before": error(shipped), "oracle": error(oracle)},
        "by_count": by_count,
        "alone": alone,
        "cosines": cosines(policy, arm, some, shipped, seed),
    }


def spread(experiences: list[Any], count: int) -> list[Any]:
    """`count` of them, evenly over time, so that every count sees all episodes."""
    return [experiences[row] for row in np.linspace(0, len(experiences) - 1, count).round().astype(int)]


def cosines(policy: Policy, arm: Embodiments, experiences: list[Any], shipped: Tensor, seed: int) -> dict[str, Any]:
    """Of each task's gradient with that of the labels, at the shipped token and at the best known one: plain, and
    along the bank's largest directions (in standard deviations)."""
    params = arms.recommended(policy)
    learn = arms.split_of(policy, experiences, params).learn
    losses = arms.losses_of(policy, learn, params)
    rows, labels = torch.arange(len(learn)), arms.label_loss(policy, arm, seed)
    best_known, _ = find_best_known(policy, losses, rows, shipped, seed)
    bank = policy.alignment.bank.flatten(1)
    _, scales, along = torch.linalg.svd(bank - bank.mean(0), full_matrices=False)
    spread = along[:DIRECTIONS] * scales[:DIRECTIONS, None]
    found: dict[str, Any] = {}
    for place, start in (("shipped", shipped), ("best_known", best_known)):
        token = start.clone().requires_grad_(True)
        by_labels = labels(token, torch.arange(arms.LABELS), torch.Generator().manual_seed(seed))
        (wanted,) = torch.autograd.grad(by_labels, token)
        by_task = losses(token, rows, GRADIENT_DRAWS, seed)
        total = losses.weighted(by_task).mean()
        for task, loss in {**{task: loss.mean() for task, loss in by_task.items()}, "all": total}.items():
            (gradient,) = torch.autograd.grad(loss, token, retain_graph=True)
            own, label = gradient.flatten(), wanted.flatten()
            found[f"{task} at {place}"] = {
                "plain": cosine(own, label),
                "along the bank": cosine(spread @ own, spread @ label),
            }
    return found


def cosine(first: Tensor, second: Tensor) -> float:
    """Of two vectors."""
    return float(torch.nn.functional.cosine_similarity(first, second, dim=0))


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Means with intervals over arms. Shares of the gap in action error between before and the best token by labels."""
    before, oracle = (np.array([item["error"][name] for item in found]) for name in ("before", "oracle"))

    def reached(errors: list[float]) -> dict[str, Any]:
        values = np.array(errors)
        return {
            "action_error": arms.interval(values),
            "share_of_gap": float((before - values).sum() / (before - oracle).sum()),
        }

    return {
        "action_error": {"before": arms.interval(before), "oracle": arms.interval(oracle)},
        "by_experiences": {
            str(count): {part: reached([item["by_count"][count][part] for item in found]) for part in PARTS}
            for count in COUNTS
        },
        "each_loss_alone": {task: reached([item["alone"][task] for item in found]) for task in arms.LAMBDAS},
        "cosines": {
            name: {kind: arms.interval(np.array([item["cosines"][name][kind] for item in found])) for kind in kinds}
            for name, kinds in found[0]["cosines"].items()
        },
    }
