"""An unseen arm that works and aligns itself in turns: success after each alignment, and after a second shift.

    python benchmarks/on_robot.py --rounds 10 --shift-after 5 --json on_robot.json
    python benchmarks/on_robot.py --rounds 20 --shift-after 0 --json drift.json
    python benchmarks/on_robot.py --unshifted --rounds 5 --shift-after 0 --episodes 100 --json unshifted.json

In each round the arm works with the token that it has (64 experiences, a share of them random motion), then aligns from
the newest 128. The second shift is an accident, of another kind for every third arm: the base camera is knocked, the
elbow is zeroed anew, or the shoulder's motor is reversed. Nobody tells the policy, and the buffer keeps what came
before. `off` is the same arm with the token of a fresh install. `--unshifted`: the arm that a fresh install fits
already, which alignments should leave as good as it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import arms
import numpy as np
import typer
from machine import write

from vla_align_ros.bench.collect import later
from vla_align_ros.bench.reach2.embodiment import Embodiments
from vla_align_ros.bench.reach2.embodiment import unshifted as unshifted_arms
from vla_align_ros.experience.builder import without_held
from vla_align_ros.policy import Policy
from vla_align_ros.policy.load import Device
from vla_align_ros.seeds import Part, seed_of
from vla_align_ros.types import Experience

EXPERIENCES_A_ROUND = 64
ACCIDENTS: dict[str, Callable[[Embodiments], Embodiments]] = {
    "base camera turned by 0.8 rad": lambda arm: replace(arm, base_azimuth_rad=arm.base_azimuth_rad + 0.8),
    "elbow zeroed anew, 0.8 rad off": lambda arm: replace(arm, offset_rad=arm.offset_rad + np.array([[0.0, 0.8]])),
    "shoulder's motor reversed": lambda arm: replace(arm, gain=arm.gain * np.array([[-1.0, 1.0]])),
}


def one_arm(
    policy: Policy, arm: Embodiments, number: int, seed: int, rounds: int, shift_after: int, exploration: float, n: int
) -> dict[str, Any]:
    """Success before and after each round, with alignment and without, and the verdicts; right after the accident."""
    shipped = token = arms.shipped_token(policy)
    on = [rate := float(arms.successes(policy, arm, token, n, seed).mean())]
    off, reasons, buffer, hit = [rate], [], list[Experience](), float("nan")
    accident = list(ACCIDENTS)[number % len(ACCIDENTS)]
    for index in range(rounds):
        if index and index == shift_after:
            arm = ACCIDENTS[accident](arm)
            hit = float(arms.successes(policy, arm, token, n, seed).mean())
            rate = float(arms.successes(policy, arm, shipped, n, seed).mean())
        made = arms.work(policy, arm, token, seed_of(seed, Part.ROUND, index), exploration, EXPERIENCES_A_ROUND)
        buffer += later(without_held(made, policy.config.robot), buffer)
        done = arms.aligned(policy, token, buffer, arms.recommended(policy), seed_of(seed, Part.ATTEMPT, index))
        token = done.used
        reasons.append(done.report.reason.value)
        on.append(float(arms.successes(policy, arm, token, n, seed).mean()))
        off.append(rate)
    return {"on": on, "off": off, "reasons": reasons, "accident": accident, "hit": hit}


def by_accident(found: list[dict[str, Any]], shift_after: int) -> dict[str, Any]:
    """Success just before the accident, right after it, and at the end, with alignment and without."""
    stages = {
        "before": [item["on"][shift_after] for item in found],
        "right after": [item["hit"] for item in found],
        "a round later": [item["on"][shift_after + 1] for item in found],
        "at the end": [item["on"][-1] for item in found],
        "at the end, alignment off": [item["off"][-1] for item in found],
    }
    return {"arms": len(found), **{stage: arms.interval(np.array(rates)) for stage, rates in stages.items() if rates}}


def main(
    model: Annotated[str, typer.Option(help="A folder of models/, or a path.")] = "tiny",
    seed: Annotated[int, typer.Option(help="Any seed gives other arms.")] = 1,
    embodiments: Annotated[int, typer.Option(help="How many arms.")] = 18,
    rounds: Annotated[int, typer.Option(help="Alignments, one after the other.")] = 10,
    shift_after: Annotated[int, typer.Option(help="Rounds until the second shift; 0 for none.")] = 5,
    exploration: Annotated[float, typer.Option(help="Share of random motion in the experience.")] = 0.5,
    episodes: Annotated[int, typer.Option(help="Of each arm after each round.")] = 32,
    unshifted: Annotated[bool, typer.Option("--unshifted", help="The unshifted arm, each time.")] = False,
    jobs: Annotated[int, typer.Option(help="Processes of one thread each.")] = os.cpu_count() or 1,
    device: Annotated[Device, typer.Option(help="Of the network.")] = "cpu",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Let unseen arms work and align in turns."""
    if shift_after >= rounds:
        raise typer.BadParameter(f"--shift-after must be below --rounds, which is {rounds}; got {shift_after}")
    drawn = seed_of(seed, Part.ON_ROBOT_ARMS)
    unseen = unshifted_arms(embodiments) if unshifted else arms.unseen_arms(embodiments, drawn)
    settings = rounds, shift_after, exploration, episodes
    work = [(unseen[i], i, seed_of(seed, Part.ROBOT, i), *settings) for i in range(embodiments)]
    found = []
    for number, item in enumerate(arms.each_arm(one_arm, model, work, jobs, device)):
        found.append(item)
        print(f"arm {number}: {' '.join(f'{rate:.2f}' for rate in item['on'])}, {item['reasons']}", flush=True)
    result: dict[str, Any] = {
        "rounds": rounds,
        "shift_after": shift_after,
        "exploration_fraction": exploration,
        **{
            name: [arms.interval(column) for column in np.array([item[name] for item in found]).T]
            for name in ("on", "off")
        },
        "gain_at_the_end": arms.interval(np.array([item["on"][-1] - item["off"][-1] for item in found])),
        "reasons": [item["reasons"] for item in found],
    }
    if shift_after:
        result["accidents"] = {
            kind: by_accident([item for item in found if item["accident"] == kind], shift_after) for kind in ACCIDENTS
        }
    print(json.dumps(result, indent=2))
    write(json_file, result)


if __name__ == "__main__":
    typer.run(main)
