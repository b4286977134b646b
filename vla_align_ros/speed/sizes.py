"""Networks to measure that are no model of the zoo: openpi's test sizes, a medium one, and the published sizes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from vla_align_ros.policy.config import AlignmentConfig, Architecture, FeatureConfig, TransformerConfig, VisionConfig
from vla_align_ros.policy.pi0 import Pi0

Size = Literal["golden", "medium", "full"]
Variant = Literal["pi0", "pi05"]
SIZES: tuple[Size, ...] = ("golden", "medium", "full")
VARIANTS: tuple[Variant, ...] = ("pi0", "pi05")
CAMERAS = ("base_0_rgb", "left_wrist_0_rgb")

_HEADS = {"num_heads": 8, "num_kv_heads": 1}
_STACKS = {  # VLM, action expert
    "golden": (
        TransformerConfig(width=64, mlp_dim=128, depth=3, head_dim=16, **_HEADS),
        TransformerConfig(width=32, mlp_dim=64, depth=3, head_dim=16, **_HEADS),
    ),
    "medium": (
        TransformerConfig(width=512, mlp_dim=2048, depth=8, head_dim=64, **_HEADS),
        TransformerConfig(width=256, mlp_dim=1024, depth=8, head_dim=64, **_HEADS),
    ),
    "full": (
        TransformerConfig(width=2048, mlp_dim=16384, depth=18, head_dim=256, **_HEADS),
        TransformerConfig(width=1024, mlp_dim=4096, depth=18, head_dim=256, **_HEADS),
    ),
}
_VISION = {  # SigLIP
    "golden": VisionConfig(width=48, depth=2, mlp_dim=96, num_heads=4, image_size=56, patch_size=14),
    "medium": VisionConfig(width=384, depth=6, mlp_dim=1536, num_heads=6, image_size=224, patch_size=14),
    "full": VisionConfig(width=1152, depth=27, mlp_dim=4304, num_heads=16, image_size=224, patch_size=14),
}
_DINO_SMALL = VisionConfig(width=384, depth=12, mlp_dim=1536, num_heads=6, image_size=224, patch_size=14)
_DINO = {"golden": _VISION["golden"], "medium": _DINO_SMALL, "full": _DINO_SMALL}
_VOCABULARY = {"golden": 512, "medium": 8192, "full": 257152}


def architecture(size: Size, variant: Variant, cameras: tuple[str, ...] = CAMERAS) -> Architecture:
    """With one row of E and an alignment expert as large as the action expert."""
    golden, pi05 = size == "golden", variant == "pi05"
    vlm, expert = _STACKS[size]
    return Architecture(
        variant=variant,
        vocab_size=_VOCABULARY[size],
        max_token_len=(20 if pi05 else 12) if golden else (200 if pi05 else 48),
        action_dim=8 if golden else 32,
        action_horizon=6 if golden else 50,
        cameras=cameras,
        vlm=vlm,
        action_expert=expert,
        vision=_VISION[size],
        use_peft_prefix_token=True,
        peft_init="normal",
        alignment=AlignmentConfig(expert, FeatureConfig(dino=_DINO[size], grid=4, cells=2, components=16)),
    )


def network(sizes: Architecture, device: torch.device | str) -> Pi0:
    """With random weights, frozen. On the meta device it has none, and can be counted but not run."""
    torch.manual_seed(0)
    with torch.device(device):
        model = Pi0(sizes).eval().requires_grad_(False)
    if model.e_token_attention_bias.is_meta:  # the sampler reads it as a number
        bias = torch.tensor(sizes.e_token_attention_bias)
        model.e_token_attention_bias = nn.Parameter(bias, requires_grad=False)
    return model
