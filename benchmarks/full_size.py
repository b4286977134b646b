"""PI0 or PI0.5 at its published size on a CPU, in bfloat16: one sample, and one step of an alignment, of 8 experiences
since the prefixes of 256 take an hour: of those the memory is a formula, which stands beside the measured one.

    python benchmarks/full_size.py --json full_size.json

Random numbers in the network that `models/pi0` describes, with an E-Token and an alignment expert as large as the
action expert. It says what is held to what openpi publishes (sizes of SigLIP, the VLM and the action expert), the time
of each part, and the largest memory, which must stay under 16 GB. With `--small`, one layer each: to try the script.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import machine
import torch
import typer
from golden import new_pictures
from torch import Tensor

from vla_align_ros.alignment.losses import BACKWARD_BYTES, ExperienceLosses
from vla_align_ros.policy.config import AlignmentConfig, Architecture, FeatureConfig, VisionConfig, load_model_config
from vla_align_ros.policy.fast import FastSampler
from vla_align_ros.policy.inputs import ExperienceInput, PolicyInput
from vla_align_ros.policy.load import to_bfloat16
from vla_align_ros.policy.losses import LossWeights
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.policy.vision import number_the_patches
from vla_align_ros.zoo import find_model

MEMORY_GB = 16.0
DRAWS = 2  # of each experience
PRIME = 1_000_003  # so that no two rows of a matrix are alike
CPU = torch.device("cpu")
PUBLISHED = {  # openpi: gemma_2b, gemma_300m, SigLIP So400m/14
    "vlm.layers.17.gate_proj.weight": (16384, 2048),
    "vlm.layers.17.q_proj.weight": (8 * 256, 2048),
    "vlm.layers.17.k_proj.weight": (256, 2048),
    "action_expert.layers.17.gate_proj.weight": (4096, 1024),
    "action_expert.layers.17.q_proj.weight": (8 * 256, 1024),
    "vision_tower.encoder.layers.26.mlp.fc1.weight": (4304, 1152),
    "vision_tower.embeddings.patch_embedding.weight": (1152, 3, 14, 14),
    "multi_modal_projector.weight": (2048, 1152),
    "embed_tokens.weight": (257152, 2048),
    "action_in_proj.weight": (1024, 32),
}
Result = TypeVar("Result")


def architecture(variant: str, cameras: int, small: bool) -> Architecture:
    """The zoo's, and what aligns it."""
    a = load_model_config(find_model(variant)).architecture
    a = replace(a, cameras=a.cameras[:cameras])
    if small:
        a = replace(
            a,
            vlm=replace(a.vlm, depth=1),
            action_expert=replace(a.action_expert, depth=1),
            vision=replace(a.vision, depth=1),
            vocab_size=1000,
        )
    dino = VisionConfig(width=384, depth=12, mlp_dim=1536, num_heads=6, image_size=224, patch_size=14)
    features = FeatureConfig(dino=dino, grid=4, cells=2, components=24)
    return replace(a, use_peft_prefix_token=True, alignment=AlignmentConfig(expert=a.action_expert, features=features))


def make(a: Architecture) -> Pi0:
    """Random numbers, never in float32 where bfloat16 is meant."""
    with torch.device("meta"):
        model = Pi0(a)
    to_bfloat16(model)
    model.to_empty(device=CPU)
    numbers = 0.02 * torch.randn(PRIME, generator=torch.Generator().manual_seed(0))  # again and again: drawing is slow
    for tensor in model.state_dict().values():
        for part in tensor.flatten().split(PRIME):
            part.copy_(numbers[: len(part)])
    number_the_patches(model.vision_tower, CPU)
    return model.eval().requires_grad_(False)


def given(a: Architecture, rows: int) -> tuple[PolicyInput, ExperienceInput]:
    """Observations with all cameras and a full prompt, and what followed each."""
    size, length, generator = a.vision.image_size, a.max_token_len, torch.Generator().manual_seed(1)
    assert a.alignment is not None
    features = a.alignment.features
    cells = len(a.cameras) * features.tokens_per_camera

    def normal(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=generator)

    images = tuple(normal(3, size, size).clamp(-1, 1) for _ in a.cameras)
    tokens = torch.randint(1, a.vocab_size, (rows, length), generator=generator)
    real = torch.ones(a.action_dim, dtype=torch.bool)
    experience = ExperienceInput(
        normal(a.action_horizon, a.action_dim),
        normal(cells, features.token_dim),
        torch.ones(rows, cells, dtype=torch.bool),
        normal(cells, features.token_dim),
        real,
        real,
    )
    masks = tuple(torch.ones(rows, dtype=torch.bool) for _ in a.cameras)
    return PolicyInput(
        images, masks, tokens, torch.ones(rows, length, dtype=torch.bool), normal(a.action_dim)
    ), experience


def main(
    variant: Annotated[str, typer.Option(help="pi0 or pi05.")] = "pi0",
    experiences: Annotated[int, typer.Option(min=1, help="Of the align step, with two draws each.")] = 8,
    cameras: Annotated[int, typer.Option(min=1, help="Of those that the zoo's model has.")] = 2,
    small: Annotated[bool, typer.Option(help="One layer each, to try the script.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Sample and align at full size. Exit code 1: a size that openpi does not publish, or more than 16 GB."""
    a, numbers = architecture(variant, cameras, small), dict[str, Any]()

    def timed(name: str, call: Callable[[], Result]) -> Result:
        start, cpu_start = time.perf_counter(), time.process_time()
        result = call()
        numbers[name] = {
            "s": time.perf_counter() - start,
            "cpu_s": time.process_time() - cpu_start,
            "peak_gb": machine.memory_mib("VmHWM") * 2**20 / 1e9,
        }
        print(name, numbers[name], flush=True)
        return result

    model = timed("make", lambda: make(a))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wrong = {name: shapes.get(name) for name, shape in PUBLISHED.items() if shapes.get(name) != shape}
    numbers["weights_gb"] = sum(tensor.nbytes for tensor in model.state_dict().values()) / 1e9
    inputs, experience = given(a, experiences)
    noise = torch.randn(1, a.action_horizon, a.action_dim)
    sampler = timed("fuse", lambda: FastSampler(model))
    seen = new_pictures(inputs[:1])
    chunk = timed("first sample", lambda: sampler(next(seen), noise))
    timed("sample", lambda: sampler(next(seen), noise))
    token = model.peft_prefix_token
    assert token is not None
    losses = timed("prefixes", lambda: ExperienceLosses.of_inputs(model, inputs, experience, LossWeights()))
    slope, means = timed("align step", lambda: losses.gradient(token, torch.arange(experiences), DRAWS, 0))
    numbers["align"] = {**means, "grad_norm": float(slope.norm())}
    held, before = losses.bytes_per_experience * 1e-9, numbers["sample"]["peak_gb"]
    working = 1e-9 * max(BACKWARD_BYTES, losses.bytes_per_backward)
    numbers["aligning_gb"] = {
        "experiences": experiences,
        "held of an experience": held,
        "measured": numbers["align step"]["peak_gb"] - before,
        "formula": experiences * held + working,
        "formula, 256 experiences": 256 * held + working,
    }
    numbers["finite"] = bool(chunk.isfinite().all() and slope.isfinite().all())
    print({name: numbers[name] for name in ("weights_gb", "align", "aligning_gb", "finite")})
    machine.write(json_file, numbers)
    if not small and (wrong or numbers["align step"]["peak_gb"] > MEMORY_GB):
        print(f"not as published: {wrong}; at most {MEMORY_GB} GB")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
