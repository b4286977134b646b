"""The two-joint arm as a source: what an arm saw, what its expert would do, what was done, what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vla_align_ros.action.exploration import motion
from vla_align_ros.bench.collect import fill_buffers
from vla_align_ros.bench.reach2 import camera, task
from vla_align_ros.bench.reach2.arm import EXPLORATION_RAD_S, PERIOD_NS, encoder_reading, move_chunk
from vla_align_ros.bench.reach2.bench import BENCH
from vla_align_ros.bench.reach2.embodiment import Embodiments, FloatArray, sample_embodiments, training_embodiments
from vla_align_ros.bench.reach2.labels import (
    POINT_CAMERAS,
    draw_frames,
    prefix_keypoints,
    probe_pairs,
    training_pairs,
)
from vla_align_ros.experience.source import Labels, RawSamples, Shifts, Sources
from vla_align_ros.policy import Policy
from vla_align_ros.types import Experience, Float32Array, Observation, UInt8Array

VALIDATION_SEED = 50_001  # never a seed of training arms or of a reported test
TRAINING_LABELS, VALIDATION_LABELS = (
    Labels(POINT_CAMERAS, draw_frames, pairs) for pairs in (training_pairs, probe_pairs)
)


@dataclass(frozen=True)
class Reach2Source:
    """`arms` at work; their names are `name` and a number. labels: of other arms of the same kind."""

    arms: Embodiments
    name: str
    labels: Labels
    shifts: Shifts | None = None  # so few that each arm's token is learned from it alone

    @cached_property
    def robots(self) -> tuple[str, ...]:
        return tuple(f"{self.name}/{number}" for number in range(len(self.arms)))

    @property
    def prompts(self) -> tuple[str, ...]:
        return task.ALL_PROMPTS

    def samples(
        self, robot: NDArray[np.int64], horizon: int, size: int | None, rng: np.random.Generator, beyond: int = 0
    ) -> RawSamples:
        """See `Source`. What is to be imitated is what the arm's own expert would do."""
        count, mine = len(robot), self.arms[robot]
        scene = task.sample_scene(count, rng)
        pose = task.training_pose(mine, scene, rng)
        first = task.expert_chunk(mine, pose, np.zeros((count, 2)), scene, 1)[:, 0]
        last = np.where(rng.random((count, 1)) < 0.5, first, motion(count, 1, rng, EXPLORATION_RAD_S)[:, 0])
        actions = task.expert_chunk(mine, pose, last, scene, horizon + beyond)
        commands = executions(actions, rng)
        after = move_chunk(mine, pose, commands[:, :horizon], last)
        seen, seen_after = (_observed(mine, angles, scene, size) for angles in (pose, after))
        prompts = task.prompts(scene.colours[:, 0], rng)
        experiences = [
            Experience(
                Observation(*seen[row], prompts[row], 0),
                sent,
                Observation(*seen_after[row], prompts[row], horizon * PERIOD_NS),
                row,
            )
            for row, sent in enumerate(commands.astype(np.float32))
        ]
        return RawSamples(experiences, actions.astype(np.float32), robot, prefix_keypoints(mine, pose, scene))

    def experiences(
        self,
        robots: Sequence[int],
        policy: Policy,
        tokens: Tensor,
        seed: int,
        count: int,
        exploration_fraction: float = 0.5,
    ) -> list[list[Experience]]:
        """See `Source`."""
        arms = [self.arms[robot] for robot in robots]
        return fill_buffers(policy, BENCH, arms, tokens, seed, exploration_fraction, count)


def open_sources(seed: int, robots: int = 192, validation_robots: int = 32) -> Sources:
    """Arms to train on, the first one unshifted, and others."""
    return Sources(
        Reach2Source(training_embodiments(robots, seed), f"reach2-{seed}", TRAINING_LABELS),
        Reach2Source(
            sample_embodiments(validation_robots, VALIDATION_SEED), f"reach2-{VALIDATION_SEED}", VALIDATION_LABELS
        ),
    )


def _observed(
    arms: Embodiments, angle_rad: FloatArray, scene: camera.Scene, size: int | None
) -> list[tuple[dict[str, UInt8Array], Float32Array]]:
    """Images and encoders of each arm."""
    state = encoder_reading(arms, angle_rad).astype(np.float32)
    if size is None:
        return [({}, mine) for mine in state]
    images = camera.draw(arms, angle_rad, scene, size)
    return [(dict(zip(camera.CAMERAS, images[row], strict=True)), mine) for row, mine in enumerate(state)]


def executions(actions: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """What a robot at work sends in the H ticks from a random moment on: the expert's `actions` (n, H, 2), perturbed,
    or random motion, half of the time each, and a horizon long, so that one seam between two of them lies anywhere.

    Half of the expert's actions are scaled as another arm's expert would send them, signs included: what a policy does
    whose token does not fit.
    """
    count, horizon, _ = actions.shape
    other = np.exp(rng.uniform(-0.7, 0.7, (count, 1, 2))) * rng.choice([-1.0, 1.0], (count, 1, 2))
    sent = actions * np.where(rng.random((count, 1, 1)) < 0.5, other, 1.0)
    expert_like = rng.random((count, 2)) < 0.5
    first, second = (
        np.where(
            expert_like[:, part, None, None], task.perturbed(sent, rng), motion(count, horizon, rng, EXPLORATION_RAD_S)
        )
        for part in range(2)
    )
    later = np.arange(horizon) >= rng.integers(1, horizon + 1, (count, 1))
    return np.where(later[..., None], second, first)
