"""The features' eye without labels: what it is given, and that it learns from it. How much its features tell of the
robot's motion takes minutes to train: the training log says it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from vla_align_ros.bench.reach2.labels import training_pairs
from vla_align_ros.policy.config import FeatureConfig, load_model_description
from vla_align_ros.policy.features import FeatureExtractor
from vla_align_ros.policy.inputs import to_model_image
from vla_align_ros.training import self_supervised
from vla_align_ros.training.recipe import VisionRecipe

MODEL = Path(__file__).parents[2] / "config" / "train" / "tiny.model.yaml"
QUICK = VisionRecipe(steps=40, batch_size=64, frames=256, self_supervised=True)


@pytest.fixture(scope="module")
def config() -> FeatureConfig:
    alignment = load_model_description(MODEL).architecture.alignment
    assert alignment is not None
    return alignment.features


def learned(config: FeatureConfig, recipe: VisionRecipe) -> tuple[FeatureExtractor, list[dict[str, object]]]:
    torch.manual_seed(0)
    features, lines = FeatureExtractor(config), list[dict[str, object]]()
    pairs = training_pairs(recipe.frames // 4, config.dino.image_size, 3)
    self_supervised.pretrain(features, pairs, recipe, 3, lines.append)
    return features, lines


@pytest.mark.slow
@pytest.mark.parametrize("motion_weight", [0.0, 2.0])
def test_the_same_seed_trains_the_same_eye_and_another_one_than_it_was(
    config: FeatureConfig, motion_weight: float
) -> None:
    recipe = dataclasses.replace(QUICK, steps=2, motion_weight=motion_weight)
    (first, _), (second, _) = (learned(config, recipe) for _ in range(2))
    torch.manual_seed(0)
    untrained = FeatureExtractor(config)
    for name, value in first.dino.state_dict().items():
        assert torch.equal(value, second.dino.state_dict()[name]), name
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    assert not torch.equal(first.patches(image), untrained.patches(image))
    assert not first.training


@pytest.mark.slow
def test_without_the_motion_patches_get_codes_of_their_own(config: FeatureConfig) -> None:
    features, lines = learned(config, dataclasses.replace(QUICK, steps=201, frames=1000, motion_weight=0.0))
    losses = [float(str(line["distillation_loss"])) for line in lines]
    assert losses[-1] < losses[0] - 0.5
    images = to_model_image(torch.from_numpy(training_pairs(16, 64, 9).before)).flatten(0, 1)
    with torch.no_grad():
        seen = features.patches(images).flatten(0, 1)
    assert float(seen.std(0).mean()) > 0.1, "all patches alike: collapsed"


def test_blanked_patches_are_grey_and_the_others_as_they_were() -> None:
    images, blanked = torch.rand(2, 3, 64, 64) + 1.0, torch.zeros(2, 16, dtype=torch.bool)
    blanked[0, 5] = True
    found = self_supervised._blank(images, blanked)
    assert (found[0, :, 16:32, 16:32] == 0).all()
    found[0, :, 16:32, 16:32] = images[0, :, 16:32, 16:32]
    assert torch.equal(found, images)
