"""What each part of an alignment is worth: the same unseen arms and experience, a row for each way to align.

    python benchmarks/side_by_side.py --seed 1 --json side_by_side.json

`align()` has the guard; the rows above it have none. Plain gradients are Adam's, without the step that training taught.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import arms
import numpy as np
import torch
import typer
from machine import write
from torch import Tensor

from vla_align_ros.alignment.losses import weights_of
from vla_align_ros.alignment.step import descend, find_best_known
from vla_align_ros.bench.collect import fill_buffer
from vla_align_ros.bench.evaluate import action_error
from vla_align_ros.bench.reach2.bench import BENCH
from vla_align_ros.bench.reach2.embodiment import Embodiments
from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy, flow
from vla_align_ros.policy.load import Device
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.seeds import Part, seed_of
from vla_align_ros.types import Experience

WEIGHTS_STEPS, WEIGHTS_RATE, WEIGHTS_BATCH = 40, 1e-4, 32


def one_arm(policy: Policy, arm: Embodiments, seed: int, episodes: int) -> dict[str, Any]:
    """Success and action error of one arm by row."""
    shipped, params = arms.shipped_token(policy), arms.recommended(policy)
    experiences = fill_buffer(policy, BENCH, arm, shipped, seed, 0.5)
    learn = arms.split_of(policy, experiences, params).learn

    def measured(token: Tensor) -> dict[str, float]:
        return {
            "success": float(arms.successes(policy, arm, token, episodes, seed).mean()),
            "action_error": float(action_error(policy, BENCH, arm, token[None], seed, arms.ERROR_SAMPLES)[0]),
        }

    found = {"no alignment": measured(shipped)}
    losses = arms.losses_of(policy, learn, params)
    rows = torch.arange(len(losses))
    best_known, _ = find_best_known(policy, losses, rows, shipped, seed)
    found["pick alone"] = measured(best_known)
    found["gradient alone"] = measured(descend(policy, losses, rows, shipped, params, seed)[0])
    for task in arms.LAMBDAS:
        proposal = arms.without_guard(policy, learn, arms.task_alone(params, task), shipped, seed)
        found[f"pick and gradient by {task} alone"] = measured(proposal.token)
    model = policy.model
    policy.model = all_weights(policy, learn, params, seed)
    found["all weights instead of the token"] = measured(shipped)
    policy.model = model
    done = arms.aligned(policy, shipped, experiences, params, seed)
    found["pick and gradient, guard off"] = measured(done.proposed)
    found["align()"] = measured(done.used)
    found["best token by labels"] = measured(
        arms.best_by_labels(policy, arm, [shipped, policy.e_0, done.proposed], seed)
    )
    return found


def all_weights(policy: Policy, experiences: Sequence[Experience], params: AlignParams, seed: int) -> Pi0:
    """A copy of the network, every weight trained by the alignment losses; the token stays."""
    model = copy.deepcopy(policy.model).requires_grad_(True)
    weights = weights_of(params)
    with torch.no_grad():
        inputs, experience = policy.prepare_experiences(experiences)
    token, generator = arms.shipped_token(policy), torch.Generator(policy.device).manual_seed(seed)
    optimizer = torch.optim.Adam(without(model.parameters(), model.peft_prefix_token), WEIGHTS_RATE)
    for step in range(WEIGHTS_STEPS):
        optimizer.param_groups[0]["lr"] = WEIGHTS_RATE * (1.0 - step / WEIGHTS_STEPS)
        rows = torch.randperm(len(experiences), generator=generator, device=policy.device)[:WEIGHTS_BATCH]
        state, part = inputs.state[rows], experience[rows]
        noise = model.draw_noise(state, part, weights, generator)
        time = flow.sample_time(len(rows), generator)
        cache = model.prefix_cache(inputs[rows])
        found = model.alignment_losses(cache, state, part, noise, time, token.expand(len(rows), -1, -1))
        loss = torch.stack([weights.of(task) * value.mean() for task, value in found.items()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.requires_grad_(False)


def without(parameters: Iterable[Any], left_out: Any) -> list[Any]:
    """All but one."""
    return [parameter for parameter in parameters if parameter is not left_out]


def summary(found: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Means with intervals over arms, and of the paired difference to no alignment."""

    def column(row: str, what: str) -> Any:
        return np.array([item[row][what] for item in found])

    interval: Callable[[Any], dict[str, float]] = arms.interval
    return {
        row: {
            "success": interval(column(row, "success")),
            "success_gain": interval(column(row, "success") - column("no alignment", "success")),
            "action_error": interval(column(row, "action_error")),
            "arms_with_higher_error": float(
                (column(row, "action_error") > column("no alignment", "action_error")).mean()
            ),
        }
        for row in found[0]
    }


def main(
    model: Annotated[str, typer.Option(help="A folder of models/, or a path.")] = "tiny",
    seed: Annotated[int, typer.Option(help="Any seed gives other arms.")] = 1,
    embodiments: Annotated[int, typer.Option(help="How many arms.")] = 24,
    episodes: Annotated[int, typer.Option(help="Of each arm and row.")] = 50,
    jobs: Annotated[int, typer.Option(help="Processes of one thread each.")] = os.cpu_count() or 1,
    device: Annotated[Device, typer.Option(help="Of the network.")] = "cpu",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Align unseen arms in every way, and measure."""
    unseen = arms.unseen_arms(embodiments, seed_of(seed, Part.SIDE_BY_SIDE_ARMS))
    work = [(unseen[i], seed_of(seed, Part.ROBOT, i), episodes) for i in range(embodiments)]
    found = []
    for number, item in enumerate(arms.each_arm(one_arm, model, work, jobs, device)):
        found.append(item)
        errors = ", ".join(f"{row} {part['action_error']:.3f}" for row, part in item.items())
        print(f"arm {number}: {errors}", flush=True)
    result = summary(found)
    print(json.dumps(result, indent=2))
    write(json_file, result)


if __name__ == "__main__":
    typer.run(main)
