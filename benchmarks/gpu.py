"""How long sampling takes on a GPU at full size: pi0 and pi0.5, 2 of 3 cameras, 10 steps, bfloat16, batch 1.

    python benchmarks/gpu.py --json gpu.json

Random weights. The fast path (two CUDA graphs) and the readable model, in turn; also how far the fast path is from the
readable one, the time of the first call, in which the graphs are captured, and memory. Under 8 minutes on an H200
(estimated: nobody has run it on a GPU yet). To try the script without one:
`--device cpu --depth 1 --vision-depth 1 --calls 1`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import machine
import torch
import typer
from medium import CAMERAS
from timing import percentile
from torch import Tensor

from vla_align_ros.policy.config import Architecture, TransformerConfig, VisionConfig
from vla_align_ros.policy.fast import FastSampler
from vla_align_ros.policy.inputs import PolicyInput
from vla_align_ros.policy.load import to_bfloat16
from vla_align_ros.policy.pi0 import Pi0

NUM_STEPS = 10
WARM_UP = 3


def architecture(variant: Any, depth: int, vision_depth: int) -> Architecture:
    """The published sizes (18 and 27 layers), with an E-Token of one row."""
    stack = {"depth": depth, "num_heads": 8, "num_kv_heads": 1, "head_dim": 256}
    return Architecture(
        variant=variant,
        vocab_size=257152,
        max_token_len=200 if variant == "pi05" else 48,
        action_dim=32,
        action_horizon=50,
        cameras=CAMERAS,
        vlm=TransformerConfig(width=2048, mlp_dim=16384, **stack),
        action_expert=TransformerConfig(width=1024, mlp_dim=4096, **stack),
        vision=VisionConfig(width=1152, depth=vision_depth, mlp_dim=4304, num_heads=16, image_size=224, patch_size=14),
        use_peft_prefix_token=True,
    )


def given(a: Architecture, device: torch.device) -> tuple[PolicyInput, Tensor]:
    """One observation without the last camera, and noise."""
    size, length = a.vision.image_size, a.max_token_len
    inputs = PolicyInput(
        tuple(torch.rand(1, 3, size, size, device=device) * 2 - 1 for _ in a.cameras),
        tuple(torch.tensor([camera != CAMERAS[-1]], device=device) for camera in a.cameras),
        torch.randint(1, a.vocab_size, (1, length), device=device),
        torch.arange(length, device=device)[None] < length - 5,
        torch.randn(1, a.action_dim, device=device),
    )
    return inputs, torch.randn(1, a.action_horizon, a.action_dim, device=device)


def measure(a: Architecture, device: torch.device, calls: int) -> dict[str, Any]:
    """Both ways in turn; times in ms include waiting for the GPU."""

    def synchronise() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def milliseconds(call: Callable[[], Tensor]) -> float:
        synchronise()
        start = time.perf_counter()
        call()
        synchronise()
        return (time.perf_counter() - start) * 1e3

    torch.manual_seed(0)
    with device:
        model = Pi0(a).eval().requires_grad_(False)
    to_bfloat16(model)
    sampler = FastSampler(model, padded=True)
    inputs, noise = given(a, device)
    ways: dict[str, Callable[[], Tensor]] = {
        "fast": lambda: sampler(inputs, noise, NUM_STEPS),
        "readable": lambda: model.sample_actions(inputs, noise, NUM_STEPS),
    }
    first_ms = milliseconds(ways["fast"])
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(WARM_UP + calls):
        for name, call in ways.items():
            times[name].append(milliseconds(call))
    exact = ways["readable"]()
    found: dict[str, Any] = {
        f"{name}_ms": {f"p{percent}": percentile(values[WARM_UP:], percent) for percent in (50, 95, 99)}
        for name, values in times.items()
    }
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return found | {
        "first_call_ms": first_ms,
        "relative_difference": float((ways["fast"]() - exact).norm() / exact.norm()),
        "weights_gb": weights / 1e9,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None,
    }


def main(
    device: Annotated[str, typer.Option(help="cuda, or cpu to try the script.")] = "cuda",
    calls: Annotated[int, typer.Option(min=1)] = 100,
    depth: Annotated[int, typer.Option(min=1, help="Layers of the VLM and the expert.")] = 18,
    vision_depth: Annotated[int, typer.Option(min=1, help="Layers of SigLIP.")] = 27,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Time `sample_actions` at full size."""
    numbers: dict[str, Any] = {}
    for variant in ("pi0", "pi05"):
        numbers[variant] = measure(architecture(variant, depth, vision_depth), torch.device(device), calls)
        print(variant, numbers[variant], flush=True)
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    machine.write(json_file, numbers)


if __name__ == "__main__":
    typer.run(main)
