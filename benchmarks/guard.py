"""Does the guard keep what harms? Alignments on corrupted experience of unseen SO-101s, and on clean one beside it.

    python benchmarks/guard.py --seed 1 --json guard.json
    python benchmarks/guard.py --family all --units 2 --json guard_all.json

An update is harmful when the paired action error on 256 held-out observations of the true arm rises by more than 5 %,
useful when it falls by more than 5 %. Buffers start in turn from the token of a fresh install and from one that is
aligned to the arm already, where there is more to lose. Mirrored pictures are no corruption: a wrist camera that is
mounted mirrored is one of the shifts. `without_check` counts again as if one check were not there, of those that the
model's tasks have statistics for: each is taken also where an earlier check ended the attempt. Goes on where it was cut
off, as `alignment.py`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import arms
import numpy as np
import typer
from families import asked_for, units
from machine import write
from resumable import Found, resumed_arms

from vla_align_ros.alignment.align import limits_of
from vla_align_ros.alignment.reasons import Reason
from vla_align_ros.bench.collect import collect_experience
from vla_align_ros.bench.evaluate import action_error
from vla_align_ros.bench.port import Bench, Embodiment
from vla_align_ros.bench.so101.joints import GRIPPER
from vla_align_ros.experience.builder import without_held
from vla_align_ros.experience.later import later
from vla_align_ros.limits import BY_NAME, CHECKS, first_refusal
from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy
from vla_align_ros.policy.load import Device
from vla_align_ros.seeds import Part, seed_of
from vla_align_ros.types import Experience, Observation, UInt8Array

HARM = USE = 0.05
HELD_OUT = 256
LEAST = "guard.too_little_experience"
Experiences = list[Experience]
Corrupt = Callable[[Experiences, Experiences, np.random.Generator], Experiences]


def shuffled_actions(clean: Experiences, other: Experiences, rng: np.random.Generator) -> Experiences:
    """Every experience has the commands of another one."""
    order = rng.permutation(len(clean))
    return [replace(item, commands=clean[row].commands) for item, row in zip(clean, order, strict=True)]


def late_actions(clean: Experiences, other: Experiences, rng: np.random.Generator) -> Experiences:
    """The commands of one chunk before."""
    return [
        replace(item, commands=before.commands) if before.episode == item.episode else item
        for before, item in zip([clean[0], *clean[:-1]], clean, strict=True)
    ]


def swapped_joints(clean: Experiences, other: Experiences, rng: np.random.Generator) -> Experiences:
    """Each joint of the arm has the commands of the next one; the gripper, whose commands are others, its own."""
    order = [*np.roll(np.arange(GRIPPER), 1).tolist(), GRIPPER]
    return [replace(item, commands=item.commands[:, order]) for item in clean]


def exchanged_cameras(clean: Experiences, other: Experiences, rng: np.random.Generator) -> Experiences:
    """Each camera's images are called the other's."""
    return on_images(clean, lambda seen: dict(zip(seen.images, reversed(list(seen.images.values())), strict=True)))


def constant_images(clean: Experiences, other: Experiences, rng: np.random.Generator) -> Experiences:
    """A grey picture."""
    return on_images(clean, lambda seen: {name: np.full_like(image, 128) for name, image in seen.images.items()})


def frozen_frames(clean: Experiences, other: Experiences, rng: np.random.Generator) -> Experiences:
    """The next observation shows what the first one showed."""
    return [with_images(item, item.observation.images, item.observation.images) for item in clean]


def stale_frames(clean: Experiences, other: Experiences, rng: np.random.Generator) -> Experiences:
    """All images are one chunk old."""
    return [
        with_images(item, before.observation.images, before.next_observation.images)
        if before.episode == item.episode
        else item
        for before, item in zip([clean[0], *clean[:-1]], clean, strict=True)
    ]


def second_robot(clean: Experiences, other: Experiences, rng: np.random.Generator) -> Experiences:
    """Half of the experiences are of another arm, one by one."""
    return [theirs if rng.random() < 0.5 else mine for mine, theirs in zip(clean, other, strict=True)]


def second_robots_episodes(clean: Experiences, other: Experiences, rng: np.random.Generator) -> Experiences:
    """Every other episode is of another arm."""
    return [theirs if mine.episode % 2 else mine for mine, theirs in zip(clean, other, strict=True)]


def one_in_ten_wrong(clean: Experiences, other: Experiences, rng: np.random.Generator) -> Experiences:
    """A tenth has the commands of another experience."""
    wrong = shuffled_actions(clean, other, rng)
    return [bad if rng.random() < 0.1 else item for bad, item in zip(wrong, clean, strict=True)]


def clean(clean: Experiences, other: Experiences, rng: np.random.Generator) -> Experiences:
    """As it was."""
    return clean


KINDS: tuple[Corrupt, ...] = (
    shuffled_actions,
    late_actions,
    swapped_joints,
    exchanged_cameras,
    constant_images,
    frozen_frames,
    stale_frames,
    second_robot,
    second_robots_episodes,
    one_in_ten_wrong,
)


def on_images(clean: Experiences, change: Callable[[Observation], dict[str, UInt8Array]]) -> Experiences:
    """Change all images."""
    return [with_images(item, change(item.observation), change(item.next_observation)) for item in clean]


def with_images(item: Experience, before: Any, after: Any) -> Experience:
    """An experience with other images."""
    observation = replace(item.observation, images=before)
    return replace(item, observation=observation, next_observation=replace(item.next_observation, images=after))


def buffer_size(policy: Policy) -> int:
    """As many experiences as an alignment of this model takes."""
    return arms.recommended(policy).align_max_experiences


def at_work(policy: Policy, bench: Bench[Embodiment], arm: Embodiment, seed: int) -> Experiences:
    """Twice what the buffer holds, half of the time random motion; a joint is held in some of it."""
    token = arms.shipped_token(policy)[None]
    (first,), (second,) = (
        collect_experience(policy, bench, [arm], token, buffer_size(policy), seed_of(seed, Part.TURN, turn))
        for turn in (0, 1)
    )
    return [*first, *later(second, first[-1])]


def in_buffer(policy: Policy, experiences: Experiences) -> Experiences:
    """What the robot's buffer would hold of it."""
    robot = policy.config.robot
    return without_held(experiences, robot)[-buffer_size(policy) :]


