"""Measures the limits that an alignment is judged by, on the good experience of validation robots from any source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor

from vla_align_ros.alignment import experience_check, guard
from vla_align_ros.alignment.change import find_change
from vla_align_ros.alignment.evidence import collect, on_later
from vla_align_ros.alignment.losses import ExperienceLosses, weights_of
from vla_align_ros.alignment.split import Split, split, straying
from vla_align_ros.alignment.step import propose
from vla_align_ros.experience.builder import without_held
from vla_align_ros.experience.source import Source
from vla_align_ros.limits import BY_NAME, CHECKS
from vla_align_ros.params import AlignParams, PolicyParams
from vla_align_ros.policy import Policy
from vla_align_ros.policy.statistics import AlignmentStats, Limit
from vla_align_ros.seeds import Part, seed_of
from vla_align_ros.training.recipe import TrainingError
from vla_align_ros.types import Experience

VALIDATION_SEED, OTHER_SEEDS = 50_001, 1_000_000
Buffers = Sequence[Sequence[Experience]]
"""What one robot's buffer held at several times, each in order of time."""


def measure(
    policy: Policy, validation: Source, motion_r2: float, log: Callable[[dict[str, object]], None]
) -> AlignmentStats:
    """The limit of each check over the robots of `validation`, which is gone through twice: how far joints stray
    decides what is left out.

    Two buffers are asked with the token of a fresh install. A third one is asked with the token to which the first one
    led, since the guard also meets robots that are aligned already. Of a robot the value counts that is worst. A robot
    of which no buffer has enough to learn from and to judge by is left out. Raises TrainingError if all are.
    """
    stray = BY_NAME["joint_strays"]
    robots = range(len(validation.robots))
    strays = [far for row in robots for far in strays_of(policy, buffers_of(policy, validation, row))]
    if not strays:
        raise TrainingError(f"the limits: none of {len(robots)} validation robots moved freely often enough")
    stray_limit = stray.limit_of(strays)
    found: dict[str, list[float]] = {}
    count = 0
    for row in robots:
        buffers = buffers_of(policy, validation, row)
        fresh, aligned = statistics_of(policy, buffers, stray_limit, seed=row)
        log({"stage": "limits", "step": row + 1, "fresh": fresh, "aligned": aligned})
        count += bool(fresh)
        for check in CHECKS:
            asked = aligned if check.of_aligned else [*fresh, *aligned]
            values = [statistics[check.name] for statistics in asked if check.name in statistics]
            if values:
                found.setdefault(check.name, []).append(check.worst(values))
    missing = [name for name in BY_NAME if name not in found and name != stray.name]
    if missing:
        raise TrainingError(f"the limits of {missing}: no validation robot has experience that tells them")
    limits = {name: Limit(BY_NAME[name].limit_of(values), len(values)) for name, values in found.items()}
    limits[stray.name] = Limit(stray_limit, count)
    return AlignmentStats(4, {check.name: limits[check.name] for check in CHECKS}, motion_r2)


def buffers_of(policy: Policy, validation: Source, row: int) -> Buffers:
    """What a robot's buffer holds: as much as an alignment takes, half of the time random motion where the source can
    have it; as much as one begins with, without; and another one like the first, which of a recording may be a part of
    it again."""
    seed, start, asked = VALIDATION_SEED + row, policy.initial_token(), policy.config.recommended
    count, least = asked.align_max_experiences, asked.align_min_experiences
    assert start is not None
    return (
        *validation.experiences([row], policy, start[None], seed, count),
        *validation.experiences([row], policy, start[None], seed + OTHER_SEEDS, least, 0.0),
        *validation.experiences([row], policy, start[None], seed + 2 * OTHER_SEEDS, count),
    )


def strays_of(policy: Policy, buffers: Buffers) -> list[float]:
    """How far the joint strayed that did most, in each single experience."""
    robot = policy.config.robot
    return [far for buffer in buffers for far in straying(without_held(buffer, robot), robot).max(1).tolist()]


def statistics_of(
    policy: Policy, buffers: Buffers, stray_limit: float, seed: int
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Of one robot, by check: the first two buffers from the fresh token, and the third, or else the last usable one,
    from the token that the first led to. What is not usable is left out."""
    start, robot = policy.initial_token(), policy.config.robot
    assert start is not None
    params = PolicyParams.from_mapping(asdict(policy.config.recommended)).align
    *parts, again = (split(buffer, robot, stray_limit) for buffer in buffers)
    usable = [part for part in parts if part.usable]
    fresh = [_ask(policy, part, start, params, seed) for part in usable]
    aligned = [_ask(policy, again if again.usable else usable[-1], fresh[0][0], params, seed)] if usable else []
    return [statistics for _, statistics in fresh], [statistics for _, statistics in aligned]


def _ask(
    policy: Policy, part: Split, running: Tensor, params: AlignParams, seed: int
) -> tuple[Tensor, dict[str, float]]:
    """What an alignment would lead to, and its statistics; those of a task without weight, too, which a user may give
    it."""
    everything, weights = [*part.learn, *part.judged], weights_of(params)
    losses = ExperienceLosses(policy, everything, weights)
    learn, judge = torch.arange(len(part.learn)), torch.arange(len(part.learn), len(losses))
    proposal = propose(policy, losses, learn, running, params, seed)
    asked = losses.with_weights(
        replace(weights, lambda_perc=weights.lambda_perc or 1.0, lambda_inv=weights.lambda_inv or 1.0)
    )
    before = on_later(asked, running, judge, seed_of(seed, Part.JUDGING))
    evidence = collect(policy, asked, everything, judge, before, proposal, seed_of(seed, Part.JUDGING))
    rise = find_change(losses, running, proposal.token, seed_of(seed, Part.CHANGE)).rise
    of_experience = {**experience_check.statistics(part), "robot_changed": rise}
    return proposal.token, {**of_experience, **guard.statistics(evidence, weights)}
