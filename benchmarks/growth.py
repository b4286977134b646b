"""How the cost of an alignment grows: with the bank, the experiences, the cameras and the horizon.

    python benchmarks/growth.py --json growth.json

CPU seconds on one thread: a model of the zoo with a made-up bank and made-up experience; and, at the medium size, one
row of an alignment (a row: one draw of t and noise for one experience) beside one `sample_actions`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import machine
import torch
import typer
from timing import timed

from vla_align_ros.alignment.losses import ExperienceLosses
from vla_align_ros.alignment.pick import pick
from vla_align_ros.policy import Policy, load_policy
from vla_align_ros.policy.config import Architecture
from vla_align_ros.policy.losses import LossWeights
from vla_align_ros.speed import measure, whole
from vla_align_ros.speed.sizes import architecture, network
from vla_align_ros.zoo import find_model

BANKS, EXPERIENCES, CAMERAS, HORIZONS = (64, 192, 512, 2048), (32, 64, 128, 256), (1, 2, 3), (10, 50, 100)
LEARNED, ROWS, CALLS = 96, 4, 2


def by_bank(policy: Policy) -> dict[int, float]:
    """Seconds of a pick from so many tokens."""
    learned = whole.made_up(policy, LEARNED)
    losses = ExperienceLosses(policy, learned, LossWeights()).without_dynamics()
    rows, found = torch.arange(LEARNED), {}
    for count in BANKS:
        tokens = policy.e_0 + torch.randn(count, *policy.e_0.shape, generator=torch.Generator().manual_seed(0))
        found[count] = timed(lambda tokens=tokens: pick(losses, rows, tokens, 0)).cpu_s
    return found


def by_experiences(policy: Policy) -> dict[int, dict[str, float]]:
    """Seconds of the parts of an alignment with so many."""
    return {
        count: {name: part["cpu_ms"] / 1e3 for name, part in whole.alignment(policy, count).items()}
        for count in EXPERIENCES
    }


def of_size(a: Architecture) -> dict[str, dict[str, float]]:
    """CPU ms, GFLOP and, for an experience, MB."""
    model = network(a, "cpu")
    limit = measure.peak(model, torch.device("cpu"))
    parts = measure.sampling(measure.plan_of(model, 10), CALLS, limit) | measure.aligning(model, ROWS, CALLS, limit)
    found = {name: {"cpu_ms": part["cpu_ms"], "gflop": part["flops"] / 1e9} for name, part in parts.items()}
    found["prefix of a row"]["mb"] = measure.aligning_mb(model, 1)
    return found


def main(
    model: Annotated[str, typer.Option(help="Folder of a model, or its name in the zoo.")] = "tiny",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Measure, with one thing changed at a time."""
    torch.set_num_threads(1)
    policy = load_policy(find_model(model), "cpu")
    names, medium = ("base", "left", "right"), architecture("medium", "pi0")
    numbers: dict[str, Any] = {
        "bank": by_bank(policy),
        "experiences": by_experiences(policy),
        "cameras": {count: of_size(architecture("medium", "pi0", names[:count])) for count in CAMERAS},
        "horizon": {count: of_size(replace(medium, action_horizon=count)) for count in HORIZONS},
    }
    print(json.dumps(numbers, indent=2))
    machine.write(json_file, numbers)


if __name__ == "__main__":
    typer.run(main)
