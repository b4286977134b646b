"""A source's samples -> tensors, through the very code that the policy prepares observations with on a robot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vla_align_ros.experience.source import RawSamples, Source
from vla_align_ros.observation.normalise import NormStats
from vla_align_ros.policy.config import ModelConfig
from vla_align_ros.policy.features import FeatureExtractor
from vla_align_ros.policy.inputs import ExperienceInput, PolicyInput
from vla_align_ros.policy.prepare import Robot
from vla_align_ros.seeds import Stream, rng_of
from vla_align_ros.types import Float32Array, Observation

STATS_SAMPLES = 20_000
FEATURE_BATCH = 256


def norm_stats(source: Source, config: ModelConfig, seed: int) -> dict[str, NormStats]:
    """Statistics in the model's units of states and actions (those to imitate and those that were sent, together) over
    all robots."""
    rng = rng_of(seed, Stream.STATISTICS)
    horizon, robot = config.architecture.action_horizon, config.robot
    raw = source.samples(rng.integers(0, len(source.robots), STATS_SAMPLES), horizon, None, rng)
    state = np.stack([item.observation.state for item in raw.experiences])
    both = np.concatenate([raw.actions, np.stack([item.commands for item in raw.experiences])])
    return {
        "state": _stats_of(robot.state_scale.to_model(state).astype(np.float32)),
        "actions": _stats_of(robot.action_scale.to_model(both.reshape(-1, both.shape[-1])).astype(np.float32)),
    }


def _stats_of(values: Float32Array) -> NormStats:
    q01, q99 = np.quantile(values, [0.01, 0.99], axis=0).astype(np.float32)
    return NormStats(values.mean(0).astype(np.float32), values.std(0).astype(np.float32), q01, q99)


@dataclass(frozen=True)
class Batch:
    """What a step is about, of B samples. alignment_inputs: what the alignment expert's prefix is made of, where it is
    not the policy's own: without the state in words. The rest is as in `Samples`."""

    inputs: PolicyInput
    alignment_inputs: PolicyInput | None
    actions: Tensor
    experience: ExperienceInput
    points: Tensor
    row: Tensor


@dataclass(frozen=True)
class Samples:
    """Samples ready to train on. observations stay as they are until a batch is picked.

    actions: (n, H, action_dim) to imitate, normalised and padded. experience: of all n. row: (n,) of the token bank.
    """

    observations: list[Observation]
    actions: Tensor
    experience: ExperienceInput
    points: Tensor
    row: Tensor
    robot: Robot

    def policy_input(self, rows: Tensor, state_in_prompt: bool = True) -> PolicyInput:
        """The prefix and state of some rows."""
        seen = [self.observations[row] for row in rows.tolist()]
        return self.robot.prepare(seen, self.actions.device, state_in_prompt)

    def batch(self, rows: Tensor) -> Batch:
        """Some rows (B,)."""
        apart = self.robot.config.architecture.state_in_prompt
        own = self.policy_input(rows, state_in_prompt=False) if apart else None
        found = (self.actions[rows], self.experience[rows], self.points[rows], self.row[rows])
        return Batch(self.policy_input(rows), own, *found)


@torch.no_grad()
def make_samples(raw: RawSamples, robot: Robot, features: FeatureExtractor) -> Samples:
    """Samples where the features are."""
    device = features.mean.device
    parts = []
    for start in range(0, len(raw.experiences), FEATURE_BATCH):
        some = raw.experiences[start : start + FEATURE_BATCH]
        before = robot.prepare([item.observation for item in some], device, state_in_prompt=False)
        parts.append(robot.prepare_outcome(some, before, features, device))
    return Samples(
        [item.observation for item in raw.experiences],
        robot.prepare_actions(raw.actions, device),
        ExperienceInput.joined(parts),
        torch.from_numpy(raw.points).to(device),
        torch.from_numpy(raw.robot).to(device),
        robot,
    )
