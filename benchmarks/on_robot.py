"""An unseen SO-101 that works and aligns itself in turns: success after each alignment, and after a second shift.

    python benchmarks/on_robot.py --rounds 10 --shift-after 5 --json on_robot.json

In each round the arm works with the token that it has (as many experiences as the model recommends to begin with, a
share of them random motion), then aligns from the newest, as many as it recommends at most. The second shift is an
accident, of another kind for every third arm: the wrist camera is remounted, the front camera is knocked, or the base
is turned. Nobody tells the policy, and the buffer keeps what came before, unless an alignment that is kept has left it
out as before a change (`before_change`; `left_out_without_an_accident` is the share of rounds before the accident in
which one did). A model that sees the wrist camera alone
loses nothing by the second, and should not by aligning after it.

An accident is recovered from when the mean success of its arms is back, within 0.05, at what it was just before, and
stays there; 0 alignments where it never fell below. `off` is the same arm with the token of a fresh install.
Goes on where it was cut off, as `alignment.py`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import arms
import numpy as np
import typer
from families import asked_for, units
from machine import write
from resumable import Found, resumed_arms
from torch import Tensor

from vla_align_ros.alignment import attempt
from vla_align_ros.bench.collect import fill_buffer
from vla_align_ros.bench.evaluate import finished
from vla_align_ros.bench.so101.bench import So101
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.experience.later import later
from vla_align_ros.policy import Policy
from vla_align_ros.policy.load import Device
from vla_align_ros.seeds import Part, seed_of
from vla_align_ros.types import Experience

RECOVERED_WITHIN = 0.05


def remounted(arm: Embodiment) -> Embodiment:
    """Rolled by 1.5 rad."""
    return replace(arm, wrist_roll_rad=math.remainder(arm.wrist_roll_rad + 1.5, 2 * math.pi))


def knocked(arm: Embodiment) -> Embodiment:
    """Turned by 0.12 rad about each axis, towards where training's range has more room."""
    rotation_rad = arm.front_rotation_rad - np.copysign(0.12, arm.front_rotation_rad)
    return replace(arm, front_rotation_rad=rotation_rad)


def turned(arm: Embodiment) -> Embodiment:
    """By 0.3 rad, towards where training's range has more room."""
    return replace(arm, base_yaw_rad=arm.base_yaw_rad - math.copysign(0.3, arm.base_yaw_rad))


ACCIDENTS: dict[str, Callable[[Embodiment], Embodiment]] = {
    "wrist camera rolled by 1.5 rad": remounted,
    "front camera turned by 0.12 rad about each axis": knocked,
    "base turned by 0.3 rad": turned,
}


def one_unit(
    policy: Policy,
    bench: So101,
    arm: Embodiment,
    accident: str,
    seed: int,
    rounds: int,
    shift_after: int,
    exploration: float,
    episodes: int,
) -> Found:
    """Success before and after each round, with alignment and without, and the verdicts; right after the accident."""
    shipped = token = arms.shipped_token(policy)
    params, buffer, hit = arms.recommended(policy), list[Experience](), None

    def success(arm: Embodiment, token: Tensor) -> float:
        tokens = token.expand(episodes, -1, -1)
        return float(finished(policy, bench, [arm] * episodes, tokens, seed).succeeded.mean())

    now = alone = success(arm, shipped)
    on, off, reasons, before_change = [now], [alone], [], []
    for index in range(rounds):
        if index and index == shift_after:
            arm = ACCIDENTS[accident](arm)
            now = hit = success(arm, token)
            alone = success(arm, shipped)
        working = seed_of(seed, Part.ROUND, index)
        made = fill_buffer(policy, bench, arm, token, working, exploration, params.align_min_experiences)
        buffer += later(made, buffer[-1] if buffer else None)
        done = attempt(policy, token, buffer, params, seed=seed_of(seed, Part.ATTEMPT, index))
        if done.token is not None:
            token = done.token
            buffer = [item for item in buffer if item.observation.stamp_ns >= done.report.changed_ns]
            now = success(arm, token)
        reasons.append(done.report.reason.value)
        before_change.append(done.report.before_change)
        on.append(now)
        off.append(alone)
    return {"on": on, "off": off, "reasons": reasons, "before_change": before_change, "accident": accident, "hit": hit}


def alignments_until_recovered(before: float, after: Sequence[float]) -> int | None:
    """How many it takes until success is back and stays. after: right after the accident, then after each alignment.
    None where it is not back at the end."""
    away = [place for place, rate in enumerate(after) if rate < before - RECOVERED_WITHIN - 1e-9]
    found = away[-1] + 1 if away else 0
    return found if found < len(after) else None


