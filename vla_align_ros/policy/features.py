"""DINO features of what a camera sees: the thing that the dynamics task predicts.

    patches (grid x grid, pooled) -> PCA -> whitened -> cells x cells tokens, the patches of a cell side by side

The projection and its statistics ship with the model (`features.safetensors`, with DINOv2's own weights).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vla_align_ros.policy.config import FeatureConfig
from vla_align_ros.policy.inputs import PolicyInput
from vla_align_ros.policy.vision import dinov2


class FeatureExtractor(nn.Module):
    """Frozen DINOv2 with PCA and whitening (`fit`)."""

    mean: Tensor
    components: Tensor
    scale: Tensor

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        self.dino = dinov2(config.dino)
        width = config.dino.width
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("components", torch.eye(width, config.components))
        self.register_buffer("scale", torch.ones(config.components))

    def patches(self, images: Tensor) -> Tensor:
        """Pooled DINO patches (B, grid * grid, width) of images (B, 3, S, S) in [-1, 1]."""
        size = self.config.dino.image_size
        if images.shape[-1] != size:
            images = functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
        tokens: Tensor = self.dino(pixel_values=images).last_hidden_state[:, 1:]
        side = size // self.config.dino.patch_size
        maps = tokens.transpose(1, 2).unflatten(2, (side, side))
        pooled: Tensor = functional.avg_pool2d(maps, side // self.config.grid)
        return pooled.flatten(2).transpose(1, 2)

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Set PCA and whitening from images (N, 3, S, S) in [-1, 1], all their patches together.

        Each direction's largest entry is positive: eigenvectors have no sign of their own, and a run that goes on
        elsewhere must see the same features.
        """
        patches = torch.cat([self.patches(part) for part in images.split(256)]).flatten(0, 1)
        self.mean.copy_(patches.mean(0))
        centred = patches - self.mean
        _, directions = torch.linalg.eigh(centred.T @ centred)
        largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
        self.components.copy_((directions * largest.sign()).flip(1)[:, : self.config.components])
        self.scale.copy_((centred @ self.components).std(0) + 1e-3)

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Tensor:
        """Whitened feature tokens (B, cells^2, D) of one camera's images (B, 3, S, S)."""
        whitened = ((self.patches(images) - self.mean) @ self.components) / self.scale
        grid, cells = self.config.grid, self.config.cells
        inner = grid // cells
        folded: Tensor = whitened.unflatten(1, (cells, inner, cells, inner)).permute(0, 1, 3, 2, 4, 5)
        return folded.flatten(3).flatten(1, 2)

    def forward(self, inputs: PolicyInput) -> tuple[Tensor, Tensor]:
        """Features (B, C * cells^2, D) of all cameras, and their masks (B, C * cells^2), False for a missing camera."""
        features = torch.cat([self.tokens(image) for image in inputs.images], dim=1)
        masks = [mask[:, None].expand(-1, self.config.tokens_per_camera) for mask in inputs.image_masks]
        return features, torch.cat(masks, dim=1)