def one_unit(
    policy: Policy, bench: Bench[Embodiment], arm: Embodiment, other_arm: Embodiment, seed: int
) -> dict[str, list[Found]]:
    """Clean and corrupted attempts of one arm."""
    shipped, params = arms.shipped_token(policy), arms.recommended(policy)
    mine, theirs = (at_work(policy, bench, which, seed) for which in (arm, other_arm))
    aligned = arms.aligned(policy, shipped, in_buffer(policy, mine), params, seed).proposed

    def error(token: Any) -> float:
        return float(action_error(policy, bench, [arm], token[None], seed_of(seed, Part.HELD_OUT), HELD_OUT)[0])

    starts, limits = {"fresh": shipped, "aligned": aligned}, limits_of(policy, params)
    before = {name: error(token) for name, token in starts.items()}
    found = []
    for index, corrupt in enumerate((clean, *KINDS)):
        start = "fresh" if corrupt is clean or (index + seed) % 2 else "aligned"
        rng = np.random.default_rng([seed, index])
        corrupted = in_buffer(policy, corrupt(mine, theirs, rng))
        done = arms.aligned(policy, starts[start], corrupted, params, seed)
        report = done.report
        judged = done if report.after else arms.aligned(policy, starts[start], corrupted, begun(params), seed)
        statistics = judged.report.statistics
        found.append(
            {
                "kind": corrupt.__name__,
                "start": start,
                "kept": report.accepted,
                "reason": report.reason.value,
                "detail": report.detail,
                "change": error(judged.proposed) / before[start] - 1.0,
                "statistics": statistics,
                "refused_by": [name for name, value in statistics.items() if first_refusal({name: value}, limits)],
            }
        )
    return {"attempts": found}


def begun(params: AlignParams) -> AlignParams:
    """The same without the checks that end an alignment before it computes anything."""
    return params.updated({"guard.joints_do_not_follow": BY_NAME["joints_do_not_follow"].most, LEAST: 1.0})


