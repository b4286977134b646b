"""A folder in the golden form (test/data/golden/README.md) at a size between the golden ones and the real ones.

Random weights under openpi's names, one observation with two cameras of three, and what `Pi0.sample_actions` makes of
it, so that lerobot's process can load it and say how far it is from our reference.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from golden import architecture_of, policy_input
from safetensors.torch import save_file
from torch import Tensor

from vla_align_ros.policy.foreign_names import to_openpis_name
from vla_align_ros.policy.pi0 import Pi0

CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
_ROOT = "paligemma_with_expert."


def sizes(variant: str) -> dict[str, Any]:
    """The `config.json`."""
    stack = {"depth": 8, "num_heads": 8, "num_kv_heads": 1, "head_dim": 64}
    vision = {"width": 384, "depth": 6, "mlp_dim": 1536, "num_heads": 6, "image_size": 224, "patch_size": 14}
    return {
        "pi05": variant == "pi05",
        "vocab_size": 8192,
        "action_dim": 32,
        "action_horizon": 50,
        "max_token_len": 200 if variant == "pi05" else 48,
        "cameras": list(CAMERAS),
        "vlm": {"width": 512, "mlp_dim": 2048, **stack},
        "expert": {"width": 256, "mlp_dim": 1024, **stack},
        "vision": vision,
    }


def observation(a: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
    """One row of the `in.*` tensors; the last camera is missing, the prompt is full."""
    size, length = a["vision"]["image_size"], a["max_token_len"]
    io = {f"in.images.{camera}": torch.rand(1, 3, size, size, generator=generator) * 2 - 1 for camera in CAMERAS}
    io |= {f"in.image_masks.{camera}": torch.tensor([camera != CAMERAS[-1]]) for camera in CAMERAS}
    return io | {
        "in.tokenized_prompt": torch.randint(1, a["vocab_size"], (1, length), generator=generator),
        "in.tokenized_prompt_mask": torch.ones(1, length, dtype=torch.bool),
        "in.state": torch.randn(1, a["action_dim"], generator=generator),
        "in.noise": torch.randn(1, a["action_horizon"], a["action_dim"], generator=generator),
    }


def write(folder: Path, variant: str, num_steps: int, seed: int = 0) -> Path:
    """Make `folder`; the same seed makes the same files."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(sizes(variant)))
    torch.manual_seed(seed)
    model = Pi0(architecture_of(folder)).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "norm.dense" in name:  # adaRMS starts at zero: then nothing would depend on the time
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    io = observation(sizes(variant), generator)
    inputs = policy_input(io, CAMERAS)
    io[f"out.sample_actions.{num_steps}"] = model.sample_actions(inputs, io["in.noise"], num_steps)
    tensors = {to_openpis_name(name): tensor.contiguous() for name, tensor in model.state_dict().items()}
    embedding = model.embed_tokens.weight
    tensors[f"{_ROOT}gemma_expert.lm_head.weight"] = torch.zeros(len(embedding), model.action_expert.config.width)
    save_file(tensors, folder / "model.safetensors")
    save_file(io, folder / "io.safetensors")
    return folder
