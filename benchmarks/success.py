"""Success rate of a model on the unshifted arm, with the token that a fresh install loads, and 95 % Wilson intervals.

    python benchmarks/success.py --json success.json
    python benchmarks/success.py --shuffle-images

One episode: a random pose, scene and prompt (seed, seed + 1, ...), 48 control ticks of 0.1 s; then the tip's distance
from the target counts. Everything goes through serialised messages, features, `sample_actions` and the chunk queue on a
simulated clock (`bench/clocked.py`). The control, --shuffle-images, shows every episode the pictures that the
episode before it recorded, tick by tick: a policy that looks must fail with them.
"""

from __future__ import annotations

import json
import platform
from collections import Counter
from pathlib import Path
from typing import Annotated

import cv2
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from vla_align_ros.bench.clocked import ClockedRun, Tap, run_clocked
from vla_align_ros.bench.evaluate import wilson_interval
from vla_align_ros.bench.reach2 import task
from vla_align_ros.bench.reach2.arm import PERIOD_NS, PERIOD_S
from vla_align_ros.bench.reach2.bench import BENCH
from vla_align_ros.bench.robot import SimMessage, SimulatedRobot
from vla_align_ros.observation.normalise import NormStatsError
from vla_align_ros.policy import Policy, PolicyError, load_policy
from vla_align_ros.policy.config import ModelConfigError
from vla_align_ros.policy.weights import WeightsError
from vla_align_ros.zoo import find_model

START_NS = 17_000_000_000 * PERIOD_NS
EPISODE_S = task.EPISODE_TICKS * PERIOD_S
LIMITS_M = (task.SUCCESS_M, 0.07)

Pictures = dict[tuple[str, int], bytes]  # (topic, stamp) -> message


def episode(policy: Policy, seed: int, latency_s: float, tap: Tap) -> ClockedRun:
    """One episode; the scene does not change before its end."""
    robot = SimulatedRobot(BENCH, BENCH.embodiment(0), START_NS, seed, episode_s=2 * EPISODE_S)
    return run_clocked(policy, robot, EPISODE_S, latency_s=latency_s, seed=seed, tap=tap)


def recording(pictures: Pictures) -> Tap:
    """A tap that keeps every picture."""

    def tap(message: SimMessage) -> SimMessage:
        if message.topic in BENCH.robot.cameras.values():
            pictures[message.topic, message.stamp_ns] = message.raw
        return message

    return tap


def showing(pictures: Pictures) -> Tap:
    """A tap that puts another episode's picture of the same time in the place of each."""

    def tap(message: SimMessage) -> SimMessage:
        raw = pictures.get((message.topic, message.stamp_ns), message.raw)
        return SimMessage(message.topic, message.stamp_ns, raw)

    return tap


def summary(runs: list[ClockedRun]) -> dict[str, object]:
    """Rates with intervals at each limit, and what happened to the chunks."""
    refused = sum((run.refused for run in runs), Counter())
    rates = {}
    for limit_m in LIMITS_M:
        successes = sum(run.distance_m <= limit_m for run in runs)
        interval = wilson_interval(successes, len(runs))
        rates[f"{limit_m:.2f}"] = {"successes": successes, "rate": successes / len(runs), "interval_95": interval}
    return {
        "episodes": len(runs),
        "within_m": rates,
        "chunks": sum(run.chunks for run in runs),
        "late_chunks": sum(run.late_chunks for run in runs),
        "refused": {reason.value: count for reason, count in refused.items()},
        "distances_m": [round(run.distance_m, 4) for run in runs],
    }


def main(
    model: Annotated[str, typer.Option(help="Folder of a model, or its name in the zoo.")] = "tiny",
    episodes: Annotated[int, typer.Option(min=1)] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the first episode; the others count up.")] = 1000,
    latency_s: Annotated[float, typer.Option(min=0.0, help="From control tick to arrival of the chunk.")] = 0.05,
    shuffle_images: Annotated[bool, typer.Option("--shuffle-images", help="Run the control too.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Measure how often the arm gets to its target."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        policy = load_policy(find_model(model), "cpu")
    except (ModelConfigError, WeightsError, NormStatsError, PolicyError) as error:
        raise typer.BadParameter(str(error)) from None
    runs: dict[str, list[ClockedRun]] = {"images": [], "shuffled_images": []}
    before: Pictures = {}
    if shuffle_images:  # the first episode is shown the last one's
        episode(policy, seed + episodes - 1, latency_s, recording(before))
    for number in track(range(seed, seed + episodes), "episodes", console=Console(stderr=True)):
        mine: Pictures = {}
        runs["images"].append(episode(policy, number, latency_s, recording(mine)))
        if shuffle_images:
            runs["shuffled_images"].append(episode(policy, number, latency_s, showing(before)))
            before = mine
    found = {name: summary(made) for name, made in runs.items() if made}
    table = Table(f"{policy.config.name}, unshifted arm", *(f"within {limit:.2f} m" for limit in LIMITS_M), "95 %")
    for name, part in found.items():
        rates = list(part["within_m"].values())
        low, high = rates[0]["interval_95"]
        table.add_row(name, *(f"{rate['successes']} of {episodes}" for rate in rates), f"{low:.1%} to {high:.1%}")
    Console().print(table)
    if json_file is not None:
        about = {
            "model": policy.config.name,
            "weights_sha256": policy.weights_sha256,
            "seed": seed,
            "latency_s": latency_s,
        }
        versions = {"machine": platform.machine(), "torch": torch.__version__, "opencv": cv2.__version__}
        json_file.write_text(json.dumps({**about, **versions, **found}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