def summary(found: list[Found]) -> dict[str, Any]:
    """The numbers of all buffers together."""
    corrupted = [item for item in found if item["kind"] != "clean"]
    of_use = [item for item in found if item["change"] < -USE]
    asked = [item for item in of_use if item["reason"] != Reason.ALREADY_ALIGNED.value]
    useful, tenth = ([item for item in asked if item["kind"] == kind] for kind in ("clean", "one_in_ten_wrong"))
    skipped = [item for item in of_use if item not in asked and item["kind"] == "clean"]
    harmful = [item for item in corrupted if item["change"] > HARM]
    by_kind = {}
    for kind in (function.__name__ for function in (clean, *KINDS)):
        mine = [item for item in found if item["kind"] == kind]
        by_kind[kind] = {
            "buffers": len(mine),
            "kept": sum(item["kept"] for item in mine),
            "would_harm": sum(item["change"] > HARM for item in mine),
            "harmful_kept": sum(item["kept"] and item["change"] > HARM for item in mine),
            "reasons": dict(Counter(item["reason"] for item in mine)),
        }
    return {
        "buffers": len(corrupted),
        "kinds": len(KINDS),
        "would_harm": len(harmful),
        "harmful_kept": sum(item["kept"] for item in harmful),
        "useful_refused_fraction": float(np.mean([not item["kept"] for item in useful] or [0.0])),
        "useful_refused_fraction_one_in_ten_wrong": float(np.mean([not item["kept"] for item in tenth] or [0.0])),
        "useful_clean": len(useful),
        "useful_clean_skipped_as_already_aligned": len(skipped),
        "useful_one_in_ten_wrong": len(tenth),
        "by_kind": by_kind,
        "without_check": {name: without(name, found) for name in asked_of(found)},
        "harmful_kept_details": [item for item in harmful if item["kept"]],
    }


def asked_of(found: list[Found]) -> list[str]:
    """The checks that have a statistic, if not of buffers of which nothing can be proposed."""
    asked = (check for check in CHECKS if not check.leaves_out)
    return [check.name for check in asked if any(check.name in item["statistics"] for item in found)]


def without(check: str, found: list[Found]) -> dict[str, int]:
    """What would be kept without a check, and what it alone refuses: harm of corrupted buffers, use of clean ones (of
    `already_aligned`: what it left as it was)."""
    passed = [item for item in found if not set(item["refused_by"]) - {check}]
    harmful, useful = (
        [item for item in passed if (item["kind"] == "clean") == clean_ and wanted(item["change"])]
        for clean_, wanted in ((False, lambda change: change > HARM), (True, lambda change: change < -USE))
    )
    return {
        "harmful_kept": len(harmful),
        "harmful_refused_by_it_alone": sum(bool(item["refused_by"]) for item in harmful),
        "useful_refused_by_it_alone": sum(bool(item["refused_by"]) for item in useful),
    }


def main(
    model: Annotated[str, typer.Option(help="A folder of models/, or a path.")] = "so101",
    family: Annotated[str, typer.Option(help="Of the SO-101's shifts, or all.")] = "wrist_camera",
    seed: Annotated[int, typer.Option(help="Any seed gives other arms.")] = 1,
    units_: Annotated[
        int, typer.Option("--units", min=1, help=f"Arms of each family, with {len(KINDS)} corrupted buffers each.")
    ] = 19,
    jobs: Annotated[int, typer.Option(help="Processes of one thread each.")] = os.cpu_count() or 1,
    device: Annotated[Device, typer.Option(help="Of the network.")] = "cpu",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Align on corrupted experience, and count what was kept."""
    names, sha256, bench = asked_for(family, model)
    found: list[Found] = []
    for name in names:
        robots = units(name, units_ + 1, seed_of(seed, Part.GUARD_ARMS))
        asked = [(bench, robots[i], robots[i + 1], seed_of(seed, Part.ROBOT, i)) for i in range(units_)]
        keys = [{"model": sha256, "seed": seed, "guard": name, "unit": place} for place in range(units_)]
        for unit in resumed_arms(json_file, keys, one_unit, model, asked, jobs, device, say):
            found += unit["attempts"]
    result = {"families": names, **summary(found)}
    print(json.dumps(result, indent=2))
    write(json_file, result)


def say(place: int, found: Found) -> None:
    """One unit, for who watches."""
    words = ", ".join(f"{i['kind']} {i['reason']} {i['change']:+.0%}" for i in found["attempts"])
    print(f"unit {place}: {words}", flush=True)


if __name__ == "__main__":
    typer.run(main)
