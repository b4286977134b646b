"""What the network is given, as batched tensors. Made from observations by `policy.Policy.prepare`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PROMPT_STEP = 8  # prompts are padded to a multiple, so that few lengths occur


@dataclass(frozen=True)
class PolicyInput:
    """One batch of observations, normalised and padded.

    images: one (B, 3, size, size) float32 in [-1, 1] a camera, in the model's camera order.
    image_masks: one (B,) bool a camera; False where that camera is missing (its image must not matter).
    tokens, token_masks: the prompt, (B, L) int64 and bool, right-padded.
    state: (B, action_dim) float32, normalised, padded with 0.
    """

    images: tuple[Tensor, ...]
    image_masks: tuple[Tensor, ...]
    tokens: Tensor
    token_masks: Tensor
    state: Tensor

    def with_less_padding(self) -> PolicyInput:
        """The same with the prompts cut to the longest of them, up to a multiple of `PROMPT_STEP`."""
        length = PROMPT_STEP * math.ceil(int(self.token_masks.sum(1).max()) / PROMPT_STEP)
        return replace(self, tokens=self.tokens[:, :length], token_masks=self.token_masks[:, :length])

    def __getitem__(self, rows: Tensor | slice) -> PolicyInput:
        return PolicyInput(
            tuple(image[rows] for image in self.images),
            tuple(mask[rows] for mask in self.image_masks),
            self.tokens[rows],
            self.token_masks[rows],
            self.state[rows],
        )


@dataclass(frozen=True)
class ExperienceInput:
    """What the alignment tasks need beside a `PolicyInput` of the same B rows.

    actions: (B, H, action_dim) float32, the normalised commands that were sent.
    features: (B, N, D) float32, whitened DINO tokens of the next observation; feature_masks (B, N) bool, False for
    tokens of a missing camera. own_features: (B, N, D), the same of the observation itself, 0 (the mean) for a missing
    camera; (B, 0, D) where the model is not given them. state_mask, action_mask: (action_dim,) bool, False for padding.
    """

    actions: Tensor
    features: Tensor
    feature_masks: Tensor
    own_features: Tensor
    state_mask: Tensor
    action_mask: Tensor

    def __getitem__(self, rows: Tensor | slice) -> ExperienceInput:
        return replace(self, **{name: getattr(self, name)[rows] for name in _OF_ROWS})

    @staticmethod
    def joined(parts: Sequence[ExperienceInput]) -> ExperienceInput:
        """The rows of several, which have the same masks, one after another."""
        together = {name: torch.cat([getattr(part, name) for part in parts]) for name in _OF_ROWS}
        return replace(parts[0], **together)


_OF_ROWS = ("actions", "features", "feature_masks", "own_features")


def to_model_image(images: NDArray[np.uint8] | Tensor) -> Tensor:
    """(..., H, W, 3) uint8 -> (..., 3, H, W) float32 in [-1, 1], as openpi does."""
    return torch.as_tensor(images).movedim(-1, -3).float() / 255.0 * 2.0 - 1.0