def by_accident(found: list[Found], shift_after: int) -> dict[str, Any]:
    """Success just before the accident, right after it, and at the end, with alignment and without; and how soon it was
    back, on the mean and of each arm."""
    before = np.array([item["on"][shift_after] for item in found])
    after = np.array([[item["hit"], *item["on"][shift_after + 1 :]] for item in found])
    stages = {
        "before": before,
        "right after": after[:, 0],
        "a round later": after[:, 1],
        "at the end": after[:, -1],
        "at the end, alignment off": np.array([item["off"][-1] for item in found]),
    }
    return {
        "arms": len(found),
        **{stage: arms.interval(rates) for stage, rates in stages.items()},
        "alignments_until_recovered": alignments_until_recovered(float(before.mean()), after.mean(0).tolist()),
        "of_each_arm": [alignments_until_recovered(*rates) for rates in zip(before, after, strict=True)],
    }


def summary(found: list[Found], shift_after: int) -> dict[str, Any]:
    """Of all arms, by round; and by accident."""
    quiet = slice(shift_after or None)
    result: dict[str, Any] = {
        **{
            name: [arms.interval(column) for column in np.array([item[name] for item in found]).T]
            for name in ("on", "off")
        },
        "gain_at_the_end": arms.interval(np.array([item["on"][-1] - item["off"][-1] for item in found])),
        "reasons": [item["reasons"] for item in found],
        "before_change": [item["before_change"] for item in found],
        "left_out_without_an_accident": float(
            np.mean(
                [
                    count > 0 and reason == "kept"
                    for item in found
                    for count, reason in zip(item["before_change"][quiet], item["reasons"][quiet], strict=True)
                ]
            )
        ),
    }
    if shift_after:
        kinds = {kind: [item for item in found if item["accident"] == kind] for kind in ACCIDENTS}
        result["accidents"] = {kind: by_accident(mine, shift_after) for kind, mine in kinds.items() if mine}
    return result


def main(
    model: Annotated[str, typer.Option(help="A folder of models/, or a path.")] = "so101",
    family: Annotated[str, typer.Option(help="Of the SO-101's shifts, or all: an arm's first.")] = "wrist_camera",
    seed: Annotated[int, typer.Option(help="Any seed gives other arms.")] = 1,
    units_: Annotated[int, typer.Option("--units", min=1, help="How many arms of each family.")] = 18,
    rounds: Annotated[int, typer.Option(min=1, help="Alignments, one after the other.")] = 10,
    shift_after: Annotated[int, typer.Option(min=0, help="Rounds until the second shift; 0 for none.")] = 5,
    exploration: Annotated[float, typer.Option(help="Share of random motion in the experience.")] = 0.5,
    episodes: Annotated[int, typer.Option(help="Of each arm after each round.")] = 32,
    jobs: Annotated[int, typer.Option(help="Processes of one thread each.")] = os.cpu_count() or 1,
    device: Annotated[Device, typer.Option(help="Of the network.")] = "cpu",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Let unseen arms work and align in turns."""
    names, sha256, bench = asked_for(family, model)
    if shift_after >= rounds:
        raise typer.BadParameter(f"--shift-after must be below --rounds, which is {rounds}; got {shift_after}")
    settings = {"rounds": rounds, "shift_after": shift_after, "exploration_fraction": exploration, "episodes": episodes}
    about, found = {"model": sha256, "seed": seed, **settings}, list[Found]()
    for name in names:
        robots = units(name, units_, seed_of(seed, Part.ON_ROBOT_ARMS))
        asked = [
            (bench, arm, list(ACCIDENTS)[i % len(ACCIDENTS)], seed_of(seed, Part.ROBOT, i), *settings.values())
            for i, arm in enumerate(robots)
        ]
        keys = [about | {"on_robot": name, "unit": place} for place in range(units_)]
        found += resumed_arms(json_file, keys, one_unit, model, asked, jobs, device, say)
    result = {**settings, **summary(found, shift_after)}
    print(json.dumps(result, indent=2))
    write(json_file, result)


def say(place: int, found: Found) -> None:
    """One unit, for who watches."""
    print(f"unit {place}: {' '.join(f'{rate:.2f}' for rate in found['on'])}, {found['reasons']}", flush=True)


if __name__ == "__main__":
    typer.run(main)
