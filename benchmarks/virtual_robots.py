"""What a bank of virtual robots is worth on arms that really have a shift, against a bank of such arms.

    python benchmarks/virtual_robots.py --virtual runs/virtual/export --real models/so101 --json virtual_robots.json

Both models are of the bench so101: one trained from the unshifted arm's data and virtual robots made of it (a recipe
with `source: {bench: so101, robots: 1, families: [], virtual: {...}}`), the other from arms that differ. With --none a
third one, trained from the unshifted arm alone, which has E_0 and is not aligned. Every family by itself: unseen arms
with that shift, one alignment from the token of a fresh install on each model's own experience. Tables, poses and arms
are the same for all models.

share: (success with the virtual bank - before) / (success with the real one - before), where before is that of --none,
else of the virtual model without alignment. Not a number where the real bank gains less than LEAST_GAIN.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import arms
import numpy as np
import typer
from machine import write
from numpy.typing import NDArray
from torch import Tensor

from vla_align_ros.bench.collect import fill_buffer
from vla_align_ros.bench.evaluate import action_error, finished
from vla_align_ros.bench.so101.bench import BENCH, So101
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.shifts import Family, Split, draw_embodiment
from vla_align_ros.bench.so101.tasks import Task
from vla_align_ros.policy import Policy
from vla_align_ros.seeds import Part, seed_of

LEAST_GAIN = 0.05
EXACT = ("zeros", "scales", "signs", "command_scales", "delay", "wrist_roll", "wrist_mirror")
FAMILIES = (*EXACT, "wrist_camera", "front_camera")  # of these two a virtual robot's picture is exact but for position
TASKS = [task.name.lower() for task in Task]


Stages = dict[str, dict[str, float]]


def one_arm(
    policy: Policy, arm: Embodiment, tasks: tuple[str, ...], seed: int, episodes: int, exploration: float
) -> dict[str, Any]:
    """Success and action error of one arm before and after an alignment."""
    bench, shipped = BENCH.narrowed(tasks, ()), arms.shipped_token(policy)
    params = arms.recommended(policy)
    experiences = fill_buffer(policy, bench, arm, shipped, seed, exploration, params.align_max_experiences)
    done = arms.aligned(policy, shipped, experiences, params, seed)
    tokens = {"before": shipped, "proposed": done.proposed, "after": done.used}
    return {**measured(policy, bench, arm, tokens, seed, episodes), "accepted": done.report.accepted}


def unaligned(policy: Policy, arm: Embodiment, tasks: tuple[str, ...], seed: int, episodes: int) -> dict[str, Any]:
    """The same of a model that learned E_0 alone, and no alignment."""
    return measured(policy, BENCH.narrowed(tasks, ()), arm, {"before": policy.e_0}, seed, episodes)


def measured(
    policy: Policy, bench: So101, arm: Embodiment, tokens: Mapping[str, Tensor], seed: int, episodes: int
) -> dict[str, Stages]:
    """With each token (n, W), on the same tables."""
    return {
        "success": {
            stage: float(
                finished(policy, bench, [arm] * episodes, token.expand(episodes, -1, -1), seed).succeeded.mean()
            )
            for stage, token in tokens.items()
        },
        "action_error": {
            stage: float(action_error(policy, bench, [arm], token[None], seed)[0]) for stage, token in tokens.items()
        },
    }


def share(before: NDArray[np.float64], virtual: NDArray[np.float64], real: NDArray[np.float64]) -> dict[str, float]:
    """Of the real bank's gain that the virtual one has, with its 95 % bootstrap interval over arms."""
    rows = np.random.default_rng(0).integers(0, len(before), (4000, len(before)))
    gains = [(part - before) for part in (virtual, real)]
    if gains[1].mean() < LEAST_GAIN:
        return {"mean": float("nan"), "low": float("nan"), "high": float("nan")}
    drawn = [part[rows].mean(1) for part in gains]
    ratios = drawn[0] / np.where(np.abs(drawn[1]) < 1e-9, np.nan, drawn[1])
    low, high = np.nanquantile(ratios, [0.025, 0.975])
    return {"mean": float(gains[0].mean() / gains[1].mean()), "low": float(low), "high": float(high)}


def summary(found: dict[str, list[dict[str, Any]]], exact: bool) -> dict[str, Any]:
    """The numbers of one family, by model."""

    def column(model: str, what: str, stage: str) -> NDArray[np.float64]:
        return np.array([item[what][stage] for item in found[model]])

    result: dict[str, Any] = {"exact": exact, "arms": len(found["virtual"])}
    for model, items in found.items():
        result[model] = {
            what: {stage: arms.interval(column(model, what, stage)) for stage in items[0][what]}
            for what in ("success", "action_error")
        }
        if model != "none":
            result[model]["accepted"] = sum(item["accepted"] for item in items)
    before = column("none" if "none" in found else "virtual", "success", "before")
    for name, stage in (("share", "after"), ("share_without_guard", "proposed")):
        result[name] = share(before, *(column(model, "success", stage) for model in ("virtual", "real")))
    return result


def main(
    virtual: Annotated[str, typer.Option(help="Model trained on virtual robots: of models/, or a path.")],
    real: Annotated[str, typer.Option(help="Model trained on arms that differ.")],
    none: Annotated[str | None, typer.Option(help="Model trained on the unshifted arm alone.")] = None,
    family: Annotated[list[str] | None, typer.Option(help="These alone; repeat it.")] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="What the models were trained for; reach where left out.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Any seed gives other arms.")] = 1,
    units: Annotated[int, typer.Option(help="Arms of a family.", min=2)] = 24,
    episodes: Annotated[int, typer.Option(help="Of each arm and token.", min=1)] = 40,
    exploration: Annotated[float, typer.Option(help="Share of random motion in the experience.")] = 0.5,
    jobs: Annotated[int, typer.Option(help="Processes of one thread each.")] = os.cpu_count() or 1,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Align arms of each family with each model, and measure."""
    known, families, tasks = [one.value for one in Family], family or list(FAMILIES), tuple(task or ["reach"])
    if unknown := sorted(set(families) - set(known)):
        raise typer.BadParameter(f"no family {unknown}, there are {', '.join(known)}")
    if unknown := sorted(set(tasks) - set(TASKS)):
        raise typer.BadParameter(f"no task {unknown}, there are {', '.join(TASKS)}")
    models = {"virtual": virtual, "real": real}
    result = {}
    for name in families:
        numbers = [seed_of(seed, Part.ROBOT, number) for number in range(units)]
        alone = [(draw_embodiment(number, Split.TEST, [Family(name)]), tasks, number, episodes) for number in numbers]
        work = [(*asked, exploration) for asked in alone]
        found = {kind: list(arms.each_arm(one_arm, model, work, jobs, "cpu")) for kind, model in models.items()}
        if none is not None:
            found["none"] = list(arms.each_arm(unaligned, none, alone, jobs, "cpu"))
        result[name] = summary(found, name in EXACT)
        print(json.dumps({name: result[name]}), flush=True)
    write(json_file, result)


if __name__ == "__main__":
    typer.run(main)
