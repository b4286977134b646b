"""The two vision transformers, both transformers' own classes: SigLIP (the VLM's eye) and DINOv2 (the features')."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Dinov2Config, Dinov2Model, SiglipVisionConfig, SiglipVisionModel

from vla_align_ros.policy.config import VisionConfig
from vla_align_ros.policy.experts import fuse


def siglip(config: VisionConfig) -> SiglipVisionModel:
    """PaliGemma's vision tower: gelu_tanh, LayerNorm 1e-6, post layer norm, no pooling head.

    Its embeddings may be float32 where its layers are bfloat16, as in openpi.
    """
    tower = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            intermediate_size=config.mlp_dim,
            num_attention_heads=config.num_heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
            layer_norm_eps=1e-6,
            hidden_act="gelu_pytorch_tanh",
            vision_use_head=False,
        )
    )
    tower.encoder.register_forward_pre_hook(_in_the_layers_dtype, with_kwargs=True)
    return tower


def _in_the_layers_dtype(encoder: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    embedded = kwargs["inputs_embeds"].to(encoder.layers[0].layer_norm1.weight.dtype)
    return args, kwargs | {"inputs_embeds": embedded}


def number_the_patches(tower: SiglipVisionModel, device: torch.device) -> None:
    """What the weights of a tower that was built on the meta device do not say."""
    embeddings: Any = tower.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions, device=device)[None]


class FusedSiglip:
    """The same tower and the projection after it, for inference alone: fewer and larger operations, which write in
    place. Equal up to rounding; the weights stay the tower's (`experts.fuse`).
    """

    def __init__(self, tower: Any, projector: nn.Linear) -> None:
        config, embeddings = tower.config, tower.embeddings
        self.patch, self.num_heads = config.patch_size, config.num_attention_heads
        # A convolution whose stride is its width is a matrix product of the patches.
        self.embed = embeddings.patch_embedding.weight.detach().flatten(1).t()
        self.position = embeddings.position_embedding.weight.detach() + embeddings.patch_embedding.bias.detach()
        self.post_norm, self.project, self.project_bias = tower.post_layernorm, fuse(projector), projector.bias.detach()
        self.layers = []
        for layer in tower.encoder.layers:
            parts, mlp = [getattr(layer.self_attn, f"{name}_proj") for name in "qkv"], layer.mlp
            qkv = fuse(*parts), torch.cat([part.bias.detach() for part in parts])
            others = [(fuse(x), x.bias.detach()) for x in (layer.self_attn.out_proj, mlp.fc1, mlp.fc2)]
            self.layers.append((layer.layer_norm1, layer.layer_norm2, qkv, *others))

    def __call__(self, images: Tensor) -> Tensor:
        """(cameras, 3, size, size) in [-1, 1] -> (cameras * patches, the projector's width)."""
        cameras, side = len(images), images.shape[-1] // self.patch
        patches = images.to(self.embed).view(cameras, 3, side, self.patch, side, self.patch)
        patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(cameras, side**2, -1)
        x = (patches @ self.embed).add_(self.position).flatten(0, 1).to(self.layers[0][2][0])
        for norm1, norm2, (qkv, qkv_bias), (o, o_bias), (fc1, fc1_bias), (fc2, fc2_bias) in self.layers:
            fused = torch.addmm(qkv_bias, norm1(x), qkv).view(cameras, side**2, 3, self.num_heads, -1)
            q, k, v = fused.permute(2, 0, 3, 1, 4)
            attended = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(len(x), -1)
            x.add_(o_bias).addmm_(attended, o)
            hidden = functional.gelu(torch.addmm(fc1_bias, norm2(x), fc1), approximate="tanh")
            x.add_(fc2_bias).addmm_(hidden, fc2)
        return torch.addmm(self.project_bias, self.post_norm(x), self.project)


def dinov2(config: VisionConfig) -> Dinov2Model:
    """DINOv2 at any size, so that published weights of the same sizes load into it."""
    if config.mlp_dim % config.width:
        raise ValueError(
            f"DINOv2 wants an mlp_dim that is a multiple of its width, got {config.mlp_dim} and {config.width}"
        )
    return Dinov2Model(
        Dinov2Config(
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            mlp_ratio=config.mlp_dim // config.width,
            num_attention_heads=config.num_heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
        )
    )
