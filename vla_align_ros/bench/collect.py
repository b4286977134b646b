"""Experience of arms at work, for any bench. No ROS, no clock."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vla_align_ros.action.exploration import Exploration, exploring_actions
from vla_align_ros.bench.port import Arms, Bench, Embodiment
from vla_align_ros.bench.sampling import begin, draw_noise, sample_chunks
from vla_align_ros.experience.builder import without_held
from vla_align_ros.experience.later import later, moved
from vla_align_ros.experience.source import EXPERIENCES
from vla_align_ros.params import PolicyParams
from vla_align_ros.policy import Policy
from vla_align_ros.seeds import Part, Stream, rng_of, seed_of
from vla_align_ros.types import Experience

MOST_TIMES = 8  # at most about so many times as many experiences are recorded as are wanted
EPISODES, AN_EPISODE = 8, 16  # side by side; experiences of each
BETWEEN_EPISODES_NS = 2_000_000_000


def collect_experience(
    policy: Policy,
    bench: Bench[Embodiment],
    arms: Arms[Embodiment],
    tokens: Tensor,
    count: int,
    seed: int,
    exploration_fraction: float = 0.5,
    episodes: int = EPISODES,
) -> list[list[Experience]]:
    """`count` experiences of each arm, in order of time, from `episodes` of its own episodes that run side by side.

    tokens: (arms, peft_num_tokens, W). As live: `robot.execute` actions of each chunk are sent, a share of the time
    (`exploration_fraction`) is random motion inside the robot's limits, and an experience reaches over chunk seams.
    Raises PolicyError for a model of another robot.
    """
    horizon, execute = policy.model.architecture.action_horizon, policy.config.robot.execute
    span = -(-horizon // execute)
    rows = np.repeat(np.arange(len(arms)), episodes)
    batch = begin(policy, bench, [arms[row] for row in rows.tolist()], seed)
    speed = PolicyParams.exploration_speed_fraction * bench.robot.velocity_max
    exploration = Exploration(len(rows), horizon, execute, speed, rng_of(seed, Stream.EXPLORATION))
    seen, sent = [batch.observe()], []
    for step in range(-(-count // episodes) + span - 1):
        noise = draw_noise(policy, len(rows), seed_of(seed, Part.COLLECTING, step))
        chunks = sample_chunks(policy, seen[-1], tokens[torch.from_numpy(rows)], noise)
        velocities, exploring = exploration.chunk(exploration_fraction)
        for row in np.flatnonzero(exploring).tolist():
            start = bench.robot.measured(seen[-1][row].state)
            chunks[row] = exploring_actions(velocities[row], start, bench.robot, PolicyParams.ramp_ticks)
        sent.append(chunks[:, :execute])
        batch.execute(sent[-1])
        seen.append(batch.observe())
    made: list[list[Experience]] = [[] for _ in range(len(arms))]
    measured = [bench.robot.measured(np.stack([item.state for item in observed])) for observed in seen]
    origins = [np.where(bench.robot.kinds == "delta_position", each, np.float32(0.0)) for each in measured]
    for row in range(len(rows)):
        for step in range(len(sent) - span + 1):
            parts = [sent[at][row] + origins[at][row] for at in range(step, step + span)]
            commands = np.concatenate(parts)[:horizon] - origins[step][row]
            made[rows[row]].append(Experience(seen[step][row], commands, seen[step + span][row], row % episodes))
    return [_one_after_another(mine)[:count] for mine in made]


def _one_after_another(experiences: list[Experience]) -> list[Experience]:
    """Episodes that ran side by side, with stamps as if each had followed the other after a pause."""
    length_ns = max(item.next_observation.stamp_ns for item in experiences) + BETWEEN_EPISODES_NS
    return [moved(item, item.episode * length_ns) for item in experiences]


def fill_buffer(
    policy: Policy,
    bench: Bench[Embodiment],
    arm: Embodiment,
    token: Tensor,
    seed: int,
    exploration_fraction: float = 0.5,
    count: int = EXPERIENCES,
) -> list[Experience]:
    """`fill_buffers` of one arm at work with `token` (n, W)."""
    (found,) = fill_buffers(policy, bench, [arm], token[None], seed, exploration_fraction, count)
    return found


def fill_buffers(
    policy: Policy,
    bench: Bench[Embodiment],
    arms: Sequence[Embodiment],
    tokens: Tensor,
    seed: int,
    exploration_fraction: float = 0.5,
    count: int = EXPERIENCES,
) -> list[list[Experience]]:
    """The first `count` experiences of each arm at work with its token of `tokens` (arms, n, W) that a robot's buffer
    would hold: those in which a joint was held do not count. Fewer where MOST_TIMES as many recorded ones do not hold
    them."""
    robot, found = policy.config.robot, [list[Experience]() for _ in arms]
    recorded = turn = 0
    while recorded < MOST_TIMES * count and min(map(len, found), default=count) < count:
        wanting = [row for row, mine in enumerate(found) if len(mine) < count]
        missing = max(count - len(found[row]) for row in wanting)
        episodes = min(EPISODES, -(-missing // AN_EPISODE))
        made = collect_experience(
            policy,
            bench,
            [arms[row] for row in wanting],
            tokens[wanting],
            episodes * AN_EPISODE,
            seed_of(seed, Part.TURN, turn),
            exploration_fraction,
            episodes,
        )
        for row, mine in zip(wanting, made, strict=True):
            found[row] += later(without_held(mine, robot), found[row][-1] if found[row] else None)
        recorded, turn = recorded + episodes * AN_EPISODE, turn + 1
    return [mine[:count] for mine in found]
