"""How long must an SO-101 work before an alignment is worth it? Success against robot-seconds spent on experience.

    python benchmarks/robot_seconds.py --family wrist_camera --seed 1 --json robot_seconds.json
    python benchmarks/robot_seconds.py --exploration 0 --json robot_seconds_own_policy.json

Each unit works once with the token of a fresh install; alignments start from that token by the first 8, 16, ... of its
experiences. Seconds are those of the episodes that these come from, up to the last one's end, of the ones that were
left out for a held joint, too. `proposed` has no guard. Goes on where it was cut off, as `alignment.py --family`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import arms
import numpy as np
import typer
from families import asked_for, units
from family_rows import measured, with_token
from machine import write
from resumable import Found, resumed_arms

from vla_align_ros.bench.collect import fill_buffer
from vla_align_ros.bench.so101.bench import So101
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.policy import Policy
from vla_align_ros.policy.load import Device
from vla_align_ros.seeds import Part, seed_of
from vla_align_ros.types import Experience

COUNTS = (8, 16, 32, 64, 128, 256)
STAGES = ("after", "proposed")
MOST_OF_IT = 0.8  # of the gain


def one_unit(policy: Policy, arm: Embodiment, seed: int, bench: So101, episodes: int, exploration: float) -> Found:
    """Success before, and by experience; the seconds that it took."""
    shipped, params = arms.shipped_token(policy), arms.recommended(policy)
    experiences = fill_buffer(policy, bench, arm, shipped, seed, exploration, max(COUNTS))

    def success(token: Any) -> float:
        return float(np.mean(measured(policy, bench, arm, with_token(policy, token), episodes, seed)["success"]))

    before, by_count = success(shipped), []
    for count in COUNTS:
        part = experiences[:count]
        done = arms.aligned(policy, shipped, part, params, seed)
        same = bool((done.used == shipped).all())
        proposed = success(done.proposed)
        by_count.append(
            {
                "seconds": robot_seconds(part),
                "after": before if same else proposed,
                "proposed": proposed,
                "reason": done.report.reason.value,
            }
        )
    return {"before": before, "by_count": by_count}


def robot_seconds(experiences: Sequence[Experience]) -> float:
    """Of each episode from its first observation to its last experience's end, all together."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for item in experiences:
        first.setdefault(item.episode, item.observation.stamp_ns)
        last[item.episode] = item.next_observation.stamp_ns
    return sum(last[episode] - first[episode] for episode in first) * 1e-9


def summary(found: list[Found]) -> dict[str, Any]:
    """The curve, and the seconds after which most of the gain of the most experience is there."""
    seconds = np.array([[part["seconds"] for part in unit["by_count"]] for unit in found])
    before = np.array([unit["before"] for unit in found])
    result: dict[str, Any] = {"units": len(found), "before": arms.interval(before), "by_experiences": {}}
    for place, count in enumerate(COUNTS):
        parts = [unit["by_count"][place] for unit in found]
        result["by_experiences"][str(count)] = {
            "robot_seconds": arms.interval(seconds[:, place]),
            **{stage: arms.interval(np.array([part[stage] for part in parts])) for stage in STAGES},
            "accepted_fraction": float(np.mean([part["reason"] == "kept" for part in parts])),
        }
    for stage in STAGES:
        rates = np.array([[part[stage] for part in unit["by_count"]] for unit in found]).mean(0)
        result[f"robot_seconds_for_{MOST_OF_IT:.0%}_of_the_gain, {stage}"] = seconds_for(
            MOST_OF_IT, float(before.mean()), seconds.mean(0), rates
        )
    return result


def seconds_for(part: float, before: float, seconds: Any, rates: Any) -> float | None:
    """When a curve of success over seconds has come so far from `before` to its end, between its points by a straight
    line. None where its end is no gain."""
    wanted = before + part * (rates[-1] - before)
    if rates[-1] <= before:
        return None
    curve, at = np.concatenate([[before], rates]), np.concatenate([[0.0], seconds])
    place = int(np.argmax(curve >= wanted))
    share = (wanted - curve[place - 1]) / (curve[place] - curve[place - 1])
    return float(at[place - 1] + share * (at[place] - at[place - 1]))


def main(
    model: Annotated[str, typer.Option(help="A folder of models/, or a path.")] = "so101",
    family: Annotated[str, typer.Option(help="Of the SO-101's shifts, or all.")] = "wrist_camera",
    seed: Annotated[int, typer.Option(help="Any seed gives other arms.")] = 1,
    units_: Annotated[int, typer.Option("--units", min=2, help="How many arms of each family.")] = 24,
    episodes: Annotated[int, typer.Option(help="Of each arm and token.")] = 20,
    exploration: Annotated[float, typer.Option(help="Share of random motion in the experience.")] = 0.5,
    jobs: Annotated[int, typer.Option(help="Processes of one thread each.")] = os.cpu_count() or 1,
    device: Annotated[Device, typer.Option(help="Of the network.")] = "cpu",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Align unseen arms by more and more experience, and measure."""
    names, sha256, bench = asked_for(family, model)
    about = {"model": sha256, "seed": seed, "episodes": episodes, "exploration": exploration}
    result: dict[str, Any] = {"exploration_fraction": exploration, "families": {}}
    for name in names:
        asked = [
            (arm, seed_of(seed, Part.ROBOT, place), bench, episodes, exploration)
            for place, arm in enumerate(units(name, units_, seed))
        ]
        keys = [about | {"robot_seconds": name, "unit": place} for place in range(units_)]
        found = resumed_arms(json_file, keys, one_unit, model, asked, jobs, device, say)
        result["families"][name] = summary(found)
    write(json_file, result)
    print(json.dumps(result, indent=2))


def say(place: int, found: Found) -> None:
    """One unit, for who watches."""
    curve = ", ".join(f"{part['seconds']:.0f} s {part['after']:.2f} {part['reason']}" for part in found["by_count"])
    print(f"unit {place}: before {found['before']:.2f}, {curve}", flush=True)


if __name__ == "__main__":
    typer.run(main)
