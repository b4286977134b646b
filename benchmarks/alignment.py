"""Does one alignment help an arm that training never saw? Paired episodes before and after, intervals over arms.

    python benchmarks/alignment.py --seed 1 --embodiments 48 --json alignment.json
    python benchmarks/alignment.py --family all --seed 1 --units 24 --json so101.json

With `--family` it is the SO-101, by family of shifts, beside every simpler method: `by_family.py`. Without, the arm of
two joints:

`before` is the better, on the mean, of E_0 and the token that a fresh install loads; alignment starts from the latter.
Without a guard are `best_known`, which is without the gradient, too, and `proposed`; `after` is what runs when
`align()` has answered (the old token, where it was refused), `oracle` the best token by the expert's labels.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import arms
import by_family
import diagnosis as diagnosis_of
import numpy as np
import typer
import yaml
from families import names_of
from machine import write
from torch import Tensor

from vla_align_ros.bench.collect import fill_buffer
from vla_align_ros.bench.evaluate import action_error
from vla_align_ros.bench.reach2.bench import BENCH
from vla_align_ros.bench.reach2.embodiment import Embodiments, training_embodiments
from vla_align_ros.policy import Policy
from vla_align_ros.policy.load import Device
from vla_align_ros.seeds import Part, seed_of
from vla_align_ros.zoo import find_model

STAGES = ("e_0", "shipped", "best_known", "proposed", "after", "oracle")
EULER_STEPS = (1, 2, 4, 10)


def one_arm(policy: Policy, arm: Embodiments, seed: int, episodes: int, exploration: float) -> dict[str, Any]:
    """Everything about one arm."""
    shipped, e_0 = arms.shipped_token(policy), policy.e_0
    experiences = fill_buffer(policy, BENCH, arm, shipped, seed, exploration)
    done = arms.aligned(policy, shipped, experiences, arms.recommended(policy), seed)
    oracle = arms.best_by_labels(policy, arm, [shipped, e_0, done.proposed], seed)
    tokens = dict(zip(STAGES, (e_0, shipped, done.best_known, done.proposed, done.used, oracle), strict=True))
    return {
        "success": by_token(tokens, lambda token: arms.successes(policy, arm, token, episodes, seed)),
        "action_error": by_token(
            tokens, lambda token: float(action_error(policy, BENCH, arm, token[None], seed, arms.ERROR_SAMPLES)[0])
        ),
        "report": done.report.to_json(),
        "reversed": bool((arm.gain < 0).any()),
    }


def by_token(tokens: dict[str, Tensor], measure: Any) -> dict[str, Any]:
    """`measure` of each stage's token, once for tokens that are the same."""
    found: dict[bytes, Any] = {}
    return {
        stage: found[key] if (key := token.cpu().numpy().tobytes()) in found else found.setdefault(key, measure(token))
        for stage, token in tokens.items()
    }


