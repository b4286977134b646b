"""The pretraining of both eyes: the policy's from labels, the features' from labels or from what the robot does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vla_align_ros.experience.source import Labels, Pairs, Source, Sources, pairs
from vla_align_ros.policy.features import FeatureExtractor
from vla_align_ros.policy.inputs import to_model_image
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.seeds import Part, seed_of
from vla_align_ros.training import self_supervised, vision
from vla_align_ros.training.probe import PROBE_PAIRS, motion_r2
from vla_align_ros.training.progress import Log, save_atomically
from vla_align_ros.training.recipe import Recipe
from vla_align_ros.types import Picture


def make_eyes(
    recipe: Recipe,
    sources: Sources,
    robot: RobotDescription,
    model: Pi0,
    features: FeatureExtractor,
    out: Path,
    log: Log,
) -> float:
    """Pretrain both in place, or load what an earlier call left in `out`; the features' PCA, and the linear R2 of
    motion from them. A source without labels leaves the policy's eye to the training of the policy; a base has its
    own."""
    source, horizon = sources.training, model.architecture.action_horizon
    if source.labels is not None and recipe.base is None:
        _see(recipe, source.labels, model, out, log)
    _see_motion(recipe, source, robot, features, horizon, out, log)
    seed, frames, size = recipe.seed, recipe.vision.frames, features.config.dino.image_size
    images = _some_images(source, frames // 10, horizon, size, seed_of(seed, Part.FEATURES_PCA))
    features.eval().requires_grad_(False)
    features.fit(to_model_image(torch.from_numpy(images).to(features.mean.device)))
    r2 = motion_r2(features, _moved(sources.validation, robot, min(PROBE_PAIRS, frames), horizon, size, seed))
    log({"stage": "features", "motion_r2": r2})
    return r2


def _see(recipe: Recipe, labels: Labels, model: Pi0, out: Path, log: Log) -> None:
    """The policy's eye, from labels."""
    settings, seed, about = recipe.vision, seed_of(recipe.seed, Part.POLICY_EYE), model.architecture.vision

    def patches(x: Tensor) -> Tensor:
        seen: Tensor = model.vision_tower(pixel_values=x).last_hidden_state
        return seen

    def pretrain(log: Log) -> dict[str, float]:
        frames, grid = labels.frames(settings.frames, about.image_size, seed), about.image_size // about.patch_size
        return vision.pretrain(patches, model.vision_tower, about.width, frames, grid, settings, 0.0, seed, log)

    _stage(out / "vision.safetensors", model.vision_tower, pretrain, log)


def _see_motion(
    recipe: Recipe,
    source: Source,
    robot: RobotDescription,
    features: FeatureExtractor,
    horizon: int,
    out: Path,
    log: Log,
) -> None:
    """The features' eye."""
    settings, dino, labels = recipe.vision, features.config.dino, source.labels
    seed = seed_of(recipe.seed, Part.FEATURES_EYE)

    def pretrain(log: Log) -> dict[str, float]:
        if labels is None or settings.self_supervised:
            moved = _moved(source, robot, settings.frames // 4, horizon, dino.image_size, seed)
            return self_supervised.pretrain(features, moved, settings, seed, log)
        frames, grid = labels.frames(settings.frames, dino.image_size, seed), features.config.grid
        weight = settings.pose_weight
        return vision.pretrain(features.patches, features.dino, dino.width, frames, grid, settings, weight, seed, log)

    _stage(out / "features.safetensors", features.dino, pretrain, log)


def _moved(source: Source, robot: RobotDescription, count: int, horizon: int, size: int, seed: int) -> Pairs:
    """Pairs whose motion is that of the joints alone, each weighed alike."""
    found = pairs(source, count, horizon, size, seed)
    return replace(found, motion=robot.motion(found.motion))


def _some_images(source: Source, count: int, horizon: int, size: int, seed: int) -> Picture:
    """About `count` images of all cameras, (N, size, size, 3)."""
    if source.labels is not None:
        return source.labels.frames(count, size, seed).images
    seen = pairs(source, max(2, count // 2), horizon, size, seed).before
    return seen.reshape(-1, *seen.shape[2:])


def _stage(path: Path, eye: nn.Module, pretrain: Callable[[Log], dict[str, float]], log: Log) -> None:
    """Pretrain an eye, or load what an earlier call made."""
    if not path.exists():
        figures = pretrain(lambda line: log({"stage": path.stem, **line}))
        log({"stage": path.stem, **figures})
        save_atomically(eye.state_dict(), path)
    eye.load_state_dict(load_file(path))
