"""How the cost of an alignment grows: with the bank, the experiences, the cameras and the horizon.

    python benchmarks/growth.py --json growth.json

CPU seconds on one thread of a model of the zoo with a made-up bank and made-up experience; and counted, at the full
size, GFLOP of one `sample_actions` and of one row of an alignment (one draw of t and noise for one experience).
"""

from __future__ import annotations

import json
import math
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

BANKS, EXPERIENCES, CAMERAS, HORIZONS = (64, 192, 512), (32, 64, 128), (1, 2, 3), (10, 50, 100)
LEARNED, NUM_STEPS = 96, 10


def by_bank(policy: Policy) -> dict[int, float]:
    """Seconds of a pick from so many tokens."""
    learned = whole.random_experiences(policy, LEARNED)
    losses = ExperienceLosses(policy, learned, LossWeights()).without_dynamics()
    rows, found = torch.arange(LEARNED), {}
    for count in BANKS:
        tokens = policy.e_0 + torch.randn(count, *policy.e_0.shape, generator=torch.Generator().manual_seed(0))
        found[count] = timed(lambda tokens=tokens: pick(losses, rows, tokens, 0)).cpu_s
    return found


def by_experiences(policy: Policy) -> dict[int, dict[str, float]]:
    """Seconds of the parts of an alignment with so many."""
    return {
        count: {name: part["own_ms"] / 1e3 for name, part in whole.alignment(policy, count).items()}
        for count in EXPERIENCES
    }


def of_size(a: Architecture) -> dict[str, float]:
    """GFLOP of each part, and the MB that an experience holds in float32."""
    model, unlimited = network(a, "meta"), measure.Peak(math.inf, math.inf)
    parts = measure.sampling(measure.plan_of(model, NUM_STEPS), 0, unlimited)
    parts |= measure.aligning(model, 1, 0, unlimited)
    return {name: part["flops"] / 1e9 for name, part in parts.items()} | {"held_mb": measure.aligning_mb(model, 1)}


def main(
    model: Annotated[str, typer.Option(help="Folder of a model, or its name in the zoo.")] = "tiny",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Measure, with one thing changed at a time."""
    torch.set_num_threads(1)
    policy = load_policy(find_model(model), "cpu")
    names, full = ("base", "left", "right"), architecture("full", "pi0")
    numbers: dict[str, Any] = {
        "bank": by_bank(policy),
        "experiences": by_experiences(policy),
        "cameras": {count: of_size(architecture("full", "pi0", names[:count])) for count in CAMERAS},
        "horizon": {count: of_size(replace(full, action_horizon=count)) for count in HORIZONS},
    }
    print(json.dumps(numbers, indent=2))
    machine.write(json_file, numbers)


if __name__ == "__main__":
    typer.run(main)
