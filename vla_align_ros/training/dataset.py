"""Training samples from the bench: what an arm saw, what its expert would do, what was done, what came of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_align_ros.action.exploration import motion
from vla_align_ros.bench.reach2 import camera, task
from vla_align_ros.bench.reach2.arm import EXPLORATION_RAD_S, encoder_reading, move_chunk
from vla_align_ros.bench.reach2.embodiment import Embodiments
from vla_align_ros.observation.normalise import Normaliser, NormMode, NormStats
from vla_align_ros.policy.features import FeatureExtractor
from vla_align_ros.policy.inputs import ExperienceInput, PolicyInput
from vla_align_ros.policy.tokenizer import PromptTokenizer
from vla_align_ros.training.vision import keypoints, to_model_image

NUM_PREFIX_KEYPOINTS = 4  # in the first camera: target, tip, elbow; in the second: target


@dataclass(frozen=True)
class RawSamples:
    """n samples in robot units. images, next_images (n, C, S, S, 3) uint8; state (n, 2) rad; actions, commands (n, H,
    2)
    rad/s: what the expert would do, and what was done; points (n, 4, 2) in image widths; arm (n,) its row.
    """

    images: NDArray[np.uint8]
    next_images: NDArray[np.uint8]
    state: NDArray[np.float32]
    actions: NDArray[np.float32]
    commands: NDArray[np.float32]
    prompts: list[str]
    points: NDArray[np.float32]
    arm: NDArray[np.int64]


def draw_samples(
    arms: Embodiments, rows: NDArray[np.int64], horizon: int, size: int | None, rng: np.random.Generator
) -> RawSamples:
    """One sample for each entry of `rows`; `size` None leaves the images out."""
    count, mine = len(rows), arms[rows]
    scene = task.sample_scene(count, rng)
    pose = task.training_pose(mine, scene, rng)
    first = task.expert_chunk(mine, pose, np.zeros((count, 2)), scene, 1)[:, 0]
    last = np.where(rng.random((count, 1)) < 0.5, first, motion(count, 1, rng, EXPLORATION_RAD_S)[:, 0])
    actions = task.expert_chunk(mine, pose, last, scene, horizon)
    commands = executions(actions, rng)
    after = move_chunk(mine, pose, commands, last)
    points = keypoints(mine, pose, scene)
    asked = 3 + scene.colours[:, 0]
    everyone = np.arange(count)
    chosen = np.stack(
        [points[everyone, 0, asked], points[:, 0, 0], points[:, 0, 1], points[everyone, 1, asked]], axis=1
    )
    drawn = [
        np.empty((count, 0), np.uint8) if size is None else camera.draw(mine, angles, scene, size)
        for angles in (pose, after)
    ]
    return RawSamples(
        drawn[0],
        drawn[1],
        encoder_reading(mine, pose).astype(np.float32),
        actions.astype(np.float32),
        commands.astype(np.float32),
        task.prompts(scene.colours[:, 0], rng),
        np.clip(chosen, -1.0, 2.0).astype(np.float32),
        rows,
    )


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


def norm_stats(arms: Embodiments, horizon: int, seed: int, count: int = 20_000) -> dict[str, NormStats]:
    """Statistics of states and actions (expert's and executed ones together) over the training arms."""
    rng = np.random.default_rng([seed, 2])
    raw = draw_samples(arms, rng.integers(0, len(arms), count), horizon, None, rng)
    both = np.concatenate([raw.actions, raw.commands]).reshape(-1, raw.actions.shape[-1])
    return {name: _stats_of(values) for name, values in (("state", raw.state), ("actions", both))}


def _stats_of(values: NDArray[np.float32]) -> NormStats:
    q01, q99 = np.quantile(values, [0.01, 0.99], axis=0).astype(np.float32)
    return NormStats(values.mean(0).astype(np.float32), values.std(0).astype(np.float32), q01, q99)


@dataclass(frozen=True)
class Samples:
    """The same as tensors, normalised and tokenised; images stay uint8 until a batch is picked."""

    images: Tensor
    tokens: Tensor
    token_masks: Tensor
    state: Tensor
    actions: Tensor
    commands: Tensor
    features: Tensor
    points: Tensor
    arm: Tensor

    def policy_input(self, rows: Tensor) -> PolicyInput:
        """The prefix and state of some rows."""
        images = to_model_image(self.images[rows])
        present = torch.ones(len(rows), dtype=torch.bool, device=self.state.device)
        cameras = images.shape[1]
        return PolicyInput(
            images.unbind(1), (present,) * cameras, self.tokens[rows], self.token_masks[rows], self.state[rows]
        )

    def experience_input(self, rows: Tensor) -> ExperienceInput:
        """What the alignment tasks learn from, of the same rows."""
        device = self.state.device
        masks = torch.ones(len(rows), self.features.shape[1], dtype=torch.bool, device=device)
        dims = torch.ones(self.state.shape[1], dtype=torch.bool, device=device)
        return ExperienceInput(self.commands[rows], self.features[rows], masks, dims, dims)


class SampleMaker:
    """Raw samples -> tensors where the features are, with one model's statistics, tokenizer and features."""

    def __init__(
        self, stats: dict[str, NormStats], mode: NormMode, tokenizer: PromptTokenizer, features: FeatureExtractor
    ) -> None:
        self.state, self.actions = (Normaliser(stats[name], mode) for name in ("state", "actions"))
        self.tokenizer, self.features = tokenizer, features

    @torch.no_grad()
    def __call__(self, raw: RawSamples) -> Samples:
        tokens, masks = self.tokenizer.batch(raw.prompts)
        next_features, device = [], self.features.mean.device
        for part in np.array_split(raw.next_images, max(1, len(raw.next_images) // 256)):
            images = to_model_image(torch.from_numpy(part).to(device))
            next_features.append(torch.cat([self.features.tokens(image) for image in images.unbind(1)], dim=1))
        return Samples(
            torch.from_numpy(raw.images).to(device),
            torch.from_numpy(tokens).to(device),
            torch.from_numpy(masks).to(device),
            torch.as_tensor(self.state.normalise(raw.state), device=device),
            torch.as_tensor(self.actions.normalise(raw.actions), device=device),
            torch.as_tensor(self.actions.normalise(raw.commands), device=device),
            torch.cat(next_features),
            torch.from_numpy(raw.points).to(device),
            torch.from_numpy(raw.arm).to(device),
        )
