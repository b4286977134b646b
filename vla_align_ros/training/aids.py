"""What a small model needs to train at all, outside L_total."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vla_align_ros.policy.pi0 import Pi0


class Aids(nn.Module):
    """Regressions, read from inside by forward hooks: of the chunk, and of `num_points` points in the images, where a
    source knows them. Both are the policy's: of several passes after `begin` the first counts, as pi0.5's alignment has
    a prefix of its own, with another prompt."""

    def __init__(self, model: Pi0, num_points: int) -> None:
        super().__init__()
        a = model.architecture
        self.horizon = a.action_horizon
        self.chunk = nn.Sequential(
            nn.RMSNorm(a.action_expert.width), nn.Linear(a.action_expert.width, a.action_horizon * a.action_dim)
        )
        self.points = nn.Linear(a.vlm.width, num_points * 2) if num_points else None
        self.hidden: dict[str, Tensor] = {}
        self._watch(model.action_expert.layers[-1], "input_layernorm", "e_row")
        self._watch(model.vlm.layers[-1], "post_attention_layernorm", "prefix")

    def _watch(self, layer: nn.Module, norm: str, name: str) -> None:
        """Keep what goes into a layer's norm first."""

        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            self.hidden.setdefault(name, arguments[0])

        layer.get_submodule(norm).register_forward_pre_hook(hook)

    def begin(self) -> None:
        """Forget what an earlier pass left."""
        self.hidden.clear()

    def forward(
        self, actions: Tensor, action_mask: Tensor, points: Tensor, token_masks: Tensor, draws: int
    ) -> dict[str, Tensor]:
        """`regression_loss` of the chunk (B, H, action_dim) and `keypoint_loss` of the points (B, K, 2), of
        those within their picture, from the pass since `begin`. action_mask: (action_dim,), False for padding."""
        chunk = self.chunk(self.hidden["e_row"][:, 0]).unflatten(1, (self.horizon, -1))
        missed = (chunk - actions.repeat_interleave(draws, 0))[..., action_mask]
        losses = {"regression_loss": missed.pow(2).mean()}
        if self.points is None:
            return losses
        last = self.hidden["prefix"].shape[1] - token_masks.shape[1] + token_masks.sum(1) - 1
        read = self.points(self.hidden["prefix"][torch.arange(len(last)), last])
        missed = (read.unflatten(1, (-1, 2)) - (points - 0.5) * 4.0).pow(2).mean(-1)
        seen = ((points >= 0.0) & (points <= 1.0)).all(-1)  # nothing in a picture says where the others are
        return losses | {"keypoint_loss": (missed * seen).sum() / seen.sum().clamp(min=1)}
