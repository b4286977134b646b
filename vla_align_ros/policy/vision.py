"""The two vision transformers, both transformers' own classes: SigLIP (the VLM's eye) and DINOv2 (the features')."""

from __future__ import annotations

from transformers import Dinov2Config, Dinov2Model, SiglipVisionConfig, SiglipVisionModel

from vla_align_ros.policy.config import VisionConfig


def siglip(config: VisionConfig) -> SiglipVisionModel:
    """PaliGemma's vision tower: gelu_tanh, LayerNorm 1e-6, post layer norm, no pooling head."""
    return SiglipVisionModel(
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
