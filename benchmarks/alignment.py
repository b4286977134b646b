"""Does one alignment help an arm that training never saw? Paired episodes before and after, intervals over arms.

    python benchmarks/alignment.py --seed 1 --embodiments 24 --json alignment.json

Before is the token that a fresh install loads. `picked` stops after the gradient-free first step, `after` is what runs
when `align()` has answered (the old token, where it was refused).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import write
from numpy.typing import NDArray
from torch import Tensor

from vla_align_ros.alignment import align
from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy, load_policy
from vla_align_ros.sim.bench import action_error, collect_experience, final_distances
from vla_align_ros.sim.embodiment import Embodiments, sample_embodiments
from vla_align_ros.sim.task import SUCCESS_M
from vla_align_ros.zoo import find_model

EXPERIENCES = 128
STAGES = ("before", "picked", "after")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--embodiments", type=int, default=24)
    parser.add_argument("--episodes", type=int, default=16, help="of each arm")
    parser.add_argument("--scale", type=float, default=1.0, help="width of the shifts relative to training's")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    policy = load_policy(find_model(given.model), "cpu")
    arms = sample_embodiments(given.embodiments, 900_000 + given.seed, given.scale)
    tokens, reports = align_all(policy, arms, given.seed)
    result: dict[str, Any] = {}
    success = {stage: success_by_arm(policy, arms, tokens[stage], given.episodes, given.seed) for stage in STAGES}
    errors = {stage: action_error(policy, arms, tokens[stage], given.seed) for stage in STAGES}
    result["success"] = {stage: interval(values) for stage, values in success.items()}
    result["success"]["gain"] = interval(success["after"] - success["before"])
    result["action_error"] = {stage: interval(values) for stage, values in errors.items()}
    result["worse_fraction"] = float((success["after"] < success["before"] - 0.1).mean())
    result["accepted_fraction"] = float(np.mean([report["accepted"] for report in reports]))
    result["reasons"] = {r: sum(item["reason"] == r for item in reports) for r in {item["reason"] for item in reports}}
    result["seconds"] = interval(np.array([report["duration_s"] for report in reports]))
    for task in ("perception", "dynamics", "inverse_dynamics"):
        means = {part: float(np.mean([r[part][task] for r in reports if task in r[part]])) for part in STAGES}
        result.setdefault("losses", {})[task] = means
    print(json.dumps(result, indent=2))
    write(given.json, result)


def align_all(policy: Policy, arms: Embodiments, seed: int) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """One alignment of each arm from the shipped token; tokens (arms, n, W) of each stage."""
    start = policy.initial_token()
    assert start is not None
    assert policy.bank is not None
    assert policy.model.peft_prefix_token is not None
    e_0 = policy.model.peft_prefix_token.detach()
    experiences = collect_experience(policy, arms, start.expand(len(arms), -1, -1), EXPERIENCES, seed)
    recommended = policy.config.recommended
    lambdas = {name: getattr(recommended, name) for name in ("lambda_perc", "lambda_dyn", "lambda_inv")}
    tokens: dict[str, list[Tensor]] = {stage: [] for stage in STAGES}
    reports = []
    for mine in experiences:
        policy.swap_token(start)
        report = align(policy, mine, AlignParams(**lambdas), exploration_fraction=0.5, seed=seed)
        assert policy.token is not None
        row = report.picked_row
        tokens["before"].append(start)
        tokens["picked"].append(start if row is None else e_0 if row < 0 else e_0 + policy.bank[row])
        tokens["after"].append(policy.token)
        reports.append(report.to_json())
    return {stage: torch.stack(values) for stage, values in tokens.items()}, reports


def success_by_arm(policy: Policy, arms: Embodiments, tokens: Tensor, episodes: int, seed: int) -> NDArray[np.float64]:
    """Share of each arm's episodes that end within SUCCESS_M."""
    rows = np.repeat(np.arange(len(arms)), episodes)
    distances = final_distances(policy, arms[rows], tokens[torch.from_numpy(rows)], seed)
    shares: NDArray[np.float64] = (distances.reshape(len(arms), episodes) < SUCCESS_M).mean(1)
    return shares


def interval(values: NDArray[np.float64]) -> dict[str, float]:
    """Mean and 95 % bootstrap interval over arms."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (2000, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


if __name__ == "__main__":
    main()
