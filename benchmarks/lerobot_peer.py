"""lerobot 0.6.1's PI0 or PI0.5 network, in a process of its own that times one `sample_actions` on request.

    python benchmarks/lerobot_peer.py GOLDEN_FOLDER LEROBOT_WHEEL

It needs an environment of its own (transformers 5.5.4, see README.md), so `sample_actions.py` starts it with that
environment's Python. First it prints how far its actions are from openpi's as JSON; then, for every line on stdin, it
samples once, batch 1, on one thread, and prints the timing.

Only the wheel's modelling files run. What they import from the rest of lerobot (which wants Python 3.12, datasets, a
camera stack) is replaced by empty stand-ins: none of it takes part in inference. Without `model.safetensors` the
weights are random and the difference NaN; `dtype` and `device` of `config.json` are float32 and cpu where missing.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file
from timing import timed
from torch import Tensor, nn

NUM_STEPS = 10
VARIANTS = {"pi0": ("PI0Config", "PI0Pytorch"), "pi05": ("PI05Config", "PI05Pytorch")}
EMBEDDING = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
TIED_TO = "paligemma_with_expert.paligemma.lm_head.weight"


def stand_in_for_lerobot(wheel: Path) -> None:
    """Put packages that find the wheel's files, and stand-ins for what these import, into `sys.modules`."""
    policies = [f"lerobot.policies.{name}" for name in ("pi0", "pi05", "common", "rtc")]
    for name in ("lerobot", "lerobot.policies", "lerobot.utils", *policies):
        package = ModuleType(name)
        package.__path__ = [str(wheel / name.replace(".", "/"))]
        sys.modules[name] = package
    stand_ins: dict[str, dict[str, Any]] = {
        "lerobot.configs": {"PreTrainedConfig": object},
        "lerobot.policies.pretrained": {"PreTrainedPolicy": nn.Module, "T": None},
        "lerobot.policies.rtc.modeling_rtc": {"RTCProcessor": object},
        "lerobot.utils.device_utils": {"get_safe_dtype": lambda dtype, device: dtype},
        "lerobot.utils.import_utils": {
            "_transformers_available": True,
            "require_package": lambda *arguments, **options: None,
        },
    }
    for variant, (config_class, _) in VARIANTS.items():
        contents = {"DEFAULT_IMAGE_SIZE": 224, config_class: object}
        stand_ins[f"lerobot.policies.{variant}.configuration_{variant}"] = contents
    for name, contents in stand_ins.items():
        module = ModuleType(name)
        vars(module).update(contents)
        sys.modules[name] = module


def settings(sizes: dict[str, Any]) -> SimpleNamespace:
    """lerobot's policy configuration, with openpi's values, for a golden `config.json`."""
    return SimpleNamespace(
        paligemma_variant="vlm",
        action_expert_variant="expert",
        dtype=sizes.get("dtype", "float32"),
        chunk_size=sizes["action_horizon"],
        n_action_steps=sizes["action_horizon"],
        max_state_dim=sizes["action_dim"],
        max_action_dim=sizes["action_dim"],
        num_inference_steps=NUM_STEPS,
        time_sampling_beta_alpha=1.5,
        time_sampling_beta_beta=1.0,
        time_sampling_scale=0.999,
        time_sampling_offset=0.001,
        min_period=4e-3,
        max_period=4.0,
        rtc_config=None,
        image_resolution=(sizes["vision"]["image_size"],) * 2,
        compile_model=False,
        freeze_vision_encoder=False,
        train_expert_only=False,
    )


def build(sizes: dict[str, Any]) -> nn.Module:
    """The network at the sizes of a golden `config.json`; lerobot itself only offers those of the big models."""
    variant = "pi05" if sizes["pi05"] else "pi0"
    modelling = importlib.import_module(f"lerobot.policies.{variant}.modeling_{variant}")
    vlm_class = modelling.PaliGemmaForConditionalGenerationWithPiGemma
    expert_class = modelling.PiGemmaForCausalLM
    vocab_size, vision = sizes["vocab_size"], sizes["vision"]

    def gemma_config(name: str) -> Any:
        fields = ("width", "depth", "mlp_dim", "num_heads", "num_kv_heads", "head_dim")
        return modelling.GemmaConfig(**{field: sizes[name][field] for field in fields})

    def small_vlm(config: Any) -> Any:
        config._vocab_size = config.text_config.vocab_size = vocab_size
        config.image_token_index = config.image_token_id = vocab_size - 1
        config.text_config.pad_token_id = 0
        eye = config.vision_config
        eye.hidden_size, eye.num_hidden_layers, eye.intermediate_size = (
            vision["width"],
            vision["depth"],
            vision["mlp_dim"],
        )
        eye.num_attention_heads, eye.image_size, eye.patch_size = (
            vision["num_heads"],
            vision["image_size"],
            vision["patch_size"],
        )
        eye.projection_dim = config.projection_dim = sizes["vlm"]["width"]
        return vlm_class(config)

    def small_expert(config: Any) -> Any:
        config.vocab_size = vocab_size
        return expert_class(config)

    with mock.patch.multiple(
        modelling,
        get_gemma_config=gemma_config,
        PaliGemmaForConditionalGenerationWithPiGemma=small_vlm,
        PiGemmaForCausalLM=small_expert,
    ):
        network: nn.Module = getattr(modelling, VARIANTS[variant][1])(settings(sizes))
    return network.eval()


def sampler(network: nn.Module, sizes: dict[str, Any], io: dict[str, Tensor], rows: slice) -> Callable[[], Tensor]:
    """One `sample_actions` of some rows of the golden batch."""
    images = [io[f"in.images.{camera}"][rows] for camera in sizes["cameras"]]
    masks = [io[f"in.image_masks.{camera}"][rows] for camera in sizes["cameras"]]
    state = [] if sizes["pi05"] else [io["in.state"][rows]]  # pi0.5 has it in the prompt
    inputs = [images, masks, io["in.tokenized_prompt"][rows], io["in.tokenized_prompt_mask"][rows], *state]
    noise = io["in.noise"][rows]

    def sample() -> Tensor:
        actions: Tensor = network.sample_actions(*inputs, noise=noise, num_steps=NUM_STEPS)  # type: ignore[operator]
        return actions

    return sample


def main(folder: Path, wheel: Path) -> None:
    """Serve until stdin ends."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    stand_in_for_lerobot(wheel)
    sizes = json.loads((folder / "config.json").read_text())
    device = torch.device(sizes.get("device", "cpu"))
    io = {name: tensor.to(device) for name, tensor in load_file(folder / "io.safetensors").items()}
    with device:
        network = build(sizes)
    difference = math.nan
    if (folder / "model.safetensors").exists():
        weights = load_file(folder / "model.safetensors")
        network.load_state_dict({**weights, EMBEDDING: weights[TIED_TO].clone()})
        everyone = sampler(network, sizes, io, slice(None))()
        difference = (everyone - io[f"out.sample_actions.{NUM_STEPS}"]).abs().max().item()
    print(json.dumps({"max_abs_difference": difference}), flush=True)
    sample = sampler(network, sizes, io, slice(0, 1))

    def call() -> None:
        sample()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in sys.stdin:
        print(json.dumps(asdict(timed(call))), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
