"""What one alignment is worth on the SO-101, by family of shifts, beside every simpler method.

    python benchmarks/alignment.py --family wrist_camera --seed 1 --json wrist_camera.json
    python benchmarks/alignment.py --family all --randomised runs/so101_randomised/export --json so101.json

Rows are those of `family_rows.py`, gate and share those of `gates.py`, over all episodes and over those of each task. A
family whose harm is too small for the gate in every one of them is not asked for the rows that cost most. Called again
with the same file it goes on where it was cut off: `<file>.pieces.jsonl` has a line for each unit. Left out, and said
so: domain randomisation with a history of states and commands in its input (the network has none), low-rank
fine-tuning (`fine_tuned` is the whole network).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import arms
import numpy as np
import typer
from calibration import Lines, mean_of
from families import bench_of, names_of, recipe_of, sha256_of_folder, training_arms, units
from family_rows import CLASSICAL, Settings, answers_of, one_unit, other_rows, own_token
from family_rows import randomised as randomised_row
from gates import by_task, could_pass, of_task, summary
from landmarks import FORMULAS
from machine import write
from resumable import Found, pieces_file, resumed

from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.policy.load import Device
from vla_align_ros.seeds import Part, seed_of
from vla_align_ros.zoo import find_model

NOMINAL_BUFFERS = 4
AT_ONCE = 16  # robots whose answers are gathered side by side
GAPS = {
    "randomised with a history": "not measured: this network's input has no history of states and commands",
    "low-rank fine-tuning": "not measured: fine_tuned is the whole network, by the losses that the model aligns by",
}
Key = dict[str, Any]


def run(
    names: list[str],
    model: str,
    randomised: str | None,
    seed: int,
    count: int,
    scale: float,
    episodes: int,
    exploration: float,
    jobs: int,
    device: Device,
    json_file: Path | None,
) -> dict[str, Any]:
    """Each family by itself. Raises ValueError for a model of another bench, and for fewer than 2 episodes of a
    task."""
    folder, path = find_model(model), pieces_file(json_file)
    recipe = recipe_of(folder)
    bench, trained_on = bench_of(recipe), training_arms(folder, recipe)
    if episodes < 2 * len(bench.tasks):
        raise ValueError(f"expected at least 2 episodes of each of the {len(bench.tasks)} tasks, got {episodes}")
    about: Key = {"model": sha256_of_folder(folder), "exploration": exploration}
    each = partial(arms.each_arm, model=model, jobs=jobs, device=device)

    robots = [Embodiment()] * NOMINAL_BUFFERS + trained_on
    several = [robots[start : start + AT_ONCE] for start in range(0, len(robots), AT_ONCE)]

    def answers(places: list[int]) -> Iterator[Found]:
        asked = [(several[i], seed_of(arms.TEST_SEED, Part.ROBOT, i), bench, exploration) for i in places]
        for found in each(answers_of, arguments=asked):
            yield {"lines": [one.to_json() for one in found]}

    keys = [about | {"answers": row} for row in range(len(several))]
    parts = resumed(path, keys, answers, _saying("answers"))
    lines = [Lines.from_json(found) for part in parts for found in part["lines"]]
    nominal, bank = mean_of(lines[:NOMINAL_BUFFERS]), lines[NOMINAL_BUFFERS:]
    settings = Settings(bench, episodes, exploration, nominal, bank)
    about |= {"seed": seed, "episodes": episodes, "scale": scale}

    chosen = np.random.default_rng(seed).permutation(len(trained_on))[:count].tolist()

    def own(places: list[int]) -> Iterator[Found]:
        asked = [
            (trained_on[row], row, seed_of(seed, Part.ROBOT, row), settings) for row in map(chosen.__getitem__, places)
        ]
        return each(own_token, arguments=asked)

    capped = resumed(path, [about | {"own_token": row} for row in chosen], own, _saying("own token"))
    cap = arms.interval(np.array([np.mean(found["success"]) for found in capped]))
    tasks = [task.name.lower() for task in bench.tasks]
    each_task: dict[str, dict[str, Any]] = {}
    for place, task in enumerate(tasks):
        own_cap = np.array([np.mean(of_task(found["success"], place, len(tasks))) for found in capped])
        each_task[task] = {"families": {}, "own_token_cap": arms.interval(own_cap)}
    result: dict[str, Any] = {
        "families": {},
        "own_token_cap": cap,
        "left_out": GAPS,
        "hand_eye": f"knows what shifted: a formula for {', '.join(FORMULAS)}",
    }
    if len(tasks) > 1:
        result["by_task"] = each_task
    for name in names:
        robots = units(name, count, seed, scale)

        def aligned(places: list[int], name: str = name, robots: list[Embodiment] = robots) -> Iterator[Found]:
            asked = [(robots[i], name, seed_of(seed, Part.ROBOT, i), settings) for i in places]
            return each(one_unit, arguments=asked)

        def others(places: list[int], robots: list[Embodiment] = robots) -> Iterator[Found]:
            asked = [(robots[i], seed_of(seed, Part.ROBOT, i), settings) for i in places]
            return each(other_rows, arguments=asked)

        keys = [about | {"family": name, "unit": place} for place in range(count)]
        found = resumed(path, keys, aligned, _saying(name))
        if any(map(could_pass, [found, *by_task(found, len(tasks))])):
            more = [key | {"rows": "other"} for key in keys]
            for unit, added in zip(found, resumed(path, more, others, _saying(f"{name}, other rows")), strict=True):
                for part in ("rows", "seconds"):
                    unit[part] |= added[part]
        if randomised is not None:

            def rival(places: list[int], robots: list[Embodiment] = robots) -> Iterator[Found]:
                asked = [(robots[i], bench, seed_of(seed, Part.ROBOT, i), episodes) for i in places]
                return arms.each_arm(randomised_row, randomised, asked, jobs, device)

            keys = [key | {"randomised": sha256_of_folder(find_model(randomised))} for key in keys]
            for unit, row in zip(found, resumed(path, keys, rival, _saying(f"{name}, randomised")), strict=True):
                unit["rows"]["randomised"] = row
        result["families"][name] = summary(found, CLASSICAL, cap["mean"])
        for told, part in zip(each_task.values(), by_task(found, len(tasks)), strict=True):
            told["families"][name] = summary(part, CLASSICAL, told["own_token_cap"]["mean"])
    write(json_file, result)
    return result


def _saying(what: str) -> Any:
    def say(place: int, found: Found) -> None:
        if "rows" in found:
            rates = ", ".join(f"{name} {np.mean(part['success']):.2f}" for name, part in found["rows"].items())
            reason = found.get("report", {}).get("reason", "")
            print(f"{what} {place}: {rates} {reason}".rstrip(), flush=True)
        elif "success" in found:
            print(f"{what} {place}: {np.mean(found['success']):.2f}", flush=True)

    return say


def main(
    model: Annotated[str, typer.Option(help="A folder of models/, or a path.")] = "so101",
    family: Annotated[str, typer.Option(help="Of the SO-101's shifts, or all.")] = "all",
    seed: Annotated[int, typer.Option(help="Any seed gives other arms.")] = 1,
    units_: Annotated[int, typer.Option("--units", min=2, help="How many arms of each family.")] = 24,
    episodes: Annotated[int, typer.Option(min=2, help="Of each arm and token.")] = 20,
    randomised: Annotated[str | None, typer.Option(help="A model with one token for all robots.")] = None,
    scale: Annotated[float, typer.Option(help="Width of the shifts relative to training's.")] = 1.0,
    exploration: Annotated[float, typer.Option(help="Share of random motion in the experience.")] = 0.5,
    jobs: Annotated[int, typer.Option(help="Processes of one thread each.")] = os.cpu_count() or 1,
    device: Annotated[Device, typer.Option(help="Of the network.")] = "cpu",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Align unseen arms once each, and measure."""
    try:
        names = names_of(family)
        found = run(names, model, randomised, seed, units_, scale, episodes, exploration, jobs, device, json_file)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    typer.run(main)
