"""How costs grow: an alignment's with bank, experiences, cameras and horizon; the node's with its cameras and their
rate; what training gains by processes.

    python benchmarks/growth.py --json growth.json

An alignment: CPU seconds on one thread of a model of the zoo with a made-up bank and made-up experience; and counted,
at the full size, GFLOP of one `sample_actions` and of one row of an alignment (one draw of t and noise for one
experience). The node: `message_to_chunk.py` at several rates, with one camera and with two. Training: samples a second
of processes that `accelerate launch` starts, one thread each; it needs as many idle cores.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import machine
import message_to_chunk
import torch
import typer
import yaml
from timing import timed

from vla_align_ros.alignment.losses import ExperienceLosses
from vla_align_ros.alignment.pick import pick
from vla_align_ros.policy import Policy, load_policy
from vla_align_ros.policy.config import Architecture
from vla_align_ros.policy.load import to_bfloat16
from vla_align_ros.policy.losses import LossWeights
from vla_align_ros.speed import measure, whole
from vla_align_ros.speed.sizes import architecture, network
from vla_align_ros.training.recipe import VisionRecipe, load_recipe
from vla_align_ros.zoo import find_model

BANKS, EXPERIENCES, CAMERAS, HORIZONS = (64, 192, 512), (64, 128, 256), (1, 2, 3), (10, 50, 100)
LEARNED, NUM_STEPS = 96, 10
MODELS = {1: "so101", 2: "tiny"}  # by the number of the robot's cameras
RATES_HZ, SECONDS, DOMAIN = (15.0, 30.0, 60.0), 10.0, 71
RECIPE = machine.ROOT / "config" / "train" / "so101.yaml"
PROCESSES, STEPS, WARM_UP = (1, 2), 30, 5


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
    """GFLOP of each part, and the MB that an experience holds in bfloat16."""
    model, unlimited = network(a, "meta"), measure.Peak(math.inf, math.inf)
    to_bfloat16(model)
    parts = measure.sampling(measure.plan_of(model, NUM_STEPS), 0, unlimited)
    parts |= measure.aligning(model, 1, 0, unlimited)
    return {name: part["flops"] / 1e9 for name, part in parts.items()} | {"held_mb": measure.aligning_mb(model, 1)}


def by_rate() -> dict[str, dict[str, float]]:
    """Share of one core that the node takes without its model, and images lost."""
    found = {}
    for (cameras, model), image_hz in product(MODELS.items(), RATES_HZ):
        part = message_to_chunk.measure(find_model(model).resolve(), SECONDS, True, DOMAIN, image_hz)
        images = part["images"]
        lost = images["lost"] / images["published"]
        found[f"{cameras} at {image_hz:g} Hz"] = {"cpu_share": part["cpu_share"], "lost_share": lost}
    return found


def by_processes() -> dict[int, float]:
    """Samples a second of so many processes, of one shard that was made before."""
    recipe = load_recipe(RECIPE)
    samples = STEPS * recipe.batch_size
    source = recipe.source | {"robots": 16, "validation_robots": 1}
    short = {"source": source, "bank_robots": 16, "samples": samples, "alignment_samples": 0, "batch_parts": 2}
    short |= {"shard_samples": 4 * recipe.batch_size, "shard_epochs": STEPS}
    short |= {"vision": VisionRecipe(steps=1, batch_size=8, frames=64), "model": str(RECIPE.parent / str(recipe.model))}
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        path = folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(asdict(replace(recipe, **short))))
        for count in PROCESSES:
            (config := folder / f"{count}.yaml").write_text(
                yaml.safe_dump(
                    {"distributed_type": "MULTI_GPU" if count > 1 else "NO", "use_cpu": True, "num_processes": count}
                    | {"num_machines": 1, "machine_rank": 0, "main_process_port": 0, "mixed_precision": "no"}
                )
            )
            command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
            command += ["-m", "vla_align_ros.cli.main", "train", "--json", "--config", str(path)]
            began = dict[int, float]()
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            with subprocess.Popen(
                [*command, "--run", str(folder / f"run{count}")], stdout=subprocess.PIPE, text=True, env=environment
            ) as process:
                assert process.stdout is not None
                for text in process.stdout:
                    if text.startswith("{") and (line := json.loads(text)).get("stage") == "policy":
                        began[line["step"]] = time.perf_counter()
            assert process.returncode == 0, f"the training of {count} processes ended with {process.returncode}"
            first, last = WARM_UP, max(began)
            found[count] = (last - first) * recipe.batch_size / (began[last] - began[first])
    return found


def main(
    model: Annotated[str, typer.Option(help="Folder of a model, or its name in the zoo.")] = "so101",
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
        "node": by_rate(),
        "training": by_processes(),
    }
    print(json.dumps(numbers, indent=2))
    machine.write(json_file, numbers)


if __name__ == "__main__":
    typer.run(main)
