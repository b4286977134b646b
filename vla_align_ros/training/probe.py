"""Do the features see the robot move? The linear R2 of joint motion from two frames' features."""

from __future__ import annotations

import torch
from torch import Tensor

from vla_align_ros.experience.source import Pairs
from vla_align_ros.policy.features import FeatureExtractor
from vla_align_ros.policy.inputs import to_model_image
from vla_align_ros.types import Picture

PROBE_PAIRS = 6000  # fewer make the regression overfit, and R2 look lower
MOTION_R2_AIM = 0.7  # features below it told an alignment too little (seen, not benchmarked)


def motion_r2(features: FeatureExtractor, pairs: Pairs) -> float:
    """R2 on held-out pairs of a ridge regression from [features before, features after] to the change of the state."""
    both = [_tokens(features, frames) for frames in (pairs.before, pairs.after)]
    return linear_r2(torch.cat(both, dim=1), torch.from_numpy(pairs.motion))


def linear_r2(inputs: Tensor, targets: Tensor, ridge: float = 1e-2, held_out: float = 0.2) -> float:
    """R2 on the last `held_out` of the rows of a ridge regression (N, D) -> (N, K), fitted on the others."""
    cut = int(len(inputs) * (1 - held_out))
    x = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1).double()
    y = targets.double()
    gram = x[:cut].T @ x[:cut] + ridge * cut * torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, x[:cut].T @ y[:cut])
    residual = ((x[cut:] @ weights - y[cut:]) ** 2).sum()
    return float(1 - residual / ((y[cut:] - y[cut:].mean(0)) ** 2).sum())


def _tokens(features: FeatureExtractor, frames: Picture) -> Tensor:
    parts = []
    for part in torch.from_numpy(frames).split(256):
        scaled = to_model_image(part.to(features.mean.device))
        parts.append(torch.cat([features.tokens(view) for view in scaled.unbind(1)], dim=1).flatten(1).cpu())
    return torch.cat(parts)
