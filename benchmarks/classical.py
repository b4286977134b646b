"""The simplest rival of an alignment: a least-squares gain a joint, and the shipped token.

    python benchmarks/classical.py --seed 1 --embodiments 48 --json classical.json

Arms and experience are those of `alignment.py` with the same seed. `diagnose` fits each joint's gain from commands and
joint states; then the policy's commands are divided by it. A command divided by g moves a joint of gain k as the
command itself moves one of gain k / g, and so the bench runs it. The token stays the shipped one; no picture is used.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import arms
import numpy as np
import typer
from machine import write

from vla_align_ros.alignment.diagnosis import diagnose
from vla_align_ros.bench.collect import fill_buffer
from vla_align_ros.bench.evaluate import action_error
from vla_align_ros.bench.reach2.bench import BENCH
from vla_align_ros.bench.reach2.embodiment import Embodiments
from vla_align_ros.policy import Policy
from vla_align_ros.seeds import Part, seed_of

LEAST_GAIN = 0.1  # a joint that seems to move less is not sped up any further


def one_arm(policy: Policy, arm: Embodiments, seed: int, episodes: int, exploration: float) -> dict[str, Any]:
    """Success and action error of one arm, before and with its commands divided by the gains."""
    token = arms.shipped_token(policy)
    found = diagnose(fill_buffer(policy, BENCH, arm, token, seed, exploration), policy.config.robot)
    gains = np.array([1.0 if field.gain is None else field.gain for field in found])
    gains = np.where(np.abs(gains) < LEAST_GAIN, np.copysign(LEAST_GAIN, gains), gains)
    stages = {"before": arm, "classical": replace(arm, gain=arm.gain / gains)}
    return {
        "success": {name: arms.successes(policy, part, token, episodes, seed) for name, part in stages.items()},
        "action_error": {
            name: float(action_error(policy, BENCH, part, token[None], seed, arms.ERROR_SAMPLES)[0])
            for name, part in stages.items()
        },
        "signs_found": bool((np.sign(gains) == np.sign(arm.gain[0])).all()),
    }


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of all arms together."""
    success = {name: np.array([item["success"][name].mean() for item in found]) for name in ("before", "classical")}
    errors = {name: np.array([item["action_error"][name] for item in found]) for name in ("before", "classical")}
    harmed = [arms.worse(item["success"]["before"], item["success"]["classical"]) for item in found]
    return {
        "success": {
            **{name: arms.interval(values) for name, values in success.items()},
            "gain": arms.interval(success["classical"] - success["before"]),
            "each_arm": {name: values.tolist() for name, values in success.items()},
        },
        "action_error": {name: arms.interval(values) for name, values in errors.items()},
        "signs_found_fraction": float(np.mean([item["signs_found"] for item in found])),
        "worse_fraction": float(np.mean(harmed)),
    }


def main(
    model: Annotated[str, typer.Option(help="A folder of models/, or a path.")] = "tiny",
    seed: Annotated[int, typer.Option(help="Any seed gives other arms.")] = 1,
    embodiments: Annotated[int, typer.Option(help="How many arms.")] = 48,
    episodes: Annotated[int, typer.Option(help="Of each arm.")] = 100,
    exploration: Annotated[float, typer.Option(help="Share of random motion in the experience.")] = 0.5,
    jobs: Annotated[int, typer.Option(help="Processes of one thread each.")] = os.cpu_count() or 1,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Calibrate unseen arms once each, and measure."""
    unseen = arms.unseen_arms(embodiments, seed)
    work = [(unseen[np.array([i])], seed_of(seed, Part.ROBOT, i), episodes, exploration) for i in range(embodiments)]
    found = []
    for number, item in enumerate(arms.each_arm(one_arm, model, work, jobs, "cpu")):
        found.append(item)
        rates = ", ".join(f"{name} {values.mean():.2f}" for name, values in item["success"].items())
        print(f"arm {number}: {rates}", flush=True)
    result = summary(found)
    print(json.dumps(result, indent=2))
    write(json_file, result)


if __name__ == "__main__":
    typer.run(main)
