"""Whole batches of episodes in process: success rates, and experience to align with. No ROS, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_align_ros.action.exploration import Exploration
from vla_align_ros.bench.reach2 import task
from vla_align_ros.bench.reach2.arm import EXPLORATION_RAD_S, PERIOD_S, encoder_reading, move_chunk
from vla_align_ros.bench.reach2.camera import CAMERAS, draw, with_sensor_noise
from vla_align_ros.bench.reach2.embodiment import Embodiments, FloatArray
from vla_align_ros.experience.builder import without_held
from vla_align_ros.policy import Policy
from vla_align_ros.types import Experience, Observation

PERIOD_NS = round(PERIOD_S * 1e9)
SAMPLE_BATCH = 256
EXPERIENCES, MOST_TURNS = 128, 8  # that an alignment uses; at most so many times as many are recorded for them
PAUSE_NS = 60_000_000_000


class Episodes:
    """n arms, each before its own table, at the same moment of their episodes."""

    def __init__(self, arms: Embodiments, seed: int, image_size: int) -> None:
        self.arms, self._size = arms, image_size
        rng, self._noise = np.random.default_rng([seed, 17]), np.random.default_rng([seed, 19])
        self.scene = task.sample_scene(len(arms), rng)
        self.angle_rad = task.sample_pose(len(arms), rng)
        self.last_command = np.zeros((len(arms), 2))
        self.prompts = task.prompts(self.scene.colours[:, 0], rng)
        self.tick = 0

    def observe(self) -> list[Observation]:
        """What each arm sees and feels now."""
        images = with_sensor_noise(draw(self.arms, self.angle_rad, self.scene, self._size), self._noise)
        state = encoder_reading(self.arms, self.angle_rad).astype(np.float32)
        stamp_ns = self.tick * PERIOD_NS
        return [
            Observation(dict(zip(CAMERAS, images[row], strict=True)), state[row], self.prompts[row], stamp_ns)
            for row in range(len(self.arms))
        ]

    def execute(self, commands: FloatArray | NDArray[np.float32]) -> None:
        """Run commanded velocities (n, ticks, 2) in rad/s."""
        self.angle_rad = move_chunk(self.arms, self.angle_rad, np.asarray(commands, np.float64), self.last_command)
        self.last_command = np.asarray(commands[:, -1], np.float64)
        self.tick += commands.shape[1]

    def distance_m(self) -> FloatArray:
        """Tip to target, (n,)."""
        return task.distance_m(self.arms, self.angle_rad, self.scene)


def sample_chunks(
    policy: Policy, observations: Sequence[Observation], tokens: Tensor, seed: int, num_steps: int | None = None
) -> NDArray[np.float32]:
    """Chunks (n, H, 2) in rad/s for n observations, each with its own token (n, peft_num_tokens, W)."""
    architecture = policy.model.architecture
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(observations), architecture.action_horizon, architecture.action_dim, generator=generator)
    parts = []
    for start in range(0, len(observations), SAMPLE_BATCH):
        rows = slice(start, start + SAMPLE_BATCH)
        inputs = policy.prepare(observations[rows])
        parts.append(policy.sample(inputs, noise[rows].to(policy.device), num_steps, tokens[rows]))
    return np.concatenate(parts)


def final_distances(
    policy: Policy,
    arms: Embodiments,
    tokens: Tensor,
    seed: int,
    shuffle_images: bool = False,
    ticks: int = task.EPISODE_TICKS,
) -> FloatArray:
    """Distance from the target (n,) in m at the end of one episode an arm, arm i with tokens[i].

    The same seed gives the same targets, poses and noise, so that runs are paired. shuffle_images: every arm is shown
    another arm's images, the control that shows whether the policy looks.
    """
    episodes = Episodes(arms, seed, policy.model.architecture.vision.image_size)
    execute = policy.config.robot.execute
    for step in range(ticks // execute):
        observations = episodes.observe()
        if shuffle_images:
            images = [item.images for item in observations]
            observations = [
                Observation(images[row - 1], item.state, item.prompt, item.stamp_ns)
                for row, item in enumerate(observations)
            ]
        chunks = sample_chunks(policy, observations, tokens, seed * 1009 + step)
        episodes.execute(chunks[:, :execute])
    return episodes.distance_m()


def collect_experience(
    policy: Policy,
    arm: Embodiments,
    tokens: Tensor,
    count: int,
    seed: int,
    exploration_fraction: float = 0.5,
    episodes: int = 8,
) -> list[list[Experience]]:
    """`count` experiences of each arm, in order of time, from `episodes` of its own episodes that run side by side.

    As live: `robot.execute` actions of each chunk are sent, a share of the time (`exploration_fraction`) is random
    motion, and an experience reaches over the chunks' seams.
    """
    num_arms, horizon, execute = len(arm), policy.model.architecture.action_horizon, policy.config.robot.execute
    span = -(-horizon // execute)
    rows = np.repeat(np.arange(num_arms), episodes)
    batch = Episodes(arm[rows], seed, policy.model.architecture.vision.image_size)
    exploration = Exploration(len(rows), horizon, execute, EXPLORATION_RAD_S, np.random.default_rng([seed, 23]))
    seen, sent = [batch.observe()], []
    for step in range(-(-count // episodes) + span - 1):
        chunks = sample_chunks(policy, seen[-1], tokens[torch.from_numpy(rows)], seed * 2003 + step)
        random, exploring = exploration.chunk(exploration_fraction)
        chunks = np.where(exploring[:, None, None], random, chunks)
        sent.append(chunks[:, :execute].astype(np.float32))
        batch.execute(sent[-1])
        seen.append(batch.observe())
    made: list[list[Experience]] = [[] for _ in range(num_arms)]
    for row in range(len(rows)):
        for step in range(len(sent) - span + 1):
            commands = np.concatenate([part[row] for part in sent[step : step + span]])[:horizon]
            made[rows[row]].append(Experience(seen[step][row], commands, seen[step + span][row], row % episodes))
    return [_one_after_another(mine)[:count] for mine in made]


def _one_after_another(experiences: list[Experience]) -> list[Experience]:
    """Episodes that ran side by side, with stamps as if each had followed the other after 2 s."""
    length = max(item.next_observation.stamp_ns for item in experiences) + 20 * PERIOD_NS
    shifted = []
    for item in experiences:
        before, after = (
            replace(seen, stamp_ns=seen.stamp_ns + item.episode * length)
            for seen in (item.observation, item.next_observation)
        )
        shifted.append(Experience(before, item.commands, after, item.episode))
    return shifted


def fill_buffer(
    policy: Policy,
    arm: Embodiments,
    token: Tensor,
    seed: int,
    exploration_fraction: float = 0.5,
    count: int = EXPERIENCES,
) -> list[Experience]:
    """The first `count` experiences of one arm (a row) at work with `token` that a robot's buffer would hold: those in
    which a joint was held do not count. Fewer where MOST_TURNS times as many recorded ones do not hold them."""
    robot, found = policy.config.robot, list[Experience]()
    for turn in range(MOST_TURNS * -(-count // EXPERIENCES)):
        seed_of_turn = seed + turn * 1_000_003
        (made,) = collect_experience(policy, arm, token[None], EXPERIENCES, seed_of_turn, exploration_fraction)
        found += later(without_held(made, robot), found)
        if len(found) >= count:
            break
    return found[:count]


def later(made: list[Experience], before: list[Experience]) -> list[Experience]:
    """Experience with stamps and episodes after those of `before`."""
    if not before:
        return made
    stamp_ns, episode = before[-1].next_observation.stamp_ns + PAUSE_NS, before[-1].episode + 1
    return [
        replace(
            item,
            observation=replace(item.observation, stamp_ns=item.observation.stamp_ns + stamp_ns),
            next_observation=replace(item.next_observation, stamp_ns=item.next_observation.stamp_ns + stamp_ns),
            episode=item.episode + episode,
        )
        for item in made
    ]


def action_error(
    policy: Policy, arm: Embodiments, tokens: Tensor, seed: int, count: int = 64, num_steps: int | None = None
) -> FloatArray:
    """Mean squared error of sampled chunks against the expert's, over the expert's power, one number an arm."""
    rows = np.repeat(np.arange(len(arm)), count)
    batch = Episodes(arm[rows], seed, policy.model.architecture.vision.image_size)
    horizon = policy.model.architecture.action_horizon
    wanted = task.expert_chunk(batch.arms, batch.angle_rad, batch.last_command, batch.scene, horizon)
    got = sample_chunks(policy, batch.observe(), tokens[torch.from_numpy(rows)], seed, num_steps)
    squared = ((got - wanted) ** 2).reshape(len(arm), -1).mean(1)
    error: FloatArray = squared / (wanted**2).reshape(len(arm), -1).mean(1)
    return error