def own_token(policy: Policy, arm: Embodiments, row: int, seed: int, episodes: int) -> dict[str, float]:
    """A training arm with the bank's token for it, the cap: success, and action error by number of Euler steps."""
    token = policy.e_0 + policy.alignment.bank[row]
    errors = {n: action_error(policy, BENCH, arm, token[None], seed, arms.ERROR_SAMPLES, n)[0] for n in EULER_STEPS}
    return {
        "success": float(arms.successes(policy, arm, token, episodes, seed).mean()),
        **{f"action_error, {steps} Euler steps": float(error) for steps, error in errors.items()},
    }


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of all arms together."""
    success = {stage: np.array([item["success"][stage].mean() for item in found]) for stage in STAGES}
    errors = {stage: np.array([item["action_error"][stage] for item in found]) for stage in STAGES}
    first = max(("e_0", "shipped"), key=lambda stage: success[stage].mean())
    before, after = success[first], success["after"]
    reports = [item["report"] for item in found]
    harmed = [arms.worse(item["success"][first], item["success"]["after"]) for item in found]
    useful = [arms.worse(item["success"]["proposed"], item["success"]["shipped"]) for item in found]
    refused = [not report["accepted"] for report in reports]
    tasks = ("perception", "dynamics", "inverse_dynamics")
    has_reversed = np.array([item["reversed"] for item in found])
    stages = {"before": before, "after": after, "oracle": success["oracle"]}
    return {
        "before_is": first,
        "success_by_wiring": {
            name: {"arms": int(chosen.sum()), **{stage: arms.interval(part[chosen]) for stage, part in stages.items()}}
            for name, chosen in {"a joint reversed": has_reversed, "none reversed": ~has_reversed}.items()
            if chosen.any()
        },
        "success": {
            "before": arms.interval(before),
            **{stage: arms.interval(success[stage]) for stage in STAGES},
            "gain": arms.interval(after - before),
            "gain_of_gradient_over_pick": arms.interval(success["proposed"] - success["best_known"]),
            "gain_of_labels_over_pick": arms.interval(success["oracle"] - success["best_known"]),
            "share_of_gap": float((after - before).mean() / (success["oracle"] - before).mean()),
            "each_arm": {stage: success[stage].tolist() for stage in STAGES},
        },
        "action_error": {
            "before": arms.interval(errors[first]),
            **{stage: arms.interval(errors[stage]) for stage in STAGES},
            "gain_of_gradient_over_pick": arms.interval(errors["best_known"] - errors["proposed"]),
            "ratio_of_gradient_to_pick": {  # geometric mean over arms
                part: float(np.exp(value))
                for part, value in arms.interval(np.log(errors["proposed"] / errors["best_known"])).items()
            },
        },
        "worse_fraction": float(np.mean(harmed)),
        "accepted_fraction": 1.0 - float(np.mean(refused)),
        "useful_refused_fraction": float(np.mean([r for r, u in zip(refused, useful, strict=True) if u] or [0.0])),
        "reasons": dict(Counter(report["reason"] for report in reports)),
        "seconds": arms.interval(np.array([report["duration_s"] for report in reports])),
        "losses": {
            task: {
                part: float(np.mean([report[part][task] for report in reports if task in report[part]] or [np.nan]))
                for part in ("before", "best_known", "after")
            }
            for task in tasks
        },
    }


def main(
    model: Annotated[str | None, typer.Option(help="A folder of models/, or a path; of a family so101.")] = None,
    family: Annotated[str | None, typer.Option(help="Of the SO-101's shifts, or all.")] = None,
    seed: Annotated[int, typer.Option(help="Any seed gives other arms.")] = 1,
    embodiments: Annotated[int, typer.Option(help="How many arms.")] = 48,
    units: Annotated[int, typer.Option(min=2, help="How many arms of each family.")] = 24,
    episodes: Annotated[int | None, typer.Option(help="Of each arm and token: 100, of a family 20.")] = None,
    randomised: Annotated[str | None, typer.Option(help="Of a family: a model with one token for all.")] = None,
    scale: Annotated[float, typer.Option(help="Width of the shifts relative to training's.")] = 1.0,
    exploration: Annotated[float, typer.Option(help="Share of random motion in the experience.")] = 0.5,
    training_arms: Annotated[int, typer.Option(help="Training arms with their own token, for the cap.")] = 0,
    diagnosis: Annotated[bool, typer.Option("--diagnosis", help="Instead: why it helps (diagnosis.py).")] = False,
    jobs: Annotated[int, typer.Option(help="Processes of one thread each.")] = os.cpu_count() or 1,
    device: Annotated[Device, typer.Option(help="Of the network.")] = "cpu",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Align unseen arms once each, and measure."""
    if family is not None:
        try:
            names = names_of(family)
            settings = model or "so101", randomised, seed, units, episodes or 20, exploration, jobs, device, json_file
            print(json.dumps(by_family.run(names, *settings), indent=2))
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        return
    model, episodes = model or "tiny", episodes or 100
    unseen = arms.unseen_arms(embodiments, seed, scale)
    if diagnosis:
        each = [(unseen[i], seed_of(seed, Part.ROBOT, i), exploration) for i in range(embodiments)]
        why = diagnosis_of.summary(list(arms.each_arm(diagnosis_of.one_arm, model, each, jobs, device)))
        print(json.dumps(why, indent=2))
        write(json_file, why)
        return
    work = [(unseen[i], seed_of(seed, Part.ROBOT, i), episodes, exploration) for i in range(embodiments)]
    found = []
    for number, item in enumerate(arms.each_arm(one_arm, model, work, jobs, device)):
        found.append(item)
        rates = ", ".join(f"{stage} {item['success'][stage].mean():.2f}" for stage in STAGES)
        print(f"arm {number}: {rates}, {item['report']['reason']}", flush=True)
    result = summary(found)
    if training_arms:
        recipe = yaml.safe_load((find_model(model) / "recipe.yaml").read_text())
        bank = training_embodiments(recipe["bank_size"], recipe["seed"])
        chosen = np.random.default_rng(seed).permutation(recipe["bank_size"])[:training_arms]
        own = [(bank[int(row)], int(row), seed, episodes) for row in chosen]
        capped = list(arms.each_arm(own_token, model, own, jobs, device))
        result["training_arms_with_own_token"] = {
            name: arms.interval(np.array([item[name] for item in capped])) for name in capped[0]
        }
    print(json.dumps(result, indent=2))
    write(json_file, result)


if __name__ == "__main__":
    typer.run(main)
