"""Do the features see the robot move? The linear R2 of joint motion from two frames' features (FACTS: aim for 0.7)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vla_align_ros.action.exploration import motion
from vla_align_ros.bench.reach2 import camera, task
from vla_align_ros.bench.reach2.arm import EXPLORATION_RAD_S, move_chunk
from vla_align_ros.bench.reach2.embodiment import sample_embodiments
from vla_align_ros.policy.features import FeatureExtractor
from vla_align_ros.training.vision import to_model_image

PROBE_FRAMES = 6000  # fewer make the regression overfit, and R2 look lower
MOTION_R2_AIM = 0.7  # features below it told alignment too little in the study that the recipe comes from


def motion_r2(
    features: FeatureExtractor, image_size: int, seed: int, count: int = PROBE_FRAMES, horizon: int = 8
) -> float:
    """R2 on held-out arms of a ridge regression from [features before, features after] to the change of the joint
    angles.
    """
    rng = np.random.default_rng([seed, 31])
    arms = sample_embodiments(count, seed + 40_009)
    scene = task.sample_scene(count, rng)
    pose = task.training_pose(arms, scene, rng)
    after = move_chunk(arms, pose, motion(count, horizon, rng, EXPLORATION_RAD_S), np.zeros((count, 2)))
    both = [
        _tokens(features, torch.from_numpy(camera.draw(arms, angles, scene, image_size))) for angles in (pose, after)
    ]
    return linear_r2(torch.cat(both, dim=1), torch.from_numpy(after - pose).float())


def linear_r2(inputs: Tensor, targets: Tensor, ridge: float = 1e-2, held_out: float = 0.2) -> float:
    """R2 on the last `held_out` of the rows of a ridge regression (N, D) -> (N, K), fitted on the others."""
    cut = int(len(inputs) * (1 - held_out))
    x = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1).double()
    y = targets.double()
    gram = x[:cut].T @ x[:cut] + ridge * cut * torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, x[:cut].T @ y[:cut])
    residual = ((x[cut:] @ weights - y[cut:]) ** 2).sum()
    return float(1 - residual / ((y[cut:] - y[cut:].mean(0)) ** 2).sum())


def _tokens(features: FeatureExtractor, images: Tensor) -> Tensor:
    parts = []
    for part in images.split(256):
        scaled = to_model_image(part.to(features.mean.device))
        parts.append(torch.cat([features.tokens(view) for view in scaled.unbind(1)], dim=1).flatten(1).cpu())
    return torch.cat(parts)
